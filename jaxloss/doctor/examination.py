"""The examination: every check in turn, each safe from what the loss does."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from jaxloss._checks import check_choice, check_number
from jaxloss.doctor.call import first_calls, one_line, printing
from jaxloss.doctor.checks import CHECKS
from jaxloss.doctor.inputs import InputSpec, as_spec
from jaxloss.doctor.picture import curves_of
from jaxloss.doctor.report import Finding, Report, in_order
from jaxloss.doctor.subject import NothingFinite, OutOfTime, Subject, what_is_printed

DTYPES = ("float32", "bfloat16", "float16")


def examine(
    loss: Callable[..., Any],
    kind: str | InputSpec = "classes",
    *,
    dtypes: Sequence[str] = DTYPES,
    checks: Sequence[str] | None = None,
    budget_seconds: float = 30.0,
    name: str | None = None,
    progress: Callable[[Sequence[str]], Iterable[str]] = iter,
) -> Report:
    """Examine a loss as a function: numbers, gradient, shape, symmetries, meaning.

    Args:
        loss: called with the kind's arguments; returns a scalar.
        kind: "classes" (logits [N, 4], labels [N]; "10 classes" for another number), "yes_no" (logits [N],
            labels 0.0 or 1.0 [N]), "real" (predictions and targets [N]), "pairs" (scores of what was
            preferred and of what was not, [N] each), or an `InputSpec`.
        dtypes: to examine it in, each against float64.
        checks: names of those to run; all by default.
        budget_seconds: after which the rest is left out, and named.
        name: of the loss in the report; by default that of the function.
        progress: wraps the names of the checks, which run as it hands them out; such as `tqdm.tqdm`.

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
    with what_is_printed() as printed:
        found, reason = first_calls(subject, budget_seconds)
        subject.works = reason is None
        findings += found
        for check in progress(names):
            if reason is None:
                reason = _run(subject, check, findings, measured, left_out)
            if reason is not None:
                left_out[check] = reason
    findings += printing(printed.getvalue())
    seconds = time.perf_counter() - start
    # Drawn when asked for: each dtype is a program to compile.
    curves = partial(curves_of, subject, budget_seconds) if subject.works else dict
    ordered = in_order(findings)
    return Report(subject.name, spec.name, dtypes, ordered, measured, left_out, spec.margin, seconds, curves)


def _run(
    subject: Subject, check: str, findings: list[Finding], measured: dict[str, Any], left_out: dict[str, str]
) -> str | None:
    """Run a check; returns why it and those after it are left out, or None."""
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            # numpy's about rows without a number, which the findings tell.
            warnings.simplefilter("ignore", RuntimeWarning)
            result = CHECKS[check](subject)
    except OutOfTime:
        return "the budget of seconds was spent"
    except NothingFinite:
        left_out[check] = "no finite input: the value is not finite at those drawn"
        return None
    except ImportError as error:
        left_out[check] = f"{type(error).__name__}: {one_line(error)}"
        return None
    except (Exception, SystemExit) as error:
        said = f"{type(error).__name__}: {one_line(error)}"
        # Of a leaked tracer, the message is another each time.
        if not any(why.startswith(f"{type(error).__name__}:") for why in left_out.values()):
            message = f"it fails under JAX's jit, vmap or grad: {said}"
            advice = "make it a pure function: no globals kept, no numpy, no if on a value, no other effect"
            findings.append(Finding(check, "error", message, None, "", advice))
        left_out[check] = said
        return None
    findings += result.findings
    measured[check] = result.figures
    return None


def _several(name: str, values: Sequence[str], choices: tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(values, str) or not values:
        raise ValueError(f"{name} must be a list of names, such as {choices[:2]}; got {values!r}.")
    for value in values:
        check_choice(name, value, choices)
    return tuple(dict.fromkeys(values))
