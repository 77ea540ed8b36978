"""Mistakes that ports of a layer contain, each made in torch's layer to see whether that is what JAX has."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from jaxloss.testing._result import Arrays
from jaxloss.testing.diagnosis.factors import common_factor, number
from jaxloss.testing.diagnosis.torch_layers import activations
from jaxloss.testing.layers._numbers import Rotary, norms
from jaxloss.testing.layers._visits import Key


@dataclass(frozen=True)
class Change:
    """A mistake in words, and what to change in torch's layer to make it.

    Args:
        words: to say.
        params: in place of the layer's own, by name.
        outputs: by call, what becomes of the output of a layer inside it, of its first input.
        forced: in place of what the shared layers inside it are made to return.
        inputs: in place of the layer's own, recorded ones.
        values: what the layer then makes, where that is known without running it.
    """

    words: str
    params: dict[str, np.ndarray] = field(default_factory=dict)
    outputs: dict[Key, Callable[[Any, Any], Any]] = field(default_factory=dict)
    forced: dict[Key, Any] = field(default_factory=dict)
    inputs: Any = None
    values: Arrays | None = None


@dataclass(frozen=True)
class Scene:
    """A layer and what it was seen to do.

    Args:
        given: its first input.
        ours: what JAX's makes, by name.
        theirs: what torch's makes.
        params: of torch's layer, those of the shared layers inside it left out.
        our_params: of JAX's.
        returned: what the shared layers inside it return, by torch's key.
        own: torch's keys of layers inside it that JAX does not have, with input and output.
        handed: what these are handed.
        others: all weights of torch's model by name.
        inputs: all of torch's inputs, as they were recorded.
        failing: names of what the two make differently.
        rtol: relative error that rounding may make.
    """

    given: np.ndarray | None
    ours: Arrays
    theirs: Arrays
    params: Arrays
    our_params: Arrays
    returned: Mapping[Key, np.ndarray]
    own: Mapping[Key, tuple[np.ndarray, np.ndarray]]
    handed: Mapping[Key, np.ndarray]
    others: Arrays
    inputs: Any
    failing: tuple[str, ...]
    rtol: float


def changes(scene: Scene) -> Iterator[Change]:
    """What is worth trying, the plainest first."""
    for hypothesis in (
        _weights,
        _bypassed,
        _residual,
        _scaled,
        _norm,
        _rotary,
        _activation,
        _swapped,
        _dropout,
    ):
        yield from hypothesis(scene)


def _weights(scene: Scene) -> Iterator[Change]:
    """JAX's own weights are other numbers."""
    replaced, said = {}, []
    for name, theirs in scene.params.items():
        for own, ours in scene.our_params.items():
            fits = [x for x in (ours, ours.T) if x.shape == theirs.shape]
            if not fits or any(np.array_equal(x, theirs) for x in fits) or not _same_kind(own, name):
                continue
            replaced[name] = fits[0] if own.split("/")[-1] != "kernel" or len(fits) < 2 else ours.T
            origin = [
                n for n, x in scene.others.items() if np.array_equal(np.sort(x, None), np.sort(ours, None))
            ]
            is_known = origin and not np.array_equal(np.sort(theirs, None), np.sort(ours, None))
            said.append(f"{own} is torch's {origin[0]}" if is_known else f"{own} is not torch's {name}")
    if replaced:
        words = f"other weights: JAX's {'; '.join(said)}"
        yield Change(words, params=replaced)


def _same_kind(ours: str, theirs: str) -> bool:
    return (ours.split("/")[-1] == "bias") == (theirs.split(".")[-1] == "bias")


def _residual(scene: Scene) -> Iterator[Change]:
    """An array that is added once too seldom or too often."""
    arrays = {f"what {key[0]} returns": x for key, x in scene.returned.items()}
    if scene.given is not None:
        arrays["its own input"] = scene.given
    for what, array in arrays.items():
        if array.dtype.kind != "f" or any(scene.theirs[name].shape != array.shape for name in scene.failing):
            continue
        for sign, words in (
            (-1, f"missing residual: JAX does not add {what}"),
            (1, f"JAX adds {what} once more"),
        ):
            changed = {name: scene.theirs[name] + sign * array for name in scene.failing}
            yield Change(words, values={**scene.theirs, **changed})


def _bypassed(scene: Scene) -> Iterator[Change]:
    """One array handed on where another belongs: a layer left out, or the wrong branch."""
    arrays = {f"what {key[0]} is handed": x for key, x in scene.handed.items()}
    arrays |= {f"what {key[0]} returns": x for key, x in scene.returned.items()}
    if scene.given is not None:
        arrays["its own input"] = scene.given
    for what, array in arrays.items():
        if len(scene.failing) == 1 and scene.theirs[scene.failing[0]].shape == array.shape:
            place = scene.failing[0].removeprefix("value").strip(" []'").removeprefix("input of ")
            words = f"wrong branch: JAX {f'hands {place}' if place else 'returns'} {what}"
            yield Change(words, values={**scene.theirs, scene.failing[0]: array})


def _norm(scene: Scene) -> Iterator[Change]:
    """Another kind of norm."""
    if scene.given is None or scene.given.dtype.kind != "f" or scene.returned or len(scene.ours) != 1:
        return
    (ours,), (theirs,) = scene.ours.values(), scene.theirs.values()
    words = norms(scene.given, ours, theirs, scene.params, scene.rtol)
    if words is not None:
        yield Change(words, values=scene.ours)


def _rotary(scene: Scene) -> Iterator[Change]:
    """Rotary embeddings of another base, direction, or pairing of entries."""
    try:
        rotary = Rotary(scene.inputs)
    except LookupError:
        return
    for words, inputs in rotary.others():
        yield Change(words, inputs=inputs)
    order = np.concatenate([np.arange(0, rotary.width, 2), np.arange(1, rotary.width, 2)])

    def paired(x: np.ndarray) -> np.ndarray:
        return x.reshape(*x.shape[:-1], -1, rotary.width)[..., order].reshape(x.shape)

    heads = {key: x for key, x in scene.returned.items() if x.shape[-1] % rotary.width == 0}
    for chosen in itertools.combinations(heads, 2):
        words = "rotary interleaving: JAX turns neighbours (2i, 2i + 1), torch halves (i, i + width / 2)"
        yield Change(words, forced={key: paired(heads[key]) for key in chosen})


def _scaled(scene: Scene) -> Iterator[Change]:
    """A factor on one of the arrays that the layer makes."""
    arrays = [*scene.returned.values(), *scene.theirs.values(), *scene.params.values()]
    sizes = sorted({size for x in arrays for size in x.shape if size > 4})
    for name, ours in scene.ours.items():
        theirs = scene.theirs[name]
        factor = common_factor({name: ours}, {name: theirs}, "float32")
        if factor is None or factor == 1.0 or theirs.size < 2:
            continue
        known = {f"1/sqrt({n})": n**-0.5 for n in sizes} | {f"sqrt({n})": n**0.5 for n in sizes}
        named = next((words for words, x in known.items() if np.isclose(factor, x, rtol=1e-6, atol=0)), None)
        words = f"scale: JAX is {number(factor)} times torch{f', and that is {named}' if named else ''}"
        yield Change(words, values={**scene.theirs, name: theirs * factor})


def _activation(scene: Scene) -> Iterator[Change]:
    """Another function where torch has an activation module."""
    import torch

    for key, (x, y) in scene.own.items():
        if x.shape != y.shape or x.dtype.kind != "f":
            continue
        forms = activations()
        made = {words: function(torch.tensor(x)).numpy() for words, function in forms.items()}
        present = next((words for words, z in made.items() if np.allclose(z, y, rtol=1e-9, atol=1e-12)), None)
        for words, function in forms.items():
            if present and words != present:
                trap = "GELU variant" if "GELU" in words and "GELU" in present else "activation"
                said = f"{trap}: JAX's is {words}, torch's {present} ({key[0]})"
                yield Change(said, outputs={key: partial(_of_input, function)})


def _of_input(function: Callable[[Any], Any], x: Any, y: Any) -> Any:
    return function(x)


def _swapped(scene: Scene) -> Iterator[Change]:
    """Two layers inside it in each other's place."""
    returned = list(scene.returned.items())
    for i, (first, a) in enumerate(returned):
        for second, b in returned[i + 1 :]:
            if a.shape == b.shape:
                yield Change(f"swapped: {first[0]} and {second[0]}", forced={first: b, second: a})


def _dropout(scene: Scene) -> Iterator[Change]:
    """Zeros at random in JAX, and the rest larger."""
    for name, ours in scene.ours.items():
        theirs = scene.theirs[name]
        dropped = (ours == 0) & (theirs != 0)
        share = dropped.mean() if dropped.size else 0.0
        if 0 < share < 1:
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.median((ours / theirs)[~dropped & (theirs != 0)])
            words = (
                f"dropout is on in JAX: {share:.0%} of the values are 0, the others {ratio:.4g} times torch's"
            )
            yield Change(words, values={**scene.theirs, name: np.where(dropped, 0.0, theirs * ratio)})
