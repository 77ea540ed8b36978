"""Find out which layer of one model is which of the other: by name, by their numbers, by shape and order."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from jaxloss.testing._result import dotted
from jaxloss.testing.layers._visits import ROOT, Call, Key

Calls: TypeAlias = Mapping[Key, Call]
ParametersOf: TypeAlias = Callable[[str], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Layout:
    """How torch lays out an array that JAX lays out in another way."""

    axes: tuple[int, ...] | None = None
    is_squeezed: bool = False

    def to_jax(self, array: np.ndarray) -> np.ndarray:
        """Torch's array as JAX has it."""
        array = array[0] if self.is_squeezed else array
        return array if self.axes is None else np.transpose(array, self.axes)


def layout_of(ours: np.ndarray | None, theirs: np.ndarray | None) -> Layout | None:
    """The layout in which torch's array has JAX's shape; None where there is none.

    A convolution's channels come second in torch and last in JAX; torch may have a batch of one besides. The
    numbers decide where an image has as many channels as pixels.
    """
    if ours is None or theirs is None:
        return None
    found = [*_layouts(ours, theirs)]
    if len(found) < 2 or ours.ndim < 4:
        return found[0] if found else None
    return min(found, key=lambda layout: np.nansum(np.abs(1.0 * ours - layout.to_jax(theirs))))


def _layouts(ours: np.ndarray, theirs: np.ndarray) -> Iterator[Layout]:
    for is_squeezed in (False, True):
        shape = theirs.shape[1:] if is_squeezed and theirs.shape[:1] == (1,) else theirs.shape
        if is_squeezed and theirs.shape[:1] != (1,):
            continue
        if shape == ours.shape:
            yield Layout(None, is_squeezed)
        rank = len(shape)
        for axes in _channels_last(rank):
            if tuple(shape[i] for i in axes) == ours.shape:
                yield Layout(axes, is_squeezed)


def _channels_last(rank: int) -> Iterator[tuple[int, ...]]:
    if rank >= 3:
        yield (0, *range(2, rank), 1)
        yield (*range(1, rank), 0)


@dataclass(frozen=True)
class Match:
    """A layer of both models.

    Args:
        ours: JAX's call.
        theirs: torch's call.
        inputs: the layout of their inputs; None where these cannot be compared.
        outputs: that of their outputs.
    """

    ours: Call
    theirs: Call
    inputs: Layout | None
    outputs: Layout | None

    @property
    def torch_input(self) -> Any:
        """Torch's input as JAX has it; None where they cannot be compared."""
        return None if self.inputs is None else self.inputs.to_jax(self.theirs.given)

    @property
    def torch_output(self) -> Any:
        """Torch's output as JAX has it; None where they cannot be compared."""
        return None if self.outputs is None else self.outputs.to_jax(self.theirs.output)


def match_calls(
    ours: Calls, theirs: Calls, ours_of: ParametersOf, theirs_of: ParametersOf, names: Mapping[str, str]
) -> list[Match]:
    """Pair the calls of both runs, in JAX's order; what has no counterpart is left out.

    Args:
        ours: JAX's calls.
        theirs: torch's.
        ours_of: from a layer's name to its parameters.
        theirs_of: the same in torch.
        names: pairs the caller knows.

    Raises:
        ValueError: such a name is not among the layers.
    """
    our_names, their_names = _names(ours), _names(theirs)
    for given, known, what in ((names, our_names, "JAX"), (names.values(), their_names, "torch")):
        for name in given:
            if name not in known:
                raise ValueError(
                    f"names must pair JAX's layers with torch's; {name!r} is none of {what}'s: "
                    f"{', '.join(known)}"
                )
    pairs = {"": "", **names}
    _by_name(pairs, our_names, their_names)
    _by_numbers(pairs, our_names, their_names, ours_of, theirs_of)
    _by_order(pairs, ours, theirs, ours_of, theirs_of)
    matches = []
    for key, call in ours.items():
        other = theirs.get((pairs.get(call.key[0], "\0"), key[1]))
        if other is not None:
            layouts = layout_of(call.given, other.given), layout_of(call.output, other.output)
            matches.append(Match(call, other, *layouts))
    return matches


def _by_name(pairs: dict[str, str], ours: list[str], theirs: list[str]) -> None:
    """Equal names, then those whose last words are the same, and nothing else's on either side."""
    for num_words in (None, 4, 3, 2, 1):
        by_tail = partial(_tail, num_words=num_words)
        a, b = (_grouped(side, by_tail) for side in _unpaired(pairs, ours, theirs))
        for tail in a.keys() & b.keys() - {None}:
            if len(a[tail]) == len(b[tail]) == 1:
                pairs[a[tail][0]] = b[tail][0]


def _tail(name: str, num_words: int | None) -> Any:
    """The last words of a name with all its numbers, such as a block's; None where it has fewer."""
    parts = dotted(name).lower().split(".")
    if num_words is None:
        return tuple(parts)
    words = [part for part in parts if not part.isdigit()]
    numbers = tuple(part for part in parts if part.isdigit())
    return (numbers, *words[-num_words:]) if len(words) >= num_words else None


def _by_numbers(
    pairs: dict[str, str], ours: list[str], theirs: list[str], ours_of: ParametersOf, theirs_of: ParametersOf
) -> None:
    """Layers that hold the same weights, in whatever layout."""
    left, right = _unpaired(pairs, ours, theirs)
    a, b = _grouped(left, lambda n: _digest(ours_of(n))), _grouped(right, lambda n: _digest(theirs_of(n)))
    for digest in a.keys() & b.keys() - {None}:
        if len(a[digest]) == len(b[digest]) == 1:
            pairs[a[digest][0]] = b[digest][0]


def _by_order(
    pairs: dict[str, str], ours: Calls, theirs: Calls, ours_of: ParametersOf, theirs_of: ParametersOf
) -> None:
    """Layers inside two that are paired: those of as many weights and of one shape, in their order."""
    found = True
    while found:
        found = False
        around, within = _by_parent(ours, pairs.keys()), _by_parent(theirs, pairs.values())
        for name, calls in around.items():
            left = _grouped(calls, partial(_likes, of=ours_of))
            right = _grouped(within.get(pairs[name], []), partial(_likes, of=theirs_of))
            for likes in left.keys() & right.keys() - {None}:
                if len(left[likes]) == len(right[likes]):
                    pairs.update({a.key[0]: b.key[0] for a, b in zip(left[likes], right[likes], strict=True)})
                    found = True


def _likes(call: Call, of: ParametersOf) -> Any:
    """What a layer has in common with its like: as many weights, and numbers out; None without weights."""
    weights = sum(x.size for x in of(call.key[0]).values())
    return (weights, call.output.size) if weights else None


def _by_parent(calls: Calls, paired: Any) -> dict[str, list[Call]]:
    """First calls of the layers without a counterpart, in order, under the nearest layer that has one.

    One around a layer with a counterpart is left out: it is no more than a name for some of them.
    """
    known = set(paired)
    around = set()
    for key, call in calls.items():
        parent = call.parent if key[0] in known else None
        while parent is not None:
            around.add(parent)
            parent = calls[parent].parent if parent in calls else None
    found: dict[str, list[Call]] = defaultdict(list)
    for key, call in calls.items():
        if key[0] not in known and key not in around and key[1] == 0:
            found[nearest(call.parent, calls, lambda key: key[0] in known)[0]].append(call)
    return found


def nearest(key: Key | None, calls: Calls, is_wanted: Callable[[Key], bool]) -> Key:
    """The layer itself if it is wanted, or else the closest one around it that is."""
    while key is not None and not is_wanted(key):
        key = calls[key].parent if key in calls else None
    return ROOT if key is None else key


def _digest(parameters: Mapping[str, np.ndarray]) -> bytes | None:
    """The same for the same numbers in any order; None where there are none, or too few to tell."""
    values = [np.ravel(np.asarray(x, np.float64)) for x in parameters.values()]
    flat = np.sort(np.concatenate(values)) if values else np.zeros(0)
    return flat.tobytes() if np.unique(flat).size > 4 else None


def _unpaired(pairs: dict[str, str], ours: list[str], theirs: list[str]) -> tuple[list[str], list[str]]:
    taken = set(pairs.values())
    return [n for n in ours if n not in pairs], [n for n in theirs if n not in taken]


def _grouped(entries: list[Any], by: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    groups: dict[Any, list[Any]] = defaultdict(list)
    for entry in entries:
        groups[by(entry)].append(entry)
    return groups


def _names(calls: Calls) -> list[str]:
    return list(dict.fromkeys(name for name, _ in calls))
