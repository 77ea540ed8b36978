"""The examination: every check in turn, each safe from what the loss does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxloss._checks import check_choice, check_number
from jaxloss.doctor.call import first_calls, one_line, printing, what_is_printed
from jaxloss.doctor.checks import CHECKS
from jaxloss.doctor.inputs import InputSpec, as_spec
from jaxloss.doctor.picture import Curve
from jaxloss.doctor.report import Finding, Report, in_order
from jaxloss.doctor.subject import OutOfTime, Subject

DTYPES = ("float32", "bfloat16", "float16")


def examine(
    loss: Callable[..., Any],
    kind: str | InputSpec = "classes",
    *,
    dtypes: Sequence[str] = DTYPES,
    checks: Sequence[str] | None = None,
    budget_seconds: float = 30.0,
    name: str | None = None,
) -> Report:
    """Examine a loss as a function: numbers, gradient, shape, symmetries, meaning.

    Args:
        loss: called with the kind's arguments; returns a scalar.
        kind: "classes" (logits [N, C], labels [N]), "yes_no" (logits [N], labels 0.0 or 1.0 [N]), "real"
            (predictions and targets [N]), "pairs" (scores of what was preferred and of what was not, [N]
            each), or an `InputSpec`.
        dtypes: to examine it in, each against float64.
        checks: names of those to run; all by default.
        budget_seconds: after which the rest is left out, and named.
        name: of the loss in the report; by default that of the function.

    Returns:
        The report; a loss that cannot be examined has an error that says why, and raises nothing.

    Raises:
        TypeError, ValueError: `loss` is no function, or an argument is out of range.
    """
    if not callable(loss):
        raise TypeError(f"loss must be a function of predictions and targets; got {type(loss).__name__}.")
    spec = as_spec(kind)
    names = tuple(CHECKS) if checks is None else _several("checks", checks, tuple(CHECKS))
    dtypes = _several("dtypes", dtypes, DTYPES)
    check_number("budget_seconds", budget_seconds, low=0.0, open_low=True)
    start = time.perf_counter()
    subject = Subject(loss, spec, dtypes, budget_seconds, name)
    findings: list[Finding] = []
    measured: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    curves: dict[str, Curve] = {}
    with what_is_printed() as printed:
        found, reason = first_calls(subject, budget_seconds)
        findings += found
        for check in names:
            if reason is None:
                reason = _run(subject, check, findings, measured, left_out)
            if reason is not None:
                left_out[check] = reason
        if reason is None:
            _draw_curves(subject, curves)
    findings += printing(printed.getvalue())
    ordered, seconds = in_order(findings), time.perf_counter() - start
    return Report(subject.name, spec.name, dtypes, ordered, measured, left_out, curves, spec.margin, seconds)


def _run(
    subject: Subject, check: str, findings: list[Finding], measured: dict[str, Any], left_out: dict[str, str]
) -> str | None:
    """Run a check; returns why it and those after it are left out, or None."""
    try:
        with np.errstate(all="ignore"):
            result = CHECKS[check](subject)
    except OutOfTime:
        return "the budget of seconds was spent"
    except Exception as error:
        left_out[check] = f"{type(error).__name__}: {one_line(error)}"
        return None
    findings += result.findings
    measured[check] = result.figures
    return None


def _draw_curves(subject: Subject, curves: dict[str, Curve]) -> None:
    """Value, gradient and curvature along the margin; a dtype that cannot be evaluated has no curve."""
    spec = subject.spec
    margin = np.unique(np.clip(np.linspace(-12.0, 12.0, 193), spec.low, spec.high))
    if np.isfinite([spec.low, spec.high]).all():
        margin = np.linspace(spec.low, spec.high, 193)
    prediction, target = subject.line(margin)
    # One step along the line, the same everywhere on it.
    step = (prediction[1] - prediction[0]) / (margin[1] - margin[0])

    def along(prediction: Any, target: Any) -> Any:
        direction = jnp.asarray(step, prediction.dtype)

        def slope(prediction: Any) -> Any:
            value, gradient = jax.value_and_grad(subject.loss)(prediction, target)
            return jnp.vdot(gradient, direction), value

        (gradient, value), curvature = jax.value_and_grad(slope, has_aux=True)(prediction)
        return value, gradient, jnp.vdot(curvature, direction)

    for dtype in ("float64", *subject.dtypes):
        try:
            curves[dtype] = Curve(margin, *subject.by_unit(along, prediction, target, dtype, name="curve"))
        except OutOfTime:
            return
        except Exception:
            continue


def _several(name: str, values: Sequence[str], choices: tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(values, str) or not values:
        raise ValueError(f"{name} must be a list of names, such as {choices[:2]}; got {values!r}.")
    for value in values:
        check_choice(name, value, choices)
    return tuple(dict.fromkeys(values))
