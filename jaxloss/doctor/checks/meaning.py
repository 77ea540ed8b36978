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
from jaxloss.doctor.checks._targets import best_of_real
from jaxloss.doctor.inputs import NUM_CLASSES
from jaxloss.doctor.report import Finding, Result
from jaxloss.doctor.subject import Subject

NUM_DISTRIBUTIONS, NUM_EXAMPLES = 8, 24
NUM_STARTS = 4
# Two classes far ahead of the others, neither above a half: what sums of pairwise hinges get wrong.
PAIR_AHEAD = (11, 9, 2, 2)
WIDEST = 30.0  # log-odds
EXACT = 1e-3  # of a probability: minima are found to 1e-6


def check(subject: Subject) -> Result:
    """Whether the best prediction is the distribution of the target, its likeliest class, or its centre."""
    look_at = {"classes": _classes, "yes_no": _yes_no, "real": _real, "pairs": _pairs}
    name = subject.spec.name
    if name not in look_at:
        return Result(figures={"best prediction": "not looked for: the targets are of your own kind"})
    return look_at[name](subject)


def minimisers_of_classes(subject: Subject) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distributions over the classes, the logits that minimise the mean loss there, and that loss.

    Returns:
        `[D, C]`, `[D, C]` and `[D]`.
    """
    rng = np.random.default_rng(5)
    labels_DK, p_DC = _draw_labels(rng)
    starts_DSC = rng.standard_normal((NUM_DISTRIBUTIONS, NUM_STARTS, NUM_CLASSES))
    starts_DSC[:, 0], starts_DSC[:, 1] = 0.0, np.log(p_DC)
    labels = np.repeat(labels_DK, NUM_STARTS, 0)

    def risk(logits_C: jax.Array, labels_K: jax.Array) -> jax.Array:
        return subject.loss(jnp.broadcast_to(logits_C, (NUM_EXAMPLES, NUM_CLASSES)), labels_K)

    def risk_and_gradient(logits: np.ndarray) -> Any:
        return subject.by_unit(jax.value_and_grad(risk), logits, labels, "float64", name="classes")

    z, values = minimise(risk_and_gradient, starts_DSC.reshape(-1, NUM_CLASSES))
    far = np.asarray(risk_and_gradient(1e3 * z)[0])
    # Without a minimum, the loss far out is below any found.
    values = np.where(far < values - 1e2, -np.inf, np.where(np.isnan(values), np.inf, values))
    values_DS = values.reshape(NUM_DISTRIBUTIONS, NUM_STARTS)
    best_D, rows = values_DS.argmin(1), np.arange(NUM_DISTRIBUTIONS)
    return p_DC, z.reshape(starts_DSC.shape)[rows, best_D], values_DS[rows, best_D]


def _draw_labels(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Labels `[D, K]` and their shares `[D, C]`: every class is there, one is ahead by two examples."""
    rows = [np.array(PAIR_AHEAD)]
    while len(rows) < NUM_DISTRIBUTIONS:
        counts = 1 + rng.multinomial(NUM_EXAMPLES - NUM_CLASSES, rng.dirichlet(np.ones(NUM_CLASSES)))
        second, first = np.sort(counts)[-2:]
        if first - second >= 2:
            rows.append(counts)
    counts_DC = np.array(rows)
    labels = [np.repeat(np.arange(NUM_CLASSES, dtype=np.int32), counts) for counts in counts_DC]
    return np.stack(labels), counts_DC / NUM_EXAMPLES


def _classes(subject: Subject) -> Result:
    p_DC, z_DC, values_D = minimisers_of_classes(subject)
    q_DC = np.asarray(jax.nn.softmax(z_DC))
    is_right_D = np.array(
        [z[p.argmax()] > np.delete(z, p.argmax()).max() + EXACT for z, p in zip(z_DC, p_DC, strict=True)]
    )
    logits, logs = (a - a.mean(1, keepdims=True) for a in (z_DC, np.log(p_DC)))
    return _judge_probabilities(p_DC, z_DC, q_DC, is_right_D, values_D, logits, logs, output="softmax")


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
    is_right_D = np.where(p_D > 0.5, x_D > EXACT, x_D < -EXACT)
    # Identity links of one number and of several are told apart by nothing: both as two columns.
    both = [np.stack([-a, a], 1) for a in (x_D / 2, np.log(p_D / (1 - p_D)) / 2)]
    p_DC, x_DC, q_DC = (np.stack([1 - a, a], 1) for a in (p_D, x_D, q_D))
    return _judge_probabilities(p_DC, x_DC, q_DC, is_right_D, values_D, both[0], both[1], output="sigmoid")


def _judge_probabilities(
    p_DC: np.ndarray,
    z_DC: np.ndarray,
    q_DC: np.ndarray,
    is_right_D: np.ndarray,
    values_D: np.ndarray,
    logits_DC: np.ndarray,
    log_p_DC: np.ndarray,
    *,
    output: str,
) -> Result:
    """What outputs `q` (from `z`, and centred logits) are to distributions `p` (and their centred logs)."""
    shift = float(np.abs(q_DC - p_DC).max())
    figures: dict[str, Any] = {"largest error of the probabilities": shift}
    worst = int(np.abs(q_DC - p_DC).max(1).argmax())
    shown_by = f"targets distributed as {_list(p_DC[worst])}: the best prediction is {_list(q_DC[worst])}"

    def result(meaning: str, *finding: Any) -> Result:
        found = [Finding("meaning", *finding)] if finding else []
        return Result(found, {"best prediction": meaning} | figures)

    if not np.isfinite(values_D).all():
        where = _list(p_DC[int(np.argmin(np.isfinite(values_D)))])
        what = (
            "falls without bound" if np.isneginf(values_D).any() else "is NaN or infinite wherever one looks"
        )
        advice = "bound it below: look for a sign that is wrong"
        return result(
            "none", "error", f"the expected loss {what}", None, f"targets distributed as {where}", advice
        )
    if shift < EXACT:
        return result("the probabilities (strictly proper)")
    if np.abs(z_DC - p_DC).max() < EXACT:
        advice = "read the outputs as they are; no softmax or sigmoid belongs after them"
        message = f"the best outputs are the probabilities themselves, without {output}"
        return result("the probabilities, as they are", "note", message, shift, shown_by, advice)
    share, is_even = _smoothing(p_DC, q_DC)
    if is_even and 0 < share < 1:
        meaning = f"the probabilities, {1 - share:.3g} of them spread evenly"
        message = f"the best prediction is smoothed: {1 - share:.3g} of it is spread evenly over all classes"
        advice = "take that share off the probabilities where calibration counts"
        return result(meaning, "note", message, 1 - share, shown_by, advice)
    if is_even and share > 1:
        meaning = f"the probabilities, exaggerated by {share:.3g}"
        message = f"the best prediction is {share:.3g} times as far from even as the probabilities"
        advice = "leave out what is added to a probability before its logarithm: log_softmax needs nothing"
        return result(meaning, "warning", message, share, shown_by, advice)
    factor, weights_C, is_linear = _tilt(logits_DC, log_p_DC)
    if is_linear and factor > 0:
        return result(
            *_tilted(factor, weights_C, output), shown_by, "leave out what tilts them, or undo it after"
        )
    if not is_right_D.all():
        wrong = int(np.argmin(is_right_D))
        shown_by = f"targets distributed as {_list(p_DC[wrong])}: the best prediction is {_list(q_DC[wrong])}"
        sets = f"{(~is_right_D).sum()} of {len(p_DC)} sets of targets"
        message = f"the likeliest class is not what it teaches, on {sets}"
        advice = "look for a sign, an order of arguments or a label that is wrong"
        number = float((~is_right_D).mean())
        return result(
            "neither probabilities nor the likeliest class", "error", message, number, shown_by, advice
        )
    message = f"only the likeliest class is right: the probabilities are off by up to {shift:.2g}"
    advice = "use the largest output, not its size; where probabilities count, train with cross entropy"
    return result(
        "the likeliest class (classification-calibrated)", "warning", message, shift, shown_by, advice
    )


def _smoothing(p_DC: np.ndarray, q_DC: np.ndarray) -> tuple[float, bool]:
    """The share of `p` in `q`, if the rest is spread evenly, and whether it is."""
    even = 1 / p_DC.shape[1]
    share = float(np.sum((q_DC - even) * (p_DC - even)) / np.sum((p_DC - even) ** 2))
    return share, bool(np.abs(even + share * (p_DC - even) - q_DC).max() < EXACT)


def _tilt(logits_DC: np.ndarray, log_p_DC: np.ndarray) -> tuple[float, np.ndarray, bool]:
    """The factor and the weights of classes with which `softmax(factor * logits) ~ weights * p`."""
    deviation = logits_DC - logits_DC.mean(0), log_p_DC - log_p_DC.mean(0)
    factor = float(np.sum(deviation[0] * deviation[1]) / max(np.sum(deviation[0] ** 2), 1e-30))
    log_weights_C = (factor * logits_DC - log_p_DC).mean(0)
    tilted_DC = np.asarray(jax.nn.softmax(factor * logits_DC - log_weights_C))
    is_linear = np.abs(tilted_DC - np.asarray(jax.nn.softmax(log_p_DC))).max() < EXACT
    return factor, np.exp(log_weights_C) / np.exp(log_weights_C).mean(), bool(is_linear)


def _tilted(factor: float, weights_C: np.ndarray, output: str) -> tuple[str, str, str, float]:
    if np.abs(weights_C - 1).max() < EXACT:
        meaning = f"the probabilities are {output}({factor:.3g} * logits)"
        return meaning, "warning", f"{meaning}: read without that factor they are wrong", factor
    meaning = f"the probabilities, their classes weighted {_list(weights_C)}"
    return meaning, "warning", f"the best prediction is {meaning}", float(weights_C.max())


def _real(subject: Subject) -> Result:
    def risk(x: jax.Array, y_K: jax.Array) -> jax.Array:
        return subject.loss(jnp.broadcast_to(x, y_K.shape), y_K)

    def risks(x_DP: np.ndarray, y_DK: np.ndarray) -> np.ndarray:
        y = np.repeat(y_DK, x_DP.shape[1], 0)
        return subject.by_unit(risk, x_DP.reshape(-1), y, "float64", name="real").reshape(x_DP.shape)

    return best_of_real(risks)


def _list(numbers: np.ndarray) -> str:
    return f"[{', '.join(f'{number:.2g}' for number in numbers)}]"
