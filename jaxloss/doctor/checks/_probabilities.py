"""What the outputs that minimise an expected loss are to the probabilities of the classes.

Shapes: D distributions, C classes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from jaxloss.doctor.report import Finding, Result
from jaxloss.doctor.subject import Subject

EXACT = 1e-3  # of a probability: minima are found to 1e-6
COARSE = 2.0**-4  # where the loss is rounded to bfloat16, as good as level this far from its minimum
CERTAIN = 0.99
BOUNDED = 1e-2  # relative


class Best(NamedTuple):
    """Distributions, and the outputs of the least expected loss.

    Args:
        p: `[D, C]`, the distributions.
        z: `[D, C]`, the outputs.
        q: `[D, C]`, their softmax.
        is_right: `[D]`, whether the likeliest class has the largest output.
        values: `[D]`, the least expected losses; -inf where there is none.
        logits: `[D, C]`, the outputs less their mean.
        log_p: `[D, C]`, logarithms of the distributions less their mean.
        sure: `[3]`, the loss of being sure of the right class, of a wrong one, and less sure of that.
        output: what makes probabilities of outputs.
    """

    p: np.ndarray
    z: np.ndarray
    q: np.ndarray
    is_right: np.ndarray
    values: np.ndarray
    logits: np.ndarray
    log_p: np.ndarray
    sure: np.ndarray
    output: str

    @property
    def of_distributions(self) -> tuple[np.ndarray, ...]:
        """All that has a row for each distribution."""
        return self.p, self.z, self.q, self.is_right, self.values, self.logits, self.log_p


def judge(best: Best, subject: Subject) -> Result:
    """Name what the outputs are."""
    where = _list(best.p[int(np.argmin(best.values))])
    if np.isneginf(best.values).any():
        message, advice = (
            "the expected loss falls without bound",
            "bound it below: look for a sign that is wrong",
        )
        finding = Finding("meaning", "error", message, None, f"targets distributed as {where}", advice)
        return Result([finding], {"best prediction": "none"})
    is_finite_D = np.isfinite(best.values)
    if not is_finite_D.any():
        return Result(figures={"best prediction": "not looked for: no expected loss is finite"})
    p, z, q, is_right, values, logits, log_p = (a[is_finite_D] for a in best.of_distributions)
    finite = Best(p, z, q, is_right, values, logits, log_p, best.sure, best.output)
    return _judge_finite(finite, COARSE if subject.is_coarse else EXACT)


def _judge_finite(best: Best, exact: float) -> Result:
    p_DC, q_DC = best.p, best.q
    shift = float(np.abs(q_DC - p_DC).max())
    figures: dict[str, Any] = {"largest error of the probabilities": shift}
    worst = int(np.abs(q_DC - p_DC).max(1).argmax())
    shown_by = f"targets distributed as {_list(p_DC[worst])}: the best prediction is {_list(q_DC[worst])}"

    def result(meaning: str, *finding: Any) -> Result:
        found = [Finding("meaning", *finding)] if finding else []
        return Result(found, {"best prediction": meaning} | figures)

    if shift < exact:
        return result("the probabilities (strictly proper)")
    if np.abs(best.z - p_DC).max() < exact:
        advice = "read the outputs as they are; no softmax or sigmoid belongs after them"
        message = f"the best outputs are the probabilities themselves, without {best.output}"
        return result("the probabilities, as they are", "note", message, shift, shown_by, advice)
    linked = _linked(best, exact)
    if linked is not None:
        meaning, severity, message, number, advice = linked
        return result(meaning, severity, message, number, shown_by, advice)
    if not best.is_right.all():
        wrong = int(np.argmin(best.is_right))
        shown_by = f"targets distributed as {_list(p_DC[wrong])}: the best prediction is {_list(q_DC[wrong])}"
        sets = f"{(~best.is_right).sum()} of {len(p_DC)} sets of targets"
        message = f"the likeliest class is not what it teaches, on {sets}"
        advice = "look for a sign, an order of arguments or a label that is wrong"
        number = float((~best.is_right).mean())
        return result(
            "neither probabilities nor the likeliest class", "error", message, number, shown_by, advice
        )
    message, advice = _calibrated(best, shift)
    meaning = "the likeliest class (classification-calibrated)"
    return result(meaning, "warning", message, shift, shown_by, advice)


def _linked(best: Best, exact: float) -> tuple[str, str, str, float, str] | None:
    """Meaning, severity, message, number and advice, where the probabilities can be read off the outputs."""
    factor, is_linear = _slope(best.logits, best.p, exact * np.abs(best.logits).max())
    if is_linear and factor > 0:
        advice = "read the probabilities off with that line, or train with cross entropy"
        message = f"the best outputs are linear in the probabilities, without {best.output}"
        return "linear in the probabilities", "note", message, factor, advice
    share, is_even = _slope(best.q - 1 / best.q.shape[1], best.p, exact)
    if is_even and 0 < share < 1:
        meaning = f"the probabilities, {1 - share:.3g} of them spread evenly"
        message = f"the best prediction is smoothed: {1 - share:.3g} of it is spread evenly over all classes"
        return (
            meaning,
            "note",
            message,
            1 - share,
            "take that share off the probabilities where calibration counts",
        )
    if is_even and share > 1:
        meaning = f"the probabilities, exaggerated by {share:.3g}"
        message = f"the best prediction is {share:.3g} times as far from even as the probabilities"
        advice = "leave out what is added to a probability before its logarithm: log_softmax needs nothing"
        return meaning, "warning", message, share, advice
    factor, weights_C, is_tilted = _tilt(best.logits, best.log_p, exact)
    if not is_tilted or factor <= 0:
        return None
    advice = "leave out what tilts them, or undo it after"
    if np.abs(weights_C - 1).max() < exact:
        meaning = f"the probabilities are {best.output}({factor:.3g} * logits)"
        return meaning, "warning", f"{meaning}: read without that factor they are wrong", factor, advice
    meaning = f"the probabilities, their classes weighted {_list(weights_C)}"
    return meaning, "warning", f"the best prediction is {meaning}", float(weights_C.max()), advice


def _calibrated(best: Best, shift: float) -> tuple[str, str]:
    """Message and advice, where the outputs tell the likeliest class alone."""
    right, wrong, less_wrong = best.sure
    if best.q.max(1).min() > CERTAIN:
        message = (
            "the best prediction is certain of the likeliest class, however little is ahead of the others"
        )
        advice = (
            "a loss in proportion to the probabilities does this, such as 1 - p, or a cross entropy whose "
            "arguments are swapped: the logarithm is that of the prediction"
        )
        return message, advice
    if wrong - less_wrong < BOUNDED * (wrong - right) and right > BOUNDED * (wrong - right):
        costs = f"to be sure and right costs {right:.3g}, wrong {wrong:.3g}"
        message = f"a {best.output} before the loss bounds it: {costs}"
        return message, f"look for a {best.output} on what the loss takes as logits, and leave it out"
    message = f"only the likeliest class is right: the probabilities are off by up to {shift:.2g}"
    return (
        message,
        "use the largest output, not its size; where probabilities count, train with cross entropy",
    )


def _slope(outputs_DC: np.ndarray, p_DC: np.ndarray, exact: float) -> tuple[float, bool]:
    """The factor between outputs of mean 0 and what each class has above an even share; whether it fits."""
    above_DC = p_DC - 1 / p_DC.shape[1]
    factor = float(np.sum(outputs_DC * above_DC) / np.sum(above_DC**2))
    return factor, bool(np.abs(factor * above_DC - outputs_DC).max() < exact * min(1.0, abs(factor)))


def _tilt(logits_DC: np.ndarray, log_p_DC: np.ndarray, exact: float) -> tuple[float, np.ndarray, bool]:
    """The factor and the weights of classes with which `softmax(factor * logits) ~ weights * p`."""
    deviation = logits_DC - logits_DC.mean(0), log_p_DC - log_p_DC.mean(0)
    factor = float(np.sum(deviation[0] * deviation[1]) / max(np.sum(deviation[0] ** 2), 1e-30))
    log_weights_C = (factor * logits_DC - log_p_DC).mean(0)
    tilted_DC = np.asarray(jax.nn.softmax(factor * logits_DC - log_weights_C))
    is_linear = np.abs(tilted_DC - np.asarray(jax.nn.softmax(log_p_DC))).max() < exact
    return factor, np.exp(log_weights_C) / np.exp(log_weights_C).mean(), bool(is_linear)


def _list(numbers: np.ndarray) -> str:
    return f"[{', '.join(f'{number:.2g}' for number in numbers)}]"
