"""Decide whether the arrays of two results agree, and whether their agreement would mean anything."""

import numpy as np

from jaxloss.testing._run import Arrays, Result
from jaxloss.testing.measure import difference
from jaxloss.testing.report import Comparison


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
                "entries are not finite in both): agreement there would mean nothing. allow_nonfinite=True "
                "compares where they are"
            )
    if all(a.size == 0 for _, a, _ in pairs):
        raise ValueError("every output and gradient is empty: there is nothing to compare")
    gradients = [x for _, a, b in pairs for x in (a, b)][2 * len(torch_result.values) :]
    if gradients and not any(np.any(x != 0.0) for x in gradients):
        raise ValueError(
            "every gradient is exactly 0 in both frameworks, so none was compared: choose inputs at which "
            "the output changes, or compare values alone with wrt=()"
        )


def compare_arrays(
    jax_arrays: Arrays, torch_arrays: Arrays, truths: Arrays, dtype: str, allowed: float
) -> list[Comparison]:
    """Compare each array with torch's, and both with the truth."""
    return [
        compare(name, (jax_arrays[name], theirs, truths[name]), dtype, allowed)
        for name, theirs in torch_arrays.items()
    ]


def compare(
    name: str,
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray],
    dtype: str,
    allowed: float,
    scale: float | None = None,
) -> Comparison:
    """Compare JAX's array with torch's; in narrower dtypes, near the float64 truth will do as well.

    Args:
        name: of the array.
        arrays: JAX's, torch's and the true one.
        dtype: of both sides' arithmetic.
        allowed: error in eps of max; whole numbers and booleans must be equal.
        scale: replaces `max|expected|`.
    """
    ours, theirs, truth = arrays
    direct = difference(ours, theirs, dtype, scale=scale)
    if theirs.dtype.kind in "iub":
        equal = np.array_equal(ours, theirs)
        return Comparison(name, dtype, direct.eps_of_max, 0.0, equal, direct)
    jax_error = torch_error = None
    passed = direct.eps_of_max <= allowed
    if dtype != "float64":
        jax_error = difference(ours, truth, dtype, scale=scale).eps_of_max
        torch_error = difference(theirs, truth, dtype, scale=scale).eps_of_max
        passed = passed or jax_error <= allowed
    is_zero = scale is not None
    return Comparison(
        name, dtype, direct.eps_of_max, allowed, passed, direct, jax_error, torch_error, is_zero
    )


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
