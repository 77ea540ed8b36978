"""What a loss is called with: the four usual kinds of predictions and targets, or a spec of one's own.

Shapes: N examples, C classes, M points along a line.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np

from jaxloss._checks import check_choice, check_number, describe

NUM_CLASSES, MOST_CLASSES = 4, 100

Arguments = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class InputSpec:
    """How to draw the arguments of a loss, whose first axis is that of the examples.

    Args:
        draw: called with a numpy generator and N; returns the arguments in their order, numpy arrays of N
            examples: float64, or integers as they are. Predictions are of the size at which training begins.
        wrt: index of the argument that is differentiated; several, of one shape, are given together.
        low: the predictions' smallest possible entry, such as 0 of a probability.
        high: the largest.
        line: arguments with M examples whose margins are the M numbers it is called with; by default, the
            first entry of the first example that `draw` returns is the margin.
        corners: called with a size; returns arguments of that size where arithmetic goes wrong, such as all
            entries equal, one entry large, opposite signs; by default, what `draw` returns with entries
            replaced.
        margin: what the margin is, for the picture.
        name: of the kind.

    Attributes:
        kind: "classes", "yes_no", "real" or "pairs", by which the checks know what predictions and targets
            mean; None of one's own.
    """

    draw: Callable[[np.random.Generator, int], Arguments]
    wrt: int | tuple[int, ...] = 0
    low: float = -np.inf
    high: float = np.inf
    line: Callable[[np.ndarray], Arguments] | None = None
    corners: Callable[[float], Arguments] | None = None
    margin: str = "first entry of the prediction"
    name: str = "inputs of your own"
    kind: str | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not callable(self.draw):
            raise TypeError(
                f"draw must be a function of a generator and a number of examples; got {self.draw!r}."
            )
        if not self.low < self.high:
            raise ValueError(f"low must be below high; got {self.low} and {self.high}.")


def as_spec(kind: str | InputSpec) -> InputSpec:
    """The spec of a kind by its name, or the user's own."""
    if isinstance(kind, InputSpec):
        _check_drawn(kind)
        return kind
    counted = re.fullmatch(r"([1-9]\d*) classes", str(kind))
    if counted:
        number = check_number("number of classes in kind", int(counted[1]), low=2, high=MOST_CLASSES)
        return of_classes(int(number))
    check_choice("kind", kind, (*KINDS, "10 classes"))
    return KINDS[kind]


def _check_drawn(spec: InputSpec) -> None:
    """Raise unless `draw` returns arrays of the examples asked for, and `wrt` is right."""
    num = 3
    try:
        drawn = spec.draw(np.random.default_rng(0), num)
    except Exception as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"kind must draw arguments of {num} examples; its draw raised {said}.") from error
    if not isinstance(drawn, tuple) or any(np.shape(array)[:1] != (num,) for array in drawn):
        given = str([np.shape(a) for a in drawn]) if isinstance(drawn, tuple) else type(drawn).__name__
        raise ValueError(
            f"draw must return a tuple of arrays of {num} examples when called with {num}; got {given}."
        )
    chosen = (spec.wrt,) if isinstance(spec.wrt, int) else tuple(spec.wrt)
    if not chosen or not set(chosen) <= set(range(len(drawn))):
        raise ValueError(
            f"wrt must be in [0, {len(drawn)}), the arguments that draw returns; got {spec.wrt}."
        )
    if len({np.shape(drawn[i]) for i in chosen}) > 1 or any(drawn[i].dtype != np.float64 for i in chosen):
        given = ", ".join(describe(drawn[i]) for i in chosen)
        raise ValueError(f"wrt must name arguments of one shape and of float64; got {given}.")


@cache
def of_classes(num_classes: int) -> InputSpec:
    """Logits [N, num_classes] and labels [N]."""
    return _known(
        "classes",
        partial(_draw_classes, num_classes),
        line=partial(_class_line, num_classes),
        corners=partial(_class_corners, num_classes),
        margin="logit of the label, others 0",
        name="classes" if num_classes == NUM_CLASSES else f"{num_classes} classes",
    )


def _known(kind: str, draw: Callable[[np.random.Generator, int], Arguments], **options: Any) -> InputSpec:
    """A spec of whose inputs the checks know what they mean."""
    spec = InputSpec(draw, **{"name": kind} | options)
    object.__setattr__(spec, "kind", kind)
    return spec


def _draw_classes(num_classes: int, rng: np.random.Generator, num: int) -> Arguments:
    return rng.standard_normal((num, num_classes)), rng.integers(0, num_classes, num).astype(np.int32)


def _class_line(num_classes: int, margin: np.ndarray) -> Arguments:
    logits = np.zeros((len(margin), num_classes))
    logits[:, 0] = margin
    return logits, np.zeros(len(margin), np.int32)


def _class_corners(num_classes: int, size: float) -> Arguments:
    varied = min(num_classes, NUM_CLASSES)
    signs = np.array(list(itertools.product((-1.0, 0.0, 1.0), repeat=varied)))
    rows = np.pad(signs * size, ((0, 0), (0, num_classes - varied)))
    return rows, np.zeros(len(rows), np.int32)


def _draw_yes_no(rng: np.random.Generator, num: int) -> Arguments:
    return rng.standard_normal(num), rng.integers(0, 2, num).astype(np.float64)


def _yes_no_corners(size: float) -> Arguments:
    return np.array([size, -size, size, -size, 0.0, 0.0]), np.array([1.0, 1.0, 0.0, 0.0, 0.0, 1.0])


def _draw_real(rng: np.random.Generator, num: int) -> Arguments:
    return rng.standard_normal(num), rng.standard_normal(num)


def _real_corners(size: float) -> Arguments:
    pairs = np.array(list(itertools.product((-1.0, 0.0, 1.0), repeat=2))) * size
    return pairs[:, 0], pairs[:, 1]


def _line_against_zero(margin: np.ndarray) -> Arguments:
    return margin, np.zeros_like(margin)


KINDS = {
    "classes": of_classes(NUM_CLASSES),
    "yes_no": _known(
        "yes_no",
        _draw_yes_no,
        line=lambda margin: (margin, np.ones_like(margin)),
        corners=_yes_no_corners,
        margin="logit of a yes",
    ),
    "real": _known(
        "real",
        _draw_real,
        line=_line_against_zero,
        corners=_real_corners,
        margin="prediction - target",
    ),
    "pairs": _known(
        "pairs",
        _draw_real,
        wrt=(0, 1),
        line=_line_against_zero,
        corners=_real_corners,
        margin="preferred score - other score",
    ),
}
"""Kind -> its spec: logits [N, C] and labels [N]; logits [N] and labels 0.0 or 1.0 [N]; predictions and
targets [N]; scores of what was preferred and of what was not [N], both differentiated."""


def in_turn(specs: Sequence[Arguments]) -> Arguments:
    """Several batches of arguments as one."""
    return tuple(np.concatenate(each) for each in zip(*specs, strict=True))
