"""The shape of a loss: convex or not, flat or not, bounded or not; how fast value and gradient may change.

Shapes: U units, P entries of a unit's prediction.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxloss.doctor.checks.gradient import MOST_COORDINATES, ROUGH_ALLOWED
from jaxloss.doctor.checks.kinks import find_kinks
from jaxloss.doctor.report import Finding, Result
from jaxloss.doctor.subject import Subject, together

SIZES = (0.02, 1.0, 3.0, 10.0, 30.0)

# Where a supremum is told from growth: a delta or a temperature may keep a bounded slope growing up to 1e5.
FAR = (1e2, 1e4, 1e6, 1e8)

# Margins near that of 0, where a power between 1 and 2 has no largest curvature.
NEAR = (1e-9, 1e-12)

# One that still grows by this between the last two of these has no bound, nor has one that predictions of
# 0.02 multiply in place of those of 1.
GROWTH, GROWTH_TO_ZERO = 1.25, 10.0

# Rounding of eigenvalues, in parts of the largest.
ROUNDING = 1e-9

# Of the largest curvature: below it, a loss is a plane there.
FLAT = 1e-6

# Of the usual slope: a value that still falls by this per unit of size from 1e3 to 1e4 has no lower bound.
FALL = 1e-3

# Of the fall from 1e2 to 1e3: a bounded loss has a tenth of it or less from there to 1e4, a logarithm all.
SAME_FALL = 0.5

_DRAWN, _CLIMBS = 64, 5


def check(subject: Subject) -> Result:
    """Convexity, flatness, a lower bound, and the Lipschitz constants of the value and of the gradient."""
    of_size, prediction, target = _inputs(subject, SIZES)
    slope = slopes(subject, prediction, target)
    findings = bounded_below(subject, slope)
    figures: dict[str, Any] = {}
    lipschitz, growth = _supremum(subject, slope, of_size, prediction, target, slopes)
    figures["Lipschitz constant"] = lipschitz
    if not np.isfinite(lipschitz):
        message = f"the gradient has no bound: it grows like size ** {growth:.2g}"
        at = int(np.nanargmax(slope))
        advice = "one example may decide the step: clip the gradient, or use a loss that grows linearly"
        shown_by = subject.show(prediction, target, at)
        findings.append(Finding("curvature", "note", message, growth, shown_by, advice))
    if prediction[0].size <= MOST_COORDINATES:
        findings += _second(subject, prediction, target, of_size, slope, figures)
    return Result(findings, figures)


def _inputs(subject: Subject, sizes: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray, Any]:
    """Units of these sizes, drawn and corners, and the size of each."""
    lots = [together([subject.scaled(_DRAWN, size), subject.corners(size)]) for size in sizes]
    return np.repeat(sizes, [len(prediction) for prediction, _ in lots]), *together(lots)


def _second(
    subject: Subject,
    prediction: np.ndarray,
    target: Any,
    of_size: np.ndarray,
    slope: np.ndarray,
    figures: dict[str, Any],
) -> list[Finding]:
    eigenvalues = _eigenvalues(subject, prediction, target)
    largest = np.abs(eigenvalues).max(1)
    smooth, _ = _supremum(subject, largest, of_size, prediction, target, _curvatures)
    kinks = find_kinks(subject)
    smooth = np.inf if kinks else smooth
    figures["smoothness constant"] = smooth
    figures["largest safe SGD step"] = 2 / smooth if smooth else None
    top = float(np.nanmax(largest, initial=0.0))
    lowest = float(np.nanmin(eigenvalues[:, 0]))
    # A slope that falls at a kink is curvature downwards.
    falls = [kink for kink in kinks if not kink.value_jump and kink.right < kink.left]
    reversed_steps = _reversed(subject)
    is_convex = (
        lowest >= -ROUNDING * max(top, float(np.nanmax(slope)))
        and not falls
        and not reversed_steps
        and not any(k.value_jump for k in kinks)
    )
    figures["convex"] = is_convex
    drawn = (of_size >= 1) & (slope > 0)
    flat = float(np.mean(largest[drawn] <= FLAT * top)) if top and drawn.any() else 1.0
    figures["flat share"] = flat
    ranks = (np.abs(eigenvalues) > FLAT * np.maximum(largest, 1e-300)[:, None]).sum(1)
    typical = of_size == 1.0
    figures["flat directions"] = int(eigenvalues.shape[1] - np.median(ranks[typical]))
    if is_convex:
        return []
    at = int(np.nanargmin(eigenvalues[:, 0]))
    number = lowest if lowest < 0 else None
    shown_by = subject.show(prediction, target, at) if lowest < 0 else falls[0].shown_by if falls else ""
    below = f": curvature {lowest:.3g}" if lowest < 0 else ""
    advice = "plain descent may stop short of the minimum: compare several seeds, and warm up the rate"
    return [Finding("curvature", "note", f"not convex in the predictions{below}", number, shown_by, advice)]


def _reversed(subject: Subject) -> bool:
    """Whether somewhere along a ray the slope is lower further out, by more than rounding."""
    points, gradients = [], []
    for size in SIZES:
        prediction, target = subject.scaled(_DRAWN, size)
        points.append(prediction.reshape(_DRAWN, -1))
        gradients.append(subject.evaluate(prediction, target)[1].reshape(_DRAWN, -1))
    allowed = ROUGH_ALLOWED if subject.is_rough else ROUNDING
    usual = float(np.nanmedian(np.linalg.norm(gradients[1], axis=1)))
    for i, j in itertools.combinations(range(len(SIZES)), 2):
        step, change = points[j] - points[i], gradients[j] - gradients[i]
        steepest = np.maximum(*(np.linalg.norm(gradients[k], axis=1) for k in (i, j)))
        least = -allowed * np.linalg.norm(step, axis=1) * np.maximum(steepest, usual)
        if (np.sum(step * change, 1) < least).any():
            return True
    return False


def _supremum(
    subject: Subject,
    found: np.ndarray,
    of_size: np.ndarray,
    prediction: np.ndarray,
    target: Any,
    measure: Callable[[Subject, np.ndarray, Any], np.ndarray],
) -> tuple[float, float]:
    finite = np.where(np.isfinite(found), found, 0.0)
    top = float(finite.max())
    if not np.isfinite([subject.spec.low, subject.spec.high]).all():
        growth, top = _growth(subject, found, of_size, measure)
        if growth:
            return np.inf, growth
    rng = np.random.default_rng(8)
    best = np.argsort(-finite)[:16]
    prediction, target = jax.tree.map(lambda a: np.repeat(a[best], 16, 0), (prediction, target))
    for climb in range(_CLIMBS):
        moved = prediction + 0.5**climb * rng.standard_normal(prediction.shape)
        moved = np.clip(moved, subject.spec.low, subject.spec.high)
        now, before = measure(subject, moved, target), measure(subject, prediction, target)
        better = (now > before).reshape(-1, *[1] * (prediction.ndim - 1))
        prediction = np.where(better, moved, prediction)
        top = max(top, float(np.nanmax(now)))
    return top, 0.0


def _growth(
    subject: Subject,
    found: np.ndarray,
    of_size: np.ndarray,
    measure: Callable[[Subject, np.ndarray, Any], np.ndarray],
) -> tuple[float, float]:
    """The power of size with which a measure grows without a bound, 0 if it does not; and its largest."""
    far, *units = _inputs(subject, FAR)
    found, of_size = np.concatenate([found, measure(subject, *units)]), np.concatenate([of_size, far])
    finite = np.where(np.isfinite(found), found, 0.0)
    sizes = SIZES + FAR
    top = [float(finite[of_size == size].max()) for size in sizes]
    broken = [float(np.mean(~np.isfinite(found[of_size == size]))) for size in sizes]
    small, usual = top[0], top[1]
    if usual > 0 and small > GROWTH_TO_ZERO * usual:
        return float(np.log(small / usual) / np.log(SIZES[0])), small
    near = measure(subject, *subject.line(np.concatenate([NEAR, np.negative(NEAR)]))).reshape(2, 2)
    close, closer = np.where(np.isfinite(near), near, 0.0).max(0)
    if close > 0 and closer > GROWTH * close and closer >= usual:
        return float(np.log(closer / close) / np.log(NEAR[1] / NEAR[0])), float(closer)
    # Where it overflows, the inputs with the largest are missing.
    num = next((i for i in range(2, len(sizes)) if broken[i] > broken[1]), len(sizes))
    before, last = top[num - 2 : num]
    if before > 0 and last > GROWTH * before and last >= max(top[:num]):
        return float(np.log(last / before) / np.log(sizes[num - 1] / sizes[num - 2])), last
    return 0.0, max(top[:num])


def slopes(subject: Subject, prediction: np.ndarray, target: Any) -> np.ndarray:
    """Size of the gradient of each unit; NaN where it is not finite, which another check tells."""
    gradient = subject.evaluate(prediction, target)[1].reshape(len(prediction), -1)
    return np.where(np.isfinite(gradient).all(1), np.linalg.norm(gradient, axis=1), np.nan)


def _curvatures(subject: Subject, prediction: np.ndarray, target: Any) -> np.ndarray:
    return np.abs(_eigenvalues(subject, prediction, target)).max(1)


def _eigenvalues(subject: Subject, prediction: np.ndarray, target: Any) -> np.ndarray:
    """Of the second derivative of each unit, [U, P], ascending; NaN where it is not finite."""
    hessian = subject.hessians(prediction, target)
    hessian = (hessian + hessian.swapaxes(1, 2)) / 2
    finite = np.isfinite(hessian).all((1, 2))
    values = np.linalg.eigvalsh(np.where(finite[:, None, None], hessian, 0.0))
    return np.where(finite[:, None], values, np.nan)


def bounded_below(subject: Subject, slope: np.ndarray) -> list[Finding]:
    """What is found where the loss falls with the size of predictions, `slope` being its usual ones."""
    usual = float(np.median(slope[slope > 0])) if (slope > 0).any() else 0.0
    if np.isfinite([subject.spec.low, subject.spec.high]).all() or not usual:
        return []
    # Of one target: a larger one may well have a lower loss at its best prediction.
    target = subject.corners(1.0)[1]
    nearest, near, far = (subject.corners(size)[0] for size in (1e2, 1e3, 1e4))
    first, before, value = (subject.evaluate(each, target)[0] for each in (nearest, near, far))
    fall = before - value
    fall = np.where(np.isnan(fall), np.where(np.isneginf(value), np.inf, -np.inf), fall)
    at = int(np.argmax(fall))
    seen = f"{value[at]:.3g} at size 1e4, {before[at]:.3g} at 1e3"
    shown_by = subject.show(far, target, at)
    if fall[at] > FALL * usual * (1e4 - 1e3):
        message = f"the loss has no lower bound: {seen}"
        advice = "training would only enlarge predictions: check the sign, and that logits are normalised"
        return [Finding("curvature", "error", message, float(value[at]), shown_by, advice)]
    # In units of the usual slope, as a step of 1 changes the loss by it; less is rounding.
    if fall[at] > max(SAME_FALL * (first[at] - before[at]), FALL * usual):
        message = f"the loss falls without end, like a logarithm of the size: {seen}"
        advice = "no prediction is the best one: watch the size of predictions, or add a small penalty of it"
        return [Finding("curvature", "note", message, float(value[at]), shown_by, advice)]
    return []
