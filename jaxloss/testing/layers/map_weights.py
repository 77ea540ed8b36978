"""Find out which of torch's weights each of a JAX model's is."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import jax

from jaxloss.interop import is_module, to_numpy
from jaxloss.testing.inputs import cast, draw_inputs
from jaxloss.testing.layers._jax_model import make_jax_model
from jaxloss.testing.layers._judge import Trial, judge_values, judge_whole
from jaxloss.testing.layers._match import match_calls
from jaxloss.testing.layers._torch_model import TorchModel
from jaxloss.testing.layers._visits import Record
from jaxloss.testing.layers._weights import is_square_kernel, pair_by_name, statistic
from jaxloss.testing.layers.weight_map import Source, WeightMap

Sources = dict[str, Source]


def map_weights(
    torch_module: Any,
    params: Any,
    *inputs: Any,
    jax_model: Any = None,
    jax_kwargs: Mapping[str, Any] | None = None,
    torch_kwargs: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> WeightMap:
    """Map a torch module's weights to a JAX model's parameters, without a name written by hand.

    Names and shapes say which is which: transposed kernels, parts of a fused projection, blocks stacked along
    an axis, tied weights. With `jax_model` and inputs, both models are run on it, every layer handed torch's
    own input: what does not give torch's output is turned, or exchanged with one of its shape, until all do.
    Torch's numbers are stirred for that, so that two equal norms are told apart.

    Args:
        torch_module: in evaluation mode; it is left as it is.
        params: a tree of dicts, such as a new model's parameters: names and shapes count, and no number.
        *inputs: arrays or specs, to run both models with.
        jax_model: a Linen module, or a function of parameters and inputs in which `tap` names the layers.
        jax_kwargs: keyword arguments for the JAX model alone.
        torch_kwargs: the same for torch.
        seed: of random inputs.

    Returns:
        The mapping, with the parameters filled; `.text()` is a dict to paste. What stays open is listed.

    Raises:
        TypeError: `torch_module` is no module, or `params` no tree of dicts.
        ValueError: a model is given without inputs, or inputs without a model.

    >>> import torch
    >>> import numpy as np
    >>> mapped = map_weights(torch.nn.Linear(3, 2), {"kernel": np.zeros((3, 2)), "bias": np.zeros(2)})
    >>> print(mapped.text())
    weights = {
        "bias": lambda w: w["bias"],
        "kernel": lambda w: w["weight"].T,
    }
    # not checked: no layer was run
    """
    if not is_module(torch_module):
        raise TypeError(f"torch_module must be an nn.Module; got {type(torch_module).__name__}")
    if not isinstance(params, Mapping) or not params:
        raise TypeError(f"params must be a tree of dicts with arrays; got {type(params).__name__}")
    if (jax_model is None) == bool(inputs):
        raise ValueError(f"jax_model and inputs go together; got no {'jax_model' if inputs else 'inputs'}")
    if type(params).__module__.startswith("flax.nnx"):
        from flax import nnx

        state: Any = params
        params = nnx.to_pure_dict(state)
    paths, treedef = jax.tree_util.tree_flatten_with_path(params)
    for path, leaf in paths:
        if not hasattr(leaf, "shape"):
            raise TypeError(f"params must hold arrays; got {type(leaf).__name__} at {_path(path)}")
    ours = {_path(path): tuple(leaf.shape) for path, leaf in paths}
    weights = {name: to_numpy(x.detach()) for name, x in torch_module.named_parameters()}
    if any(map(statistic, ours)):
        weights |= {name: to_numpy(x) for name, x in torch_module.named_buffers() if statistic(name)}
    sources, rivals, missing, unused = pair_by_name(ours, {name: x.shape for name, x in weights.items()})
    _use_tied(torch_module, ours, sources, missing)
    is_checked = False
    agreeing: set[str] = set()
    wrong: set[str] = set()
    if jax_model is not None and not missing:
        given = cast(draw_inputs(inputs, seed), "float64")
        theirs = TorchModel(torch_module, "float64", dict(torch_kwargs or {}))
        theirs.stir(seed)
        search = _Search(jax_model, theirs, given, treedef, list(ours), dict(jax_kwargs or {}))
        sources, agreeing, wrong = search.best(sources)
        is_checked = not wrong
    filled = {path: source.of(weights) for path, source in sources.items()}
    leaves = [filled.get(_path(path), leaf) for path, leaf in paths]
    return WeightMap(
        sources,
        jax.tree.unflatten(treedef, leaves),
        is_checked,
        () if is_checked else tuple(_open(sources, rivals, ours, agreeing)),
        tuple(missing),
        tuple(unused),
        tuple(sorted(wrong)),
    )


class _Search:
    """Run the mapped model, and change the mapping until every layer agrees."""

    def __init__(
        self,
        model: Any,
        theirs: TorchModel,
        inputs: Any,
        treedef: Any,
        paths: list[str],
        kwargs: dict[str, Any],
    ) -> None:
        self._model, self._theirs, self._inputs, self._kwargs = model, theirs, inputs, kwargs
        self._treedef, self._paths = treedef, paths
        self._record = Record()
        theirs.run(self._record, inputs)
        self._compared: set[str] = set()
        buffers = {name: to_numpy(x) for name, x in theirs.module.named_buffers() if statistic(name)}
        self._weights = buffers | theirs.parameters("")

    def best(self, sources: Sources) -> tuple[Sources, set[str], set[str]]:
        """The mapping with the fewest layers that disagree, the layers that agree, and those that do not."""
        failing = self._failing(sources)
        for change in (self._turned, self._exchanged):
            for changed in change(sources, failing):
                if not failing:
                    break
                found = self._failing(changed)
                if len(found) < len(failing):
                    # What is exchanged next is looked for among what is still wrong.
                    sources, failing = changed, found
        wrong = {entry.partition(" ")[2].rpartition(",")[0] or "(output)" for entry in failing}
        return sources, self._compared - wrong, wrong

    def _failing(self, sources: Sources) -> set[str]:
        """Names of JAX's layers that disagree: one by itself, or one that is handed something else."""
        filled = [sources[path].of(self._weights) for path in self._paths]
        ours = make_jax_model(self._model, jax.tree.unflatten(self._treedef, filled), "float64", self._kwargs)
        run = Record()
        ours.run(run, self._inputs)
        known = [{name for name, _ in record.calls} for record in (run, self._record)]
        names = {a: b for a, b in _layers(sources).items() if a in known[0] and b in known[1]}
        calls = run.calls, self._record.calls
        matches = match_calls(*calls, ours.parameters, self._theirs.parameters, names)
        self._compared = {match.ours.key[0] for match in matches}
        trial = Trial(ours, self._theirs, self._inputs, matches, False, 0)
        failing = {
            f"{kind} {key[0]}, {key[1]}" for (kind, key), c in judge_values(trial).items() if not c.passed
        }
        return failing or (set() if judge_whole(trial).passed else {"output , 0"})

    def _turned(self, sources: Sources, failing: set[str]) -> Any:
        """Square kernels of layers whose own output is wrong, the other way round."""
        wrong = {
            entry.removeprefix("output ").split(",")[0] for entry in failing if entry.startswith("output")
        }
        square = {
            path: replace(source, axes=None if source.axes else (1, 0))
            for path, source in sources.items()
            if _layer_of(path) in wrong
            and len(shape := self._weights[source.names[0]].shape) == 2
            and shape[0] == shape[1]
        }
        yield {**sources, **square}

    def _exchanged(self, sources: Sources, failing: set[str]) -> Any:
        """Layers of equal shapes that have changed places, those of every block at once."""
        current = sources
        by_layer: dict[str, dict[str, str]] = {}
        for path in sources:
            layer, _, leaf = path.rpartition("/")
            by_layer.setdefault(layer, {})[leaf] = path
        pairs = [
            (a, b)
            for a, b in itertools.combinations(by_layer, 2)
            if by_layer[a].keys() == by_layer[b].keys()
            and _numbers_of(a) == _numbers_of(b)
            and all(self._fit(sources, by_layer[a][leaf], by_layer[b][leaf]) for leaf in by_layer[a])
        ]
        seen = set()
        # Those that are handed something else first.
        for a, b in sorted(pairs, key=lambda pair: -sum(f"input {name}, 0" in failing for name in pair)):
            pattern = _pattern(a), _pattern(b)
            if pattern in seen:
                continue
            seen.add(pattern)
            swapped = dict(current)
            for c, d in pairs:
                if (_pattern(c), _pattern(d)) == pattern:
                    for leaf in by_layer[c]:
                        first, second = by_layer[c][leaf], by_layer[d][leaf]
                        swapped[first], swapped[second] = current[second], current[first]
            before = len(self._failing(current))
            if len(self._failing(swapped)) < before:
                current = swapped
            yield current

    def _fit(self, sources: Sources, a: str, b: str) -> bool:
        return sources[a].of(self._weights).shape == sources[b].of(self._weights).shape


def _open(
    sources: Sources, rivals: dict[str, list[str]], ours: dict[str, tuple[int, ...]], agreeing: set[str]
) -> Iterator[str]:
    """What neither a name, nor a shape, nor a layer's output has decided."""
    for path, source in sources.items():
        name = source.names[0]
        if _layer_of(path) in agreeing:
            continue
        if path in rivals:
            others = ", ".join(other for other in rivals[path] if other != name)
            yield f"{path} is {name} by its name alone; also of its shape: {others}"
        if is_square_kernel(path, ours[path]):
            yield f"{path} is square: whether {name} is to be transposed, its shape does not say"


def _layer_of(path: str) -> str:
    """The layer that an array belongs to; the name of a collection of Linen's is no part of it."""
    return path.rpartition("/")[0].removeprefix("params/").removeprefix("batch_stats/")


def _layers(sources: Sources) -> dict[str, str]:
    """JAX's layers by their paths, and torch's by name, where one's parameters are one's."""
    found: dict[str, set[str]] = {}
    for path, source in sources.items():
        if source.join is None and source.part is None:
            found.setdefault(_layer_of(path), set()).add(source.names[0].rpartition(".")[0])
    return {layer: names.pop() for layer, names in found.items() if len(names) == 1 and layer}


def _use_tied(module: Any, ours: dict[str, Any], sources: Sources, missing: list[str]) -> None:
    """A second name of a tied parameter, for an array of JAX's that nothing else is for."""
    first = {id(x): name for name, x in module.named_parameters()}
    every = {name: x for name, x in module.named_parameters(remove_duplicate=False)}
    tied = {name: tuple(x.shape) for name, x in every.items() if first[id(x)] != name}
    found = pair_by_name({path: ours[path] for path in missing}, tied)[0]
    for path, source in found.items():
        sources[path] = replace(source, names=tuple(first[id(every[name])] for name in source.names))
        missing.remove(path)


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _numbers_of(name: str) -> list[str]:
    """A block's number; that of the layer itself, as in `Dense_0`, is part of its name."""
    around = name.rpartition("/")[0]
    return [c for c in around.replace("/", "_").split("_") if c.isdigit()][:1]


def _pattern(name: str) -> str:
    around, slash, own = name.rpartition("/")
    return "".join("#" if c.isdigit() else c for c in around) + slash + own
