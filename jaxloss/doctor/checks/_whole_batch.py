"""Why the parts of a batch do not add up to the whole: the mistakes that show themselves.

Shapes: N examples, C classes.
"""

from __future__ import annotations

import contextlib
from typing import Any

import jax
import numpy as np

from jaxloss.doctor.report import Severity
from jaxloss.doctor.subject import Subject, as_dtype

FEW = 4
COUPLED = 1e-6  # relative, of second derivatives in float64


def cause(
    subject: Subject, drawn: tuple[np.ndarray, Any], tolerance: float
) -> tuple[Severity, str, str] | None:
    """Severity, what is so and what to do, if one of three mistakes explains it."""
    if _is_blind_to_pairs(subject, drawn, tolerance):
        severity: Severity = "error" if subject.spec.kind else "warning"
        message = "it is the same whichever prediction a target belongs to"
        return (
            severity,
            message,
            "look for [N, 1] against [N], which broadcast to [N, N]: give both one shape",
        )
    if _counts_classes_alike(subject, drawn, tolerance):
        message = "each class of the batch counts alike, however few its examples"
        return "warning", message, "take one mean over the examples, with fixed weights of the classes if any"
    if _normalises_columns(subject):
        message = "it normalises each class over the batch, and not each example over its classes"
        return "error", message, "take softmax, log_softmax or logsumexp over the last axis: axis=-1"
    return None


def _is_blind_to_pairs(subject: Subject, drawn: Any, tolerance: float) -> bool:
    """Whether the second argument may be in another order than the first, and yet matters."""
    (first, *rest), (_, *others) = (
        subject.join(*arguments) for arguments in (drawn, subject.draw(len(drawn[0]), seed=9))
    )
    if not rest:
        return False
    turned = [np.roll(a, 1, axis=0) for a in rest]
    value, same, other = (
        _value(subject, *subject.split((first, *arguments))) for arguments in (rest, turned, others)
    )
    return _is_close(same, value, tolerance) and not _is_close(other, value, tolerance)


def _counts_classes_alike(subject: Subject, drawn: Any, tolerance: float) -> bool:
    """Whether giving the examples of one class twice changes nothing."""
    if subject.spec.kind not in ("classes", "yes_no"):
        return False
    prediction, target = drawn
    rows = np.concatenate([np.arange(len(target)), np.flatnonzero(target == target[0])])
    return _is_close(
        _value(subject, prediction[rows], target[rows]), _value(subject, prediction, target), tolerance
    )


def _normalises_columns(subject: Subject) -> bool:
    """Whether second derivatives tie the examples of one class, and no classes of one example."""
    if subject.spec.kind != "classes" or subject.is_coarse:
        return False
    prediction, target = subject.draw(FEW, seed=4)
    with contextlib.suppress(Exception), jax.enable_x64(True):  # a custom rule may have no second derivative
        second = jax.jit(jax.jacrev(jax.grad(subject.loss)))(*as_dtype((prediction, target), "float64"))
        size = np.abs(np.asarray(second))  # [N, C, N, C]
        examples, classes = (np.arange(n) for n in prediction.shape)
        ties = size[:, classes, :, classes].max(0)  # [N, N], of one class
        ties = max(ties[i, j] for i in examples for j in examples if i != j)
        own = size[examples, :, examples, :].max(0)  # [C, C], of one example
        own = max(own[i, j] for i in classes for j in classes if i != j)
        return bool(ties > COUPLED * size.max() > own)
    return False


def _value(subject: Subject, prediction: Any, target: Any) -> float:
    with jax.enable_x64(True):
        return float(jax.jit(subject.loss)(*as_dtype((prediction, target), "float64")))


def _is_close(value: float, expected: float, tolerance: float) -> bool:
    return abs(value - expected) <= tolerance * max(abs(expected), 1e-12)
