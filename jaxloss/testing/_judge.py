"""Decide whether the arrays of two results agree, and whether their agreement would mean anything."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxloss.testing._run import Arrays, Leaves, Result
from jaxloss.testing.measure import EPS, difference
from jaxloss.testing.report import Comparison

# Where torch itself is further from the float64 truth than that, JAX may be this much further than torch.
TIMES_TORCH_ERROR = 3.0

# A float64 gradient below this many eps of what gradients of the problem are like is zero but for rounding.
_NOISE = 64.0

# Noise changes by at least this share of itself when the inputs move; a gradient that is only small does not.
_NOISE_CHANGES_BY = 1e-2

# Where the problem is ill-conditioned, the allowance grows with its condition number, but not beyond this: a
# bug's effect must not pass for rounding.
MOST_TIMES_ALLOWED = 2048.0


def draw_cotangents(values: Arrays, seed: int) -> Arrays:
    """Random, away from 0 and 1, and exact in every dtype: multiples of 1/16 between 1/2 and 3/2."""
    rng = np.random.default_rng([seed, 1])
    return {
        name: rng.choice([-1.0, 1.0], value.shape)
        * (1 + rng.choice([-1, 1], value.shape) * rng.integers(1, 9, value.shape) / 16)
        for name, value in values.items()
    }


def check_meaning(jax_result: Result, torch_result: Result, allow_nonfinite: bool) -> None:
    """Raise where two results that agree would agree about nothing."""
    pairs = [
        (name, ours[name], theirs[name])
        for ours, theirs in (
            (jax_result.values, torch_result.values),
            (jax_result.gradients, torch_result.gradients),
        )
        for name in theirs
    ]
    for name, a, b in pairs:
        both = (
            ~np.isfinite(a) & ~np.isfinite(b)
            if a.dtype.kind == "f" and b.dtype.kind == "f"
            else np.array(False)
        )
        if both.any() and not allow_nonfinite:
            at = tuple(int(i) for i in np.argwhere(both)[0])
            raise ValueError(
                f"{name} is {a[at]} in JAX and {b[at]} in torch at {at} ({int(both.sum())} of {both.size} "
                "entries are "
                "not finite in both): agreement there would mean nothing. allow_nonfinite=True compares "
                "where they are"
            )
    if all(a.size == 0 for _, a, _ in pairs):
        raise ValueError("every output and gradient is empty: there is nothing to compare")
    gradients = [x for _, a, b in pairs for x in (a, b)][2 * len(torch_result.values) :]
    if gradients and not any(np.any(x != 0.0) for x in gradients):
        raise ValueError(
            "every gradient is exactly 0 in both frameworks, so none was compared: choose inputs at which "
            "the output changes, or compare values alone with wrt=()"
        )


def gradient_scale(result: Result, cotangents: Arrays, inputs: tuple[Any, ...], params: Any) -> float:
    """How large a gradient of this problem is: the largest there is, or value over input."""
    largest = max((_largest(gradient) for gradient in result.gradients.values()), default=0.0)
    arrays = [*Leaves.of(inputs).arrays().values(), *jax.tree.leaves(params)]
    input_size = max((_largest(array) for array in arrays if array.dtype.kind not in "iub"), default=0.0)
    value = max(_largest(value) * _largest(cotangents[name]) for name, value in result.values.items())
    return max(largest, value / input_size if input_size else 0.0)


def _largest(array: np.ndarray) -> float:
    array = np.asarray(array, np.float64)
    return float(np.max(np.abs(array[np.isfinite(array)]), initial=0.0))


def compare_arrays(
    jax_arrays: Arrays, torch_arrays: Arrays, truths: Arrays, dtype: str, allowed: float
) -> list[Comparison]:
    """Compare each array with torch's, and both with the truth."""
    return [
        _compare(name, (jax_arrays[name], theirs, truths[name]), dtype, allowed)
        for name, theirs in torch_arrays.items()
    ]


def _compare(
    name: str,
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray],
    dtype: str,
    allowed: float,
    scale: float | None = None,
) -> Comparison:
    ours, theirs, truth = arrays
    direct = difference(ours, theirs, dtype, scale=scale)
    jax_error = torch_error = None
    passed = direct.eps_of_max <= allowed
    if dtype != "float64":
        jax_error = difference(ours, truth, dtype, scale=scale).eps_of_max
        torch_error = difference(theirs, truth, dtype, scale=scale).eps_of_max
        limit = max(allowed, TIMES_TORCH_ERROR * torch_error) if np.isfinite(torch_error) else allowed
        passed = passed or jax_error <= limit
    return Comparison(
        name,
        dtype,
        direct.eps_of_max,
        allowed,
        passed,
        direct,
        jax_error,
        torch_error,
        is_zero=scale is not None,
    )


def reconsider(
    comparison: Comparison,
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray],
    moved: np.ndarray,
    step: float,
    natural: float,
) -> Comparison:
    """Look at a failed comparison again, knowing what a small move of the inputs does to the truth.

    No algorithm can beat an ill-conditioned problem, and a gradient that is analytically zero is rounding
    noise on both sides, which has no relative error. Neither excuse is taken for a gradient that is merely
    small.

    Args:
        comparison: that failed.
        arrays: JAX's, torch's and the true one.
        moved: the true one with all inputs moved by `step` eps.
        step: in eps of the dtype.
        natural: how large gradients of the problem are.
    """
    dtype, allowed, truth = comparison.dtype, comparison.allowed, arrays[2]
    condition = difference(moved, truth, dtype).eps_of_max / step
    if comparison.error <= MOST_TIMES_ALLOWED * allowed:
        allowed = min(max(1.0, condition) * allowed, MOST_TIMES_ALLOWED * allowed)
        passed = comparison.error <= allowed
        return replace(comparison, allowed=allowed, condition=condition, passed=passed)
    is_tiny = _largest(truth) <= _NOISE * EPS["float64"] * natural
    is_noise = not np.any(truth) or condition * step * EPS[dtype] > _NOISE_CHANGES_BY
    if is_tiny and is_noise and natural > 0.0:
        return _compare(comparison.what, arrays, dtype, allowed, natural)
    return comparison


def relative_l2(
    jax_result: Result, torch_result: Result, truth: Result, dtype: str
) -> tuple[float, float | None]:
    """How far all gradients together are from the truth, relative to its length: JAX's, and torch's own."""
    names = list(truth.gradients)

    def flat(result: Result) -> np.ndarray:
        return np.concatenate([np.ravel(result.gradients[name]).astype(np.float64) for name in names])

    expected = flat(truth)
    # An infinity in both makes this NaN: there is no distance then.
    with np.errstate(invalid="ignore", divide="ignore"):
        length = np.linalg.norm(expected)
        ours, theirs = (
            float(np.linalg.norm(flat(result) - expected) / length) for result in (jax_result, torch_result)
        )
    return ours, None if dtype == "float64" else theirs
