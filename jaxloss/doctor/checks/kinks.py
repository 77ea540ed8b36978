"""Kinks and jumps along lines through the inputs: where they are, and what autodiff says there.

Shapes: L lines, T points of a line, B brackets, each two neighbouring points.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from jaxloss.doctor.report import Finding, Result
from jaxloss.doctor.subject import Subject

REACH = 10.0  # each line runs from -REACH to REACH
# Even numbers of points, so that none falls on 0, where a derivative may be NaN.
_LINES, _POINTS, _PARTS = 7, 512, 16
_BRACKETS = 8  # of a line that are looked into: where its slope changes most

# A bracket of 0.04 is cut by 15 in each round: to 1e-10, or 1e-4 for a loss that computes in float32.
ROUNDS, ROUGH_ROUNDS = 7, 2

# In units of the usual slope. A smooth slope changes by its curvature times the bracket's width.
JUMP, ROUGH_JUMP = 1e-5, 1e-2

# Of the jump over the bracket of the round before: a smooth change shrinks with its bracket, a jump does not.
SAME_JUMP = 0.9


class Kink(NamedTuple):
    """Where the slope or the value jumps along a line.

    Args:
        line: its number; 0 is that of the margin.
        place: on the line.
        left: slope before.
        right: slope after.
        value_jump: 0 at a kink.
        here: what autodiff gives exactly there; None where the place is no number with few digits.
        shown_by: the input.
    """

    line: int
    place: float
    left: float
    right: float
    value_jump: float
    here: float | None
    shown_by: str


class _Lines:
    """Lines as bases and directions of units; slopes along them."""

    def __init__(self, subject: Subject):
        self.subject, spec = subject, subject.spec
        self.low, self.high = max(-REACH, spec.low), min(REACH, spec.high)
        ends = np.array([0.25, 0.75]) * (self.high - self.low) + self.low
        prediction, target = subject.line(ends)
        direction = (prediction[1] - prediction[0]) / (ends[1] - ends[0])
        rng = np.random.default_rng(7)
        others, targets = subject.draw_units(_LINES, seed=6)
        along = rng.standard_normal(others.shape)
        along /= np.linalg.norm(along.reshape(_LINES, -1), axis=1).reshape(-1, *[1] * (along.ndim - 1))
        self.base = np.concatenate([(prediction[0] - ends[0] * direction)[None], others])
        self.direction = np.concatenate([direction[None], along])
        self.target = _joined(target, targets)
        if np.isfinite([spec.low, spec.high]).any():
            # A line in all entries would leave the domain: only that of the margin stays in it.
            self.base, self.direction = self.base[:1], self.direction[:1]

    def at(self, line: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Value and slope on lines at places, arrays of one shape."""
        rows, flat = line.reshape(-1), place.reshape(-1)
        directions = self.direction[rows]
        prediction = self.base[rows] + flat.reshape(-1, *[1] * (directions.ndim - 1)) * directions
        value, gradient = self.subject.evaluate(prediction, _rows(self.target, rows))
        slope = np.sum((gradient * directions).reshape(len(rows), -1), 1)
        return value.reshape(place.shape), slope.reshape(place.shape)

    def show(self, line: int, place: float) -> str:
        prediction = self.base[line] + place * self.direction[line]
        return self.subject.show(prediction[None], _rows(self.target, np.array([line])), 0)


def check(subject: Subject) -> Result:
    """Where the derivative jumps, by how much, and whether autodiff's choice lies between."""
    kinks = find_kinks(subject)
    own = [kink for kink in kinks if kink.line == 0]
    findings = []
    steps = [kink for kink in kinks if kink.value_jump]
    if steps:
        largest = max(steps, key=lambda kink: abs(kink.value_jump))
        message = f"the value jumps by {largest.value_jump:.3g} {_where(subject, largest)}"
        advice = (
            "no derivative sees a jump: replace what is rounded, compared or counted by something continuous"
        )
        findings.append(Finding("kinks", "error", message, abs(largest.value_jump), largest.shown_by, advice))
    bends = [kink for kink in kinks if not kink.value_jump]
    for kink in bends:
        if kink.here is not None and not _is_between(kink):
            message = (
                f"at the kink {_where(subject, kink)} autodiff gives {kink.here:.4g}, not between the slopes "
                f"{kink.left:.4g} before and {kink.right:.4g} after it"
            )
            advice = "choose the gradient there with jnp.where on both sides of the root or division"
            findings.append(Finding("kinks", "error", message, kink.here, kink.shown_by, advice))
            break
    if bends:
        kink = max(bends, key=lambda kink: (kink.line == 0, abs(kink.right - kink.left)))
        chosen = "" if kink.here is None else f"; autodiff takes {kink.here:.4g}"
        more = f", one of {len(bends)} found" if len(bends) > 1 else ""
        slopes = f"the slope goes from {kink.left:.4g} to {kink.right:.4g}{chosen}"
        message = f"a kink {_where(subject, kink)}{more}: {slopes}"
        advice = "steps do not shrink on their own there: let the learning rate decay, or smooth the kink"
        size = abs(kink.right - kink.left)
        findings.append(Finding("kinks", "note", message, size, kink.shown_by, advice))
    figures: dict[str, Any] = {"on the margin": [round(kink.place, 6) for kink in own] or "none"}
    figures["largest jump of the slope"] = max((abs(kink.right - kink.left) for kink in bends), default=0.0)
    figures["on random lines"] = len(kinks) - len(own)
    return Result(findings, figures)


def find_kinks(subject: Subject) -> list[Kink]:
    """All kinks found along the margin and along random lines; found once for a subject."""
    if subject.kinks is None:
        # In 16 bits, every rounding is a jump.
        subject.kinks = [] if subject.is_coarse else _find(subject)
    return subject.kinks


def _find(subject: Subject) -> list[Kink]:
    lines = _Lines(subject)
    line = np.arange(len(lines.base))[:, None]
    points = np.linspace(lines.low, lines.high, _POINTS)
    place = np.broadcast_to(points, (len(lines.base), _POINTS))
    value, slope = lines.at(np.broadcast_to(line, place.shape), place)
    finite = np.abs(slope[np.isfinite(slope)])
    usual = float(np.median(finite[finite > 0])) if finite.any() else 1.0
    score = _score(place, value, slope, usual)
    best = np.argsort(-score, 1)[:, :_BRACKETS]
    of = np.broadcast_to(line, best.shape).reshape(-1)
    left, right = (place[of, best.reshape(-1) + i] for i in (0, 1))
    for _ in range(ROUGH_ROUNDS if subject.is_rough else ROUNDS):
        wider = left, right
        inner = left[:, None] + (right - left)[:, None] * np.linspace(0.0, 1.0, _PARTS)
        value, slope = lines.at(np.broadcast_to(of[:, None], inner.shape), inner)
        widest = np.argmax(_score(inner, value, slope, usual), 1)[:, None]
        left, right = (np.take_along_axis(inner, widest + i, 1)[:, 0] for i in (0, 1))
    return _judge(lines, of, (left, right), wider, usual)


def _score(place: np.ndarray, value: np.ndarray, slope: np.ndarray, usual: float) -> np.ndarray:
    """How far from smooth each bracket is, in parts of the slope there.

    What sets its slope's change apart from its neighbours', and the value's beyond what the slopes say.
    """
    width = np.diff(place, axis=-1)
    beyond = np.diff(value, axis=-1) - width * (slope[..., 1:] + slope[..., :-1]) / 2
    change = np.pad(np.diff(slope, axis=-1), ((0, 0), (1, 1)), mode="reflect")
    apart = change[:, 1:-1] - (change[:, :-2] + change[:, 2:]) / 2
    apart = np.where(np.isfinite(apart), apart, change[:, 1:-1])
    size = np.maximum(usual, np.minimum(np.abs(slope[:, 1:]), np.abs(slope[:, :-1])))
    score = (np.abs(apart) + np.abs(beyond) / np.maximum(width, 1e-300)) / size
    return np.where(np.isfinite(score), score, -1.0)


def _judge(
    lines: _Lines,
    of: np.ndarray,
    bracket: tuple[np.ndarray, np.ndarray],
    wider: tuple[np.ndarray, np.ndarray],
    usual: float,
) -> list[Kink]:
    (left, right), is_rough = bracket, lines.subject.is_rough
    jump = ROUGH_JUMP if is_rough else JUMP
    middle = (left + right) / 2
    # Places are rarely arbitrary: a margin of 1, an error of 0.
    nice = np.round(middle, 3 if is_rough else 6)
    gap, margin = right - left, wider[1] - wider[0]
    left, right = left - gap, right + gap
    around = np.stack([left, right, nice, wider[0] - margin, wider[1] + margin], 1)
    value, slope = lines.at(np.broadcast_to(of[:, None], around.shape), around)
    bend, wide_bend = slope[:, 1] - slope[:, 0], slope[:, 4] - slope[:, 3]
    step = value[:, 1] - value[:, 0] - 3 * gap * slope[:, :2].mean(1)
    wide_step = value[:, 4] - value[:, 3] - 3 * margin * slope[:, 3:].mean(1)
    least_bend = np.fmax(jump * np.fmax(usual, np.abs(slope[:, :2]).max(1)), SAME_JUMP * np.abs(wide_bend))
    least_step = np.fmax(jump * np.fmax(1.0, np.abs(value[:, 0])), SAME_JUMP * np.abs(wide_step))
    is_kink, is_step = np.abs(bend) > least_bend, np.abs(step) > least_step
    kinks: list[Kink] = []
    for i in np.argsort(of * 1e3 + middle):
        place = float(middle[i])
        known = any(kink.line == of[i] and abs(kink.place - place) < 1e-3 for kink in kinks)
        if known or not (is_step[i] or is_kink[i]):
            continue
        is_nice = left[i] <= nice[i] <= right[i]
        here = float(slope[i, 2]) if is_nice else None
        place = float(nice[i]) + 0.0 if is_nice else place
        shown_by = lines.show(int(of[i]), place)
        ends = float(slope[i, 0]), float(slope[i, 1])
        kinks.append(Kink(int(of[i]), place, *ends, float(step[i]) if is_step[i] else 0.0, here, shown_by))
    return kinks


def _is_between(kink: Kink) -> bool:
    slack = 1e-6 * (abs(kink.left) + abs(kink.right))
    low, high = min(kink.left, kink.right) - slack, max(kink.left, kink.right) + slack
    return kink.here is not None and low <= kink.here <= high


def _where(subject: Subject, kink: Kink) -> str:
    return f"at {subject.spec.margin} {kink.place:.4g}" if kink.line == 0 else "between two random inputs"


def _joined(first: Any, others: Any) -> Any:
    """The target of the margin's line before those of the others."""
    return jax.tree.map(lambda a, b: np.concatenate([a[:1], b]), first, others)


def _rows(target: Any, rows: np.ndarray) -> Any:
    return jax.tree.map(lambda a: a[rows], target)
