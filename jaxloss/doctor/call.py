"""Whether a loss can be called at all: once, before anything is measured."""

from __future__ import annotations

import threading
import time
from typing import Any

import jax
import numpy as np

from jaxloss.doctor.report import Finding
from jaxloss.doctor.subject import OutOfTime, Subject, as_dtype

# A check calls the loss about this often while JAX traces it, whatever its arrays.
CALLS_OF_A_CHECK = 20

_NUM = 8


def first_calls(subject: Subject, budget_seconds: float) -> tuple[list[Finding], str | None]:
    """What the first calls showed, and why nothing else can be measured, or None."""
    drawn = subject.draw(_NUM)
    with jax.enable_x64(False):
        given = as_dtype(drawn, "float32")
    shown_by = ", ".join(f"{a.dtype.name}{list(a.shape)}" for a in subject.join(*given))
    results: list[Any] = []
    for _ in range(2):
        outcomes, seconds = _in_time(subject, given, budget_seconds)
        outcome = outcomes[0] if outcomes else None
        if isinstance(outcome, BaseException) and not isinstance(outcome, OutOfTime):
            said = f"{type(outcome).__name__}: {one_line(outcome)}"
            advice = 'pass kind=, such as "10 classes", or an input spec that fits the loss, or mend the loss'
            return [
                _error(f"called with {shown_by}, it raised {said}", None, "", advice)
            ], "it cannot be called"
        if not outcomes or isinstance(outcome, OutOfTime):
            advice = "pass a larger budget_seconds, or examine the loss without what makes it slow"
            message = f"one call did not end within {budget_seconds:g} s"
            return [_error(message, seconds, shown_by, advice)], "one call takes the whole budget"
        results.append(outcome)
        if seconds < budget_seconds / CALLS_OF_A_CHECK:
            continue
        if len(results) == 2:
            message = f"one call takes {seconds:.1f} s, and a check makes about {CALLS_OF_A_CHECK}"
            least = f"budget_seconds={1.5 * CALLS_OF_A_CHECK * seconds:.0f}"
            advice = f"examine the loss without what makes it slow, or pass {least} for each of the checks="
            return [
                Finding("call", "warning", message, seconds, shown_by, advice)
            ], f"a call takes {seconds:.1f} s"
    return _judge(subject, given, results, shown_by)


def _judge(
    subject: Subject, given: Any, results: list[Any], shown_by: str
) -> tuple[list[Finding], str | None]:
    try:
        if results[0] is None:  # which numpy takes for NaN
            raise TypeError
        first, second = (np.asarray(result, np.float64) for result in results)
    except (TypeError, ValueError):
        message = f"it returns {type(results[0]).__name__}, not a scalar"
        return [_error(message, None, shown_by, "return one number")], "it returns no number"
    findings = []
    if not np.array_equal(first, second, equal_nan=True):
        gap = float(np.max(np.abs(first - second)))
        advice = "make the randomness an argument (a key), and examine the loss with the key fixed"
        message = f"two calls with the same arguments differ by {gap:.3g}"
        return [_error(message, gap, shown_by, advice)], "it is random"
    if first.shape == (_NUM,) and "reduction" not in subject.options:
        subject.takes_mean = True
        message = f"it returns one value for each example, {list(first.shape)}; their mean is examined"
        advice = "take the mean before jax.grad, which needs a scalar"
        findings.append(Finding("call", "warning", message, None, shown_by, advice))
    elif first.shape:
        message = f"it returns a vector, of shape {list(first.shape)}, where a scalar is due"
        advice = "reduce it to one number, such as by a mean over the examples"
        return [_error(message, None, shown_by, advice)], "it returns a vector"
    try:
        with jax.enable_x64(False):
            jax.eval_shape(jax.value_and_grad(subject.loss), *given)
    except OutOfTime:
        advice = "pass a larger budget_seconds, or examine the loss without what makes it slow"
        return [*findings, _error("the first calls took the whole budget", None, shown_by, advice)], "no time"
    except (Exception, SystemExit) as error:
        message = f"JAX cannot trace and differentiate it: {type(error).__name__}: {one_line(error)}"
        advice = "use jnp in place of numpy, jnp.where in place of if, and floating point throughout"
        return [*findings, _error(message, None, shown_by, advice)], "it cannot be traced"
    return findings + ([] if np.isfinite(first).all() else _not_finite(subject, first, given, shown_by)), None


def _not_finite(subject: Subject, value: np.ndarray, given: Any, shown_by: str) -> list[Finding]:
    """What predictions the loss may be meant for, where it is not finite at those of the kind."""
    prediction, target = given
    is_of_classes = prediction.ndim > 1
    inside = jax.nn.softmax(prediction) if is_of_classes else jax.nn.sigmoid(prediction)
    with jax.enable_x64(False):
        if not np.isfinite(np.asarray(subject.loss(inside, target))).all():
            return []
    name = "softmax" if is_of_classes else "sigmoid"
    message = f"the value is {np.min(value):g} at predictions that are drawn, and finite at their {name}"
    advice = (
        f"it may want probabilities: give it the {name} of its input, better a loss of logits, or examine it "
        "with an InputSpec of low=0 and high=1"
    )
    return [_error(message, float(np.min(value)), shown_by, advice)]


def printing(text: str) -> list[Finding]:
    """The finding about what a loss printed, if anything."""
    if not text:
        return []
    message = f"it prints: {text.splitlines()[0][:80]!r}"
    advice = "leave it out; under jit a print runs once, when the function is traced, and shows no value"
    return [Finding("call", "warning", message, float(len(text.splitlines())), "", advice)]


def one_line(error: BaseException) -> str:
    """The first line of an error's message; JAX's next ones say where in the doctor it was traced."""
    text = str(error).strip().partition("\n")[0]
    return text if len(text) <= 300 else f"{text[:297]}..."


def _in_time(subject: Subject, given: Any, seconds: float) -> tuple[list[Any], float]:
    """The result of a call or what it raised, nothing where it did not end in time; and how long it took."""
    outcome: list[Any] = []

    def call() -> None:
        try:
            with jax.enable_x64(False):
                outcome.append(jax.block_until_ready(subject.loss(*given)))
        except BaseException as error:
            outcome.append(error)

    start = time.perf_counter()
    # Python cannot end a thread: one that outlives the budget must not keep the process alive.
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    return outcome, time.perf_counter() - start


def _error(message: str, number: float | None, shown_by: str, advice: str) -> Finding:
    return Finding("call", "error", message, number, shown_by, advice)
