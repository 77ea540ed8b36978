"""Mistakes that ports of a layer contain, each made in torch's layer to see whether that is what JAX has."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from jaxloss.testing._result import Arrays
from jaxloss.testing.diagnosis.factors import common_factor, number
from jaxloss.testing.diagnosis.torch_layers import activations
from jaxloss.testing.layers._visits import Key


@dataclass(frozen=True)
class Change:
    """A mistake in words, and what to change in torch's layer to make it.

    Args:
        words: to say.
        params: in place of the layer's own, by name.
        outputs: by call, what becomes of the output of a layer inside it, of its first input.
        forced: in place of what the shared layers inside it are made to return.
        values: what the layer then makes, where that is known without running it.
    """

    words: str
    params: dict[str, np.ndarray] = field(default_factory=dict)
    outputs: dict[Key, Callable[[Any, Any], Any]] = field(default_factory=dict)
    forced: dict[Key, Any] = field(default_factory=dict)
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
        others: all weights of torch's model by name.
    """

    given: np.ndarray | None
    ours: Arrays
    theirs: Arrays
    params: Arrays
    our_params: Arrays
    returned: Mapping[Key, np.ndarray]
    own: Mapping[Key, tuple[np.ndarray, np.ndarray]]
    others: Arrays


def changes(scene: Scene) -> Iterator[Change]:
    """What is worth trying, the plainest first."""
    for hypothesis in (_weights, _residual, _scaled, _activation, _swapped, _dropout):
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
        for name, theirs in scene.theirs.items():
            if array.shape != theirs.shape or array.dtype.kind != "f":
                continue
            for sign, words in (
                (-1, f"missing residual: JAX does not add {what}"),
                (1, f"JAX adds {what} once more"),
            ):
                yield Change(words, values={**scene.theirs, name: theirs + sign * array})


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
