"""Compare a JAX model with a torch model, layer by layer."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from jaxloss._checks import check_choice
from jaxloss.testing.inputs import cast, check_finite, draw_inputs
from jaxloss.testing.layers._causes import cause_of_gradients, cause_of_values
from jaxloss.testing.layers._jax_model import make_jax_model
from jaxloss.testing.layers._judge import Trial, judge_gradients, judge_values, judge_whole
from jaxloss.testing.layers._match import Match, match_calls, nearest
from jaxloss.testing.layers._runs import Arrays, Event, free_gradients
from jaxloss.testing.layers._torch_model import TorchModel
from jaxloss.testing.layers._visits import ROOT, Key, Record
from jaxloss.testing.layers.report import Fault, LayerRow, LayersReport
from jaxloss.testing.measure import difference
from jaxloss.testing.report import Comparison

# Each cause takes some dozens of runs of one torch layer.
_MAX_CAUSES = 8


def compare_layers(
    jax_model: Any,
    torch_module: Any,
    *inputs: Any,
    params: Any = None,
    jax_kwargs: Mapping[str, Any] | None = None,
    torch_kwargs: Mapping[str, Any] | None = None,
    names: Mapping[str, str] | None = None,
    gradients: bool = True,
    dtype: str = "float64",
    seed: int = 0,
) -> LayersReport:
    """Compare every layer that two models share, and name the first that has an error of its own.

    Both run twice. As they are, which shows what a user sees. And with torch's input handed to each layer of
    both, and torch's output to its caller: what then differs is the work of that layer alone. Gradients go
    through the same two runs.

    Layers are paired by name, then by their weights, then by size and order. One that only one side has, and
    what runs inside `vmap`, `scan` or `checkpoint`, is compared as a part of the layer around it.

    Args:
        jax_model: a Linen, NNX or Equinox module, or a function in which `tap` names the layers.
        torch_module: in evaluation mode. It is left as it is, and so is the JAX model.
        *inputs: arrays, or specs such as `integers(2, 8, high=50)`, for both models.
        params: the parameters of a Linen module, or of a function as its first argument; an `nnx.State`
            instead of a model's own. All of a module's collections, if "params" is among them.
        jax_kwargs: keyword arguments for the JAX model alone, such as `deterministic`.
        torch_kwargs: the same for torch, such as `use_cache`.
        names: JAX's name of a layer to torch's, where the two cannot be told.
        gradients: whether to compare those of activations as well. Those of parameters are not compared.
        dtype: "float64", which tells a fault from rounding best, or "float32" for a model bound to it.
        seed: of random inputs and cotangents.

    Returns:
        The report; `.text()` is a table down the model, the faults on top.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: a layer named does not exist, the torch module is in training mode or on several devices,
            an input holds NaN, or a layer's array is NaN or infinite in both models.

    >>> import flax.linen as nn, jax.numpy as jnp, torch
    >>> from jaxloss.testing import normal
    >>> class Net(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x):
    ...         return nn.Dense(2, name="head")(nn.LayerNorm(name="norm")(x))
    >>> class TorchNet(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.norm, self.head = torch.nn.LayerNorm(3), torch.nn.Linear(3, 2)
    ...
    ...     def forward(self, x):
    ...         return self.head(self.norm(x))
    >>> net = TorchNet()
    >>> head = {"kernel": net.head.weight.detach().T, "bias": net.head.bias.detach()}
    >>> params = {"norm": {"scale": jnp.ones(3), "bias": jnp.zeros(3)}, "head": head}
    >>> report = compare_layers(Net(), net, normal(4, 3), params=params)
    >>> report.passed, report.faults[0].layer, report.faults[0].cause
    (False, 'norm', "LayerNorm eps: JAX's is 1e-06, torch's 1e-05")
    """
    check_choice("dtype", dtype, ("float64", "float32"))
    if not inputs:
        raise ValueError("inputs must hold at least one array or spec to run the models with; got none")
    given = cast(draw_inputs(inputs, seed), dtype)
    check_finite(given)
    ours = make_jax_model(jax_model, params, dtype, jax_kwargs or {})
    theirs = TorchModel(torch_module, dtype, dict(torch_kwargs or {}))
    runs = _record(ours, given), _record(theirs, given)
    if shared := tuple(key for key in runs[1].keys if key in runs[0].keys):
        ours, theirs.keys = replace(ours, keys=shared), shared
        runs = _record(ours, given), _record(theirs, given)
    calls = runs[0].calls
    matches = match_calls(calls, runs[1].calls, ours.parameters, theirs.parameters, names or {})
    trial = Trial(ours, theirs, given, matches, gradients, seed)
    by_key = {match.ours.key: match for match in matches}
    around = {key: nearest(calls[key].parent, calls, by_key.__contains__) for key in by_key if key != ROOT}
    unlike = {
        key
        for key, m in by_key.items()
        if m.inputs is None and not (m.ours.given is None or m.theirs.given is None)
    }
    # What has another input than torch's says nothing by its output.
    values = {e: c for e, c in judge_values(trial).items() if e[0] == "input" or e[1] not in unlike}
    backward = judge_gradients(trial) if gradients else {}
    faults = _Faults(trial, by_key, around, runs[1].calls)
    found = [*faults.of_shapes(), *faults.of_values(values)]
    found += [] if found else faults.of_gradients(backward)
    return LayersReport(
        f"{ours.name} against {theirs.name}",
        dtype,
        tuple(_rows(trial, around, values, backward, {fault.layer for fault in found})),
        tuple(found),
        judge_whole(trial),
        _others(runs[0], {match.ours.key[0] for match in matches}),
        _others(runs[1], {match.theirs.key[0] for match in matches}),
        tuple(_not_compared(matches)),
    )


def _record(model: Any, inputs: Any) -> Record:
    run = Record()
    model.run(run, inputs)
    if ROOT not in run.calls:
        raise TypeError(f"{model.name} must return an array, or a container of arrays")
    if not run.calls[ROOT].output.size:
        raise ValueError(f"inputs must make {model.name} return numbers to compare; got an empty array")
    return run


def _others(run: Record, shared: set[str]) -> tuple[str, ...]:
    """Layers of one side that have no counterpart, or no values to see."""
    return tuple(
        name for name in dict.fromkeys([*(n for n, _ in run.calls), *run.unseen]) if name not in shared
    )


def _not_compared(matches: list[Match]) -> Iterator[str]:
    """Arrays besides the first that layers take and return, except outputs of both models."""
    for match in matches:
        (name, _), (torch_name, _) = match.ours.key, match.theirs.key
        for side, layer, call, other in (
            ("JAX", name, match.ours, match.theirs),
            ("torch", torch_name, match.theirs, match.ours),
        ):
            at_root = match.ours.key == ROOT
            for place in () if at_root else call.other_inputs:
                yield f"argument {place[3:]} of {layer} in {side}"
            for place in call.other_outputs:
                if not (at_root and place in other.other_outputs):
                    yield f"output {place} of {layer or 'the model'} in {side}"


class _Faults:
    """Errors that layers make themselves, in the words of the report."""

    def __init__(self, trial: Trial, matches: dict[Key, Match], around: dict[Key, Key], calls: Any) -> None:
        self._trial, self._matches, self._around, self._torch_calls = trial, matches, around, calls
        self._num_causes = 0

    def of_shapes(self) -> list[Fault]:
        """Layers whose arrays have other shapes, so that no number can be compared."""
        found = []
        for key, match in self._matches.items():
            shapes = [
                (kind, a.shape, b.shape)
                for kind, a, b, layout in (
                    ("input", match.ours.given, match.theirs.given, match.inputs),
                    ("output", match.ours.output, match.theirs.output, match.outputs),
                )
                if layout is None and a is not None and b is not None
            ]
            for kind, a, b in shapes:
                said = f"{kind} is {list(a)} in JAX and {list(b)} in torch: not compared"
                comparison = Comparison(kind, self._trial.ours.dtype, float("inf"), 0.0, mismatch=said)
                found.append(Fault(key[0], match.theirs.key[0], said, comparison, None))
        return found

    def of_values(self, values: dict[Event, Comparison]) -> list[Fault]:
        """Layers that make something else of the same input; the first in the run comes first."""
        found: dict[Key, Fault] = {}
        for (kind, key), comparison in values.items():
            layer = key if kind == "output" else self._around[key]
            if not comparison.passed and layer not in found:
                where = "its output differs" if kind == "output" else f"what it passes to {key[0]} differs"
                found[layer] = self._fault(layer, where, comparison, cause_of_values, (kind, key))
        return [*found.values()]

    def of_gradients(self, gradients: dict[Event, Comparison]) -> list[Fault]:
        """Layers that pass other gradients back; the last in the run comes first."""
        found: dict[Key, Fault] = {}
        for (kind, key), comparison in reversed(gradients.items()):
            layer = key if kind == "input" else self._around[key]
            if not comparison.passed and layer not in found:
                what = "its input" if kind == "input" else f"what {key[0]} returns"
                where = f"its values agree, and its gradient of {what} differs"
                found[layer] = self._fault(layer, where, comparison, cause_of_gradients, (kind, key))
        return [*found.values()]

    def _fault(self, layer: Key, where: str, comparison: Comparison, explain: Any, event: Event) -> Fault:
        cause = None
        match = self._matches[layer]
        if self._num_causes < _MAX_CAUSES:
            self._num_causes += 1
            inside = [self._matches[key] for key, outer in self._around.items() if outer == layer]
            cause = explain(self._trial, match, inside, self._torch_calls, event)
        return Fault(layer[0], match.theirs.key[0], where, comparison, cause)


def _rows(
    trial: Trial,
    around: dict[Key, Key],
    values: dict[Event, Comparison],
    backward: dict[Event, Comparison],
    faulty: set[str],
) -> list[LayerRow]:
    free: tuple[Arrays, Arrays] = ({}, {})
    if trial.gradients:
        root = next(match for match in trial.matches if match.ours.key == ROOT)
        if root.outputs is not None:
            free = free_gradients(
                trial.ours, trial.theirs, trial.inputs, trial.matches, trial.cotangents["output", ROOT]
            )
    rows = []
    for match in trial.matches:
        key, unit = match.ours.key, trial.ours.dtype
        own = [
            values.get(("output", key)),
            *(values.get(("input", k)) for k, outer in around.items() if outer == key),
        ]
        back = [
            backward.get(("input", key)),
            *(backward.get(("output", k)) for k, o in around.items() if o == key),
        ]
        theirs = match.torch_output
        gradient = [side.get(("output", key)) for side in free]
        rows.append(
            LayerRow(
                key[0] if key[1] == 0 else f"{key[0]}, call {key[1] + 1}",
                match.theirs.key[0],
                match.ours.output.shape,
                None if theirs is None else difference(match.ours.output, theirs, unit).eps_of_max,
                max((c.error for c in own if c is not None), default=None),
                None if gradient[0] is None else difference(gradient[0], gradient[1], unit).eps_of_max,
                max((c.error for c in back if c is not None), default=None),
                key[0] in faulty,
            )
        )
    return rows
