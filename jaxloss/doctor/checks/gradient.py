"""Whether the gradient is the derivative of the value: against differences, and against itself.

Shapes: U units, P entries of a unit's prediction, D directions.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxloss.doctor.call import one_line
from jaxloss.doctor.report import Finding, Result
from jaxloss.doctor.subject import NothingFinite, OutOfTime, Subject, together

# Three central differences, extrapolated twice: at this step, truncation and rounding are both near 1e-12.
STEP = 2.0**-7

# Of the gradient's size. Correct losses are within 1e-9 of their differences, a careless rule by percents.
ALLOWED = 1e-6

# For a loss that computes in float32 whatever it is given, whose differences are that much rougher.
ROUGH_STEP, ROUGH_ALLOWED = 2.0**-3, 1e-2

# Near a kink the extrapolations differ from each other, by as much as they may be wrong.
TIMES_UNCERTAINTY = 10.0

# Beyond so many entries, random directions take the coordinates' place.
MOST_COORDINATES = 16

COTANGENT = -3.0
_UNITS = 16


def check(subject: Subject) -> Result:
    """Differences in float64; jvp against vjp; another cotangent; the second derivative."""
    prediction, target = together(
        [subject.scaled(_UNITS, scale, seed) for seed, scale in ((0, 0.3), (1, 3.0))]
    )
    is_rough = subject.is_rough
    step, allowed = (ROUGH_STEP, ROUGH_ALLOWED) if is_rough else (STEP, ALLOWED)
    prediction = np.clip(prediction, subject.spec.low + 2 * step, subject.spec.high - 2 * step)
    value, gradient = subject.evaluate(prediction, target)
    kept = np.isfinite(value)
    if not kept.any():
        raise NothingFinite
    prediction, target, gradient = jax.tree.map(lambda a: a[kept], (prediction, target, gradient))
    directions = _directions(prediction)
    findings: list[Finding] = []
    figures: dict[str, Any] = {}
    if not subject.is_coarse:
        findings, figures = _against_differences(subject, prediction, target, directions, step, allowed)
    for found, name, number in (
        _forward(subject, prediction, target, gradient, directions, allowed),
        _cotangent(subject, prediction, target, gradient, allowed),
    ):
        findings += found
        figures[name] = number
    return Result(findings, figures)


def _directions(prediction: np.ndarray) -> np.ndarray:
    """Unit vectors, [D, ...]: the coordinates when they are few, and random ones."""
    shape = prediction.shape[1:]
    num = int(np.prod(shape))
    random = np.random.default_rng(5).standard_normal((4 if num <= MOST_COORDINATES else 16, num))
    random /= np.linalg.norm(random, axis=1, keepdims=True)
    vectors = np.concatenate([np.eye(num), random]) if num <= MOST_COORDINATES else random
    return vectors.reshape(-1, *shape)


def _against_differences(
    subject: Subject, prediction: np.ndarray, target: Any, directions: np.ndarray, step: float, allowed: float
) -> tuple[list[Finding], dict[str, Any]]:
    offsets = step * np.array([0.0, 1.0, -1.0, 0.5, -0.5, 0.25, -0.25])
    num, num_directions = len(prediction), len(directions)
    moved = (
        prediction[:, None, None] + offsets.reshape(-1, *[1] * (prediction.ndim - 1)) * directions[:, None]
    )
    repeats = num_directions * len(offsets)
    targets = jax.tree.map(lambda a: np.repeat(a, repeats, 0), target)
    value, gradient = subject.evaluate(moved.reshape(-1, *prediction.shape[1:]), targets)
    value = value.reshape(num, num_directions, -1)
    gradient = gradient.reshape(num, num_directions, len(offsets), -1)
    here = gradient[:, 0, 0]
    size = np.linalg.norm(here, axis=-1)
    size = np.where(np.isfinite(size), size, 0.0)
    usual = float(np.median(size))
    flat = directions.reshape(num_directions, -1)

    estimate, uncertainty = _extrapolate(value, step)
    gap = np.abs(estimate - here @ flat.T)
    scale = np.maximum(size, usual)[:, None]
    # Where a value is not finite, there is no difference to hold against the gradient.
    comparable = np.isfinite(estimate) & np.isfinite(uncertainty)
    is_off = comparable & ~(gap <= allowed * scale + TIMES_UNCERTAINTY * uncertainty)
    error = np.where(comparable & (uncertainty <= allowed * scale), gap / np.maximum(scale, 1e-300), 0.0)
    findings = []
    if is_off.any():
        unit, direction = divmod(int(np.argmax(np.where(is_off, gap / scale, -1.0))), num_directions)
        share = float(is_off.any(1).mean())
        message = (
            f"the gradient is not the value's derivative at {share:.0%} of inputs: along a direction "
            f"autodiff has {here[unit] @ flat[direction]:.4g}, differences {estimate[unit, direction]:.4g}"
        )
        advice = "mend the custom rule, or the stop_gradient that was not meant"
        findings.append(_error(message, share, subject.show(prediction, target, unit), advice))
    figures = {"error against differences": float(error.max()), "directions": num * num_directions}
    findings += _second(subject, prediction, target, gradient, flat, step, allowed, figures)
    return findings, figures


def _extrapolate(samples: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """The derivative and its uncertainty, of samples at 0, h, -h, h/2, -h/2, h/4, -h/4."""
    wide, middle, narrow = (
        (samples[..., i] - samples[..., i + 1]) / (2 * step / 2 ** (i // 2)) for i in (1, 3, 5)
    )
    first, second = (4 * middle - wide) / 3, (4 * narrow - middle) / 3
    return (16 * second - first) / 15, np.abs(second - first)


def _second(
    subject: Subject,
    prediction: np.ndarray,
    target: Any,
    gradient: np.ndarray,
    directions: np.ndarray,
    step: float,
    allowed: float,
    figures: dict[str, Any],
) -> list[Finding]:
    """The second derivative: symmetric, and the derivative of the gradient."""
    if directions.shape[1] > MOST_COORDINATES:
        return []
    hessian = subject.hessians(prediction, target)
    finite = np.isfinite(hessian).all((1, 2)) & np.isfinite(gradient).all((1, 2, 3))
    if not finite.any():
        return []
    prediction, target, gradient, hessian = jax.tree.map(
        lambda a: a[finite], (prediction, target, gradient, hessian)
    )
    size = np.abs(hessian).max((1, 2))
    usual = max(float(np.median(size)), 1e-300)
    scale = np.maximum(size, usual)
    figures["asymmetry"] = float((np.abs(hessian - hessian.swapaxes(1, 2)).max((1, 2)) / scale).max())
    estimate, uncertainty = _extrapolate(np.moveaxis(gradient, 2, -1), step)
    estimate, uncertainty = estimate.swapaxes(1, 2), uncertainty.swapaxes(1, 2)
    gap = np.abs(estimate - hessian @ directions.T)
    # A gradient's rounding, divided by the step, is all that a flat loss has.
    floor = allowed * np.maximum(scale, np.median(np.abs(gradient)))[:, None, None]
    is_off = (~(gap <= floor + TIMES_UNCERTAINTY * uncertainty)).any((1, 2))
    where = int(np.argmax(np.where(is_off, gap.max((1, 2)) / scale, -1.0)))
    shown_by = subject.show(prediction, target, where)
    advice = "let JAX differentiate the rule: no stop_gradient and no constants in it"
    if figures["asymmetry"] > max(allowed, 1e-6):
        message = f"the second derivative is not symmetric, by {figures['asymmetry']:.2g} of its size"
        return [Finding("gradient", "warning", message, figures["asymmetry"], shown_by, advice)]
    if is_off.any():
        share = float(is_off.mean())
        message = f"the second derivative is not the gradient's derivative at {share:.0%} of inputs"
        return [Finding("gradient", "warning", message, share, shown_by, advice)]
    return []


def _forward(
    subject: Subject,
    prediction: np.ndarray,
    target: Any,
    gradient: np.ndarray,
    directions: np.ndarray,
    allowed: float,
) -> tuple[list[Finding], str, float | None]:
    name = "jvp against vjp"
    tangent = directions[np.arange(len(prediction)) % len(directions)]

    def along(pair: Any, target: Any) -> Any:
        return jax.jvp(lambda p: subject.loss(p, target), pair[:1], pair[1:])[1]

    try:
        forward = subject.by_unit(along, (prediction, tangent), target, "float64", name="jvp")
    except OutOfTime:
        raise
    except Exception as error:
        message = f"forward mode (jvp) is refused: {one_line(error)}"
        advice = "write the rule as a jax.custom_jvp, of which JAX makes both modes and second derivatives"
        return [Finding("gradient", "note", message, None, "", advice)], name, None
    backward = np.sum((gradient * tangent).reshape(len(prediction), -1), 1)
    return _compare(subject, prediction, target, forward, backward, allowed, name, "jvp and vjp differ")


def _cotangent(
    subject: Subject, prediction: np.ndarray, target: Any, gradient: np.ndarray, allowed: float
) -> tuple[list[Finding], str, float | None]:
    def pulled(prediction: Any, target: Any) -> Any:
        value, pull = jax.vjp(lambda p: subject.loss(p, target), prediction)
        return pull(jnp.asarray(COTANGENT, value.dtype))[0]

    other = subject.by_unit(pulled, prediction, target, "float64", name="cotangent")
    message = f"the gradient for a cotangent of {COTANGENT:g} is not {COTANGENT:g} times the gradient"
    name = "another cotangent"
    return _compare(subject, prediction, target, other, COTANGENT * gradient, allowed, name, message)


def _compare(
    subject: Subject,
    prediction: np.ndarray,
    target: Any,
    got: np.ndarray,
    expected: np.ndarray,
    allowed: float,
    name: str,
    message: str,
) -> tuple[list[Finding], str, float | None]:
    gap = np.abs(got - expected).reshape(len(prediction), -1).max(1)
    # Both are 0 / 0 alike where the gradient does not exist: the check of finite numbers tells that.
    gap = np.where(np.isfinite(expected).reshape(len(prediction), -1).all(1), gap, 0.0)
    error = float(np.max(gap)) / float(np.abs(expected[np.isfinite(expected)]).max(initial=1e-300))
    if error <= allowed:
        return [], name, error
    advice = "a custom rule must multiply by its cotangent: weights, masks and means reach it through that"
    shown_by = subject.show(prediction, target, int(np.argmax(gap)))
    return [_error(f"{message}, by {error:.2g} of its size", error, shown_by, advice)], name, error


def _error(message: str, number: float | None, shown_by: str, advice: str) -> Finding:
    return Finding("gradient", "error", message, number, shown_by, advice)
