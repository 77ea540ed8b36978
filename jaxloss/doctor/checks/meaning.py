"""What a model that is trained to the end predicts: the minimiser of the expected loss.

Some examples with the same features and different targets stand for a distribution of the target; what is
looked for is the one prediction for all of them with the least loss.

Shapes: D distributions, S starts, K examples that stand for a distribution, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxloss.doctor.checks._minimiser import minimise, minimise_numbers
from jaxloss.doctor.checks._probabilities import Best, judge
from jaxloss.doctor.checks._targets import best_of_real
from jaxloss.doctor.report import Result
from jaxloss.doctor.subject import Subject

NUM_DISTRIBUTIONS, NUM_EXAMPLES = 8, 24
NUM_STARTS = 4
# Two classes far ahead of the others, neither above a half: what sums of pairwise hinges get wrong.
PAIR_AHEAD = (11, 9)  # and 2 examples of each other
WIDEST = 30.0  # log-odds
TIE = 1e-3  # of a logit: minima are found to 1e-6
SURE = 1e3  # log-odds


def check(subject: Subject) -> Result:
    """Whether the best prediction is the distribution of the target, its likeliest class, or its centre."""
    look_at = {"classes": _classes, "yes_no": _yes_no, "real": _real, "pairs": _pairs}
    kind = subject.spec.kind
    if kind not in look_at:
        return Result(figures={"best prediction": "not looked for: the targets are of your own kind"})
    return look_at[kind](subject)


def minimisers_of_classes(subject: Subject) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distributions over the classes, the logits that minimise the mean loss there, and that loss.

    Returns:
        `[D, C]`, `[D, C]` and `[D]`.
    """
    rng = np.random.default_rng(5)
    labels_DK, p_DC = _draw_labels(rng, _num_classes(subject))
    starts_DSC = rng.standard_normal((NUM_DISTRIBUTIONS, NUM_STARTS, p_DC.shape[1]))
    starts_DSC[:, 0], starts_DSC[:, 1] = 0.0, np.log(p_DC)
    labels = np.repeat(labels_DK, NUM_STARTS, 0)

    def risk_and_gradient(logits: np.ndarray) -> Any:
        return _risk_of_classes(subject, logits, labels)

    z, values = minimise(risk_and_gradient, starts_DSC.reshape(-1, p_DC.shape[1]))
    far = np.asarray(risk_and_gradient(1e3 * z)[0])
    # Without a minimum, the loss far out is below any found.
    values = np.where(far < values - 1e2, -np.inf, np.where(np.isnan(values), np.inf, values))
    values_DS = values.reshape(NUM_DISTRIBUTIONS, NUM_STARTS)
    best_D, rows = values_DS.argmin(1), np.arange(NUM_DISTRIBUTIONS)
    return p_DC, z.reshape(starts_DSC.shape)[rows, best_D], values_DS[rows, best_D]


def _risk_of_classes(subject: Subject, logits: np.ndarray, labels: np.ndarray) -> Any:
    """Mean losses of examples with equal logits, and their gradients."""

    def risk(logits_C: jax.Array, labels_K: jax.Array) -> jax.Array:
        return subject.loss(jnp.broadcast_to(logits_C, (*labels_K.shape, *logits_C.shape)), labels_K)

    return subject.by_unit(jax.value_and_grad(risk), logits, labels, "float64", name="classes")


def _num_classes(subject: Subject) -> int:
    return subject.draw(1)[0].shape[-1]


def _draw_labels(rng: np.random.Generator, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels `[D, K]` and their shares `[D, C]`: every class is there, one is ahead by two examples."""
    rows = [np.array(PAIR_AHEAD + (2,) * (num_classes - 2))]
    num_examples = int(rows[0].sum())
    while len(rows) < NUM_DISTRIBUTIONS:
        counts = 1 + rng.multinomial(num_examples - num_classes, rng.dirichlet(np.ones(num_classes)))
        second, first = np.sort(counts)[-2:]
        if first - second >= 2:
            rows.append(counts)
    counts_DC = np.array(rows)
    labels = [np.repeat(np.arange(num_classes, dtype=np.int32), counts) for counts in counts_DC]
    return np.stack(labels), counts_DC / num_examples


def _classes(subject: Subject) -> Result:
    p_DC, z_DC, values_D = minimisers_of_classes(subject)
    q_DC = np.asarray(jax.nn.softmax(z_DC))
    is_right_D = np.array(
        [z[p.argmax()] > np.delete(z, p.argmax()).max() + TIE for z, p in zip(z_DC, p_DC, strict=True)]
    )
    logits, logs = (a - a.mean(1, keepdims=True) for a in (z_DC, np.log(p_DC)))
    num_classes = p_DC.shape[1]
    outputs = SURE * np.eye(num_classes)[[0, 1, 1]] * [[1.0], [1.0], [0.1]]
    # As many as in the distributions: the same program.
    labels = np.zeros((3, sum(PAIR_AHEAD) + 2 * (num_classes - 2)), np.int32)
    sure = _risk_of_classes(subject, outputs, labels)[0]
    return judge(Best(p_DC, z_DC, q_DC, is_right_D, values_D, logits, logs, sure, "softmax"), subject)


def _yes_no(subject: Subject) -> Result:
    def predict(log_odds: jax.Array, answers_K: jax.Array) -> jax.Array:
        return subject.loss(jnp.broadcast_to(log_odds, answers_K.shape), answers_K)

    return _two_sided(subject, predict)


def _pairs(subject: Subject) -> Result:
    def predict(difference: jax.Array, answers_K: jax.Array) -> jax.Array:
        ahead = difference * (answers_K - 0.5)
        return subject.loss(jnp.stack([ahead, -ahead], -1), ())

    return _two_sided(subject, predict)


def _two_sided(subject: Subject, risk: Callable[..., Any]) -> Result:
    """One number, positive for a yes or for the first of two."""
    counts_D = np.array([1, 3, 6, 10, 14, 18, 21, 23])
    answers_DK = (np.arange(NUM_EXAMPLES) < counts_D[:, None]).astype(float)
    p_D = answers_DK.mean(1)

    def risks(x_DP: np.ndarray) -> np.ndarray:
        answers = np.repeat(answers_DK, x_DP.shape[1], 0)
        values = subject.by_unit(risk, x_DP.reshape(-1), answers, "float64", name="two-sided")
        return values.reshape(x_DP.shape)

    bound_D = np.full(len(p_D), WIDEST)
    x_D, values_D = minimise_numbers(risks, -bound_D, bound_D)
    far_D = risks(1e3 * x_D[:, None])[:, 0]
    values_D = np.where(far_D < values_D - 1e2, -np.inf, values_D)
    q_D = 1 / (1 + np.exp(-x_D))
    is_right_D = np.where(p_D > 0.5, x_D > TIE, x_D < -TIE)
    sure = subject.by_unit(
        risk, SURE * np.array([1.0, -1.0, -0.1]), np.ones((3, NUM_EXAMPLES)), "float64", name="two-sided"
    )
    # Identity links of one number and of several are told apart by nothing: both as two columns.
    logits, log_p = (np.stack([-a, a], 1) for a in (x_D / 2, np.log(p_D / (1 - p_D)) / 2))
    p_DC, x_DC, q_DC = (np.stack([1 - a, a], 1) for a in (p_D, x_D, q_D))
    return judge(Best(p_DC, x_DC, q_DC, is_right_D, values_D, logits, log_p, sure, "sigmoid"), subject)


def _real(subject: Subject) -> Result:
    def risk(x: jax.Array, y_K: jax.Array) -> jax.Array:
        return subject.loss(jnp.broadcast_to(x, y_K.shape), y_K)

    def risks(x_DP: np.ndarray, y_DK: np.ndarray) -> np.ndarray:
        y = np.repeat(y_DK, x_DP.shape[1], 0)
        return subject.by_unit(risk, x_DP.reshape(-1), y, "float64", name="real").reshape(x_DP.shape)

    return best_of_real(risks, is_coarse=subject.is_coarse)
