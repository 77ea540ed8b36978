"""Which centre of a distribution of numbers a loss teaches.

Shapes: D distributions, K numbers that stand for a distribution, P predictions tried in each.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jaxloss.doctor.checks._minimiser import minimise_numbers
from jaxloss.doctor.report import Finding, Result, Severity

NUM_TARGETS = 101  # odd, so that the median is one number
EXACT = 1e-3  # of a standard deviation
COARSE = 0.1  # where the loss is rounded to bfloat16, as good as level this far from its minimum


def draw_targets() -> np.ndarray:
    """Skewed samples, `[D, K]`, whose mean, median and mode lie apart."""
    rng = np.random.default_rng(3)
    skew = np.array([0.5, 0.7, 0.9, -0.5, -0.7, -0.9])[:, None]
    y_DK = np.exp(np.abs(skew) * rng.standard_normal((len(skew), NUM_TARGETS))) * np.sign(skew)
    return y_DK + rng.uniform(-1, 1, (len(skew), 1))


def best_of_real(risks: Callable[[np.ndarray, np.ndarray], np.ndarray], *, is_coarse: bool) -> Result:
    """Name the centre that minimises the expected loss.

    Args:
        risks: `([D, P], [D, K]) -> [D, P]`: the loss of predicting each number for all K targets.
        is_coarse: whether the loss computes in 16 bits.
    """
    y_DK = draw_targets()
    low_D, high_D = y_DK.min(1), y_DK.max(1)
    span_D = high_D - low_D
    some_DP = risks(np.linspace(low_D, high_D, 9, axis=1), y_DK)
    if (np.ptp(some_DP, axis=1) <= 1e-9 * np.abs(some_DP).max(1)).all():
        return _undefined("is the same whatever the prediction")
    x_D, values_D = minimise_numbers(lambda x_DP: risks(x_DP, y_DK), low_D - span_D, high_D + span_D)
    if np.isneginf(values_D).any():
        return _undefined("falls without bound")
    is_finite_D = np.isfinite(values_D)
    if not is_finite_D.any():
        return Result(figures={"best prediction": "not looked for: no expected loss is finite"})
    x_D, y_DK, low_D, high_D = (a[is_finite_D] for a in (x_D, y_DK, low_D, high_D))
    span_D = high_D - low_D
    sd_D = y_DK.std(1)
    centres = f"mean {y_DK[0].mean():.3g} and median {np.median(y_DK[0]):.3g}"
    shown_by = f"{NUM_TARGETS} targets of {centres}: the best prediction is {x_D[0]:.3g}"
    is_outside_D = (x_D < low_D - 0.01 * span_D) | (x_D > high_D + 0.01 * span_D)
    bias = float(((x_D - y_DK.mean(1)) / sd_D)[np.abs((x_D - y_DK.mean(1)) / sd_D).argmax()])
    meaning, severity, message, advice = _name(x_D, y_DK, bias, COARSE if is_coarse else EXACT)
    if is_outside_D.any():
        meaning, severity = "outside the targets", "error"
        message = (
            f"the best prediction lies outside the targets, {bias:+.2g} standard deviations from their mean"
        )
        advice = (
            "look for a sign or an order of arguments that is wrong, or for a term that moves the prediction"
        )
    findings = [Finding("meaning", severity, message, bias, shown_by, advice)] if severity else []
    return Result(findings, {"best prediction": meaning, "from the mean, in standard deviations": bias})


def _undefined(what: str) -> Result:
    message = f"the loss of a batch that is predicted alike {what}"
    advice = "give it batches whose predictions differ, and see that none comes without"
    finding = Finding("meaning", "warning", message, None, "all predictions equal", advice)
    return Result([finding], {"best prediction": "undefined"})


def _name(
    x_D: np.ndarray, y_DK: np.ndarray, bias: float, exact: float
) -> tuple[str, Severity | None, str, str]:
    """The centre's name; severity, message and advice of a finding, None where there is none."""
    sd_D, mean_D, median_D = y_DK.std(1), y_DK.mean(1), np.median(y_DK, 1)
    if (np.abs(x_D - mean_D) < exact * sd_D).all():
        return "the mean", None, "", ""
    quantile = _quantile(x_D, y_DK)
    # Within a target of the middle: a loss that is level between two is as well served by either.
    if quantile is not None and abs(np.mean(quantile) - 0.5) <= 1 / NUM_TARGETS:
        return "the median", None, "", ""
    if quantile is not None:
        name = f"the {np.mean(quantile):.2g} quantile"
        return (
            name,
            "note",
            f"the best prediction is {name}",
            "use it where over- and underestimates cost unequally",
        )
    below_D = np.abs(np.minimum(y_DK - x_D[:, None], 0)).sum(1)
    above_D = np.maximum(y_DK - x_D[:, None], 0).sum(1)
    expectiles = below_D / (below_D + above_D)
    if np.ptp(expectiles) < exact:
        name = f"the {expectiles.mean():.2g} expectile"
        return (
            name,
            "note",
            f"the best prediction is {name}",
            "use it where over- and underestimates cost unequally",
        )
    slack_D = exact * sd_D
    if (
        (x_D > np.minimum(mean_D, median_D) - slack_D) & (x_D < np.maximum(mean_D, median_D) + slack_D)
    ).all():
        message = "the best prediction lies between the mean and the median"
        return "between mean and median", "note", message, "expect predictions that outliers move a little"
    if (np.abs(x_D - _mode(y_DK)) < 0.25 * sd_D).all():
        message = "the best prediction lies near the mode: what is far off is ignored"
        return (
            "near the mode",
            "note",
            message,
            "start near the targets: from far off there is no gradient back",
        )
    message = (
        f"the best prediction is no centre of the targets: {bias:+.2g} standard deviations from their mean"
    )
    advice = "expect biased predictions; for the mean use mse_loss, for the median l1_loss"
    return "none of mean, median, quantile and mode", "warning", message, advice


def _quantile(x_D: np.ndarray, y_DK: np.ndarray) -> tuple[float, float] | None:
    """The levels at which `x` is a quantile in every distribution, if there are any."""
    near_D = 1e-6 * np.ptp(y_DK, axis=1)
    low = ((y_DK < (x_D - near_D)[:, None]).mean(1)).max()
    high = ((y_DK <= (x_D + near_D)[:, None]).mean(1)).min()
    is_at_target_D = (np.abs(y_DK - x_D[:, None]).min(1) < near_D) | (high == low)
    return (float(low), float(high)) if low <= high and is_at_target_D.all() else None


def _mode(y_DK: np.ndarray) -> np.ndarray:
    """Where a smooth estimate of the density is highest, by Silverman's rule."""
    quartiles = np.quantile(y_DK, [0.25, 0.75], axis=1)
    width_D = 0.9 * np.minimum(y_DK.std(1), (quartiles[1] - quartiles[0]) / 1.34) * NUM_TARGETS**-0.2
    grid_DP = np.linspace(y_DK.min(1), y_DK.max(1), 201, axis=1)
    density = np.exp(-(((grid_DP[:, :, None] - y_DK[:, None]) / width_D[:, None, None]) ** 2) / 2).sum(2)
    return grid_DP[np.arange(len(y_DK)), density.argmax(1)]
