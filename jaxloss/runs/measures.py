"""Numbers read off a loss curve: how fast it falls, and how steadily."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np


def smooth(values: Sequence[float], window: int) -> np.ndarray:
    """Centred moving average; near the ends, over the values that there are."""
    kernel = np.ones(min(window, len(values)))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def fluctuation(values: Sequence[float], window: int) -> float:
    """Standard deviation of a curve around its own moving average, where the whole window fits.

    The average follows each of its values by a share of 1/window, which the result is corrected for. NaN for
    fewer values than a window.

    >>> noise = np.random.default_rng(0).normal(scale=0.5, size=4000)
    >>> round(fluctuation(noise + np.linspace(8, 4, 4000), window=40), 1)
    0.5
    """
    if window < 2 or len(values) < window:
        return float("nan")
    average = np.convolve(values, np.full(window, 1 / window), "valid")
    first = (window - 1) // 2
    residual = np.asarray(values)[first : first + len(average)] - average
    return float(np.sqrt(np.mean(residual**2) / (1 - 1 / window)))


def first_step_below(steps: Sequence[int], values: Sequence[float], threshold: float) -> float | None:
    """Step at which a curve first falls to a threshold, read between its points; None if it never does.

    >>> first_step_below([0, 80, 160], [8.0, 6.0, 5.0], 7.0)
    40.0
    """
    points = list(zip(steps, values, strict=True))
    if points and points[0][1] <= threshold:
        return float(points[0][0])
    for (step, value), (next_step, next_value) in itertools.pairwise(points):
        if next_value <= threshold:
            return step + (value - threshold) / (value - next_value) * (next_step - step)
    return None
