"""Compare arrays of either framework, in units of the precision that they were computed in."""

import numpy as np
import torch

from parity_tests.tolerances import EPS


def to_numpy(array) -> np.ndarray:
    """A numpy array from a JAX array, a torch tensor or anything array-like; 16-bit floats become float64."""
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        if array.dtype in (torch.bfloat16, torch.float16):
            array = array.double()
        return array.numpy()
    array = np.asarray(array)
    return array.astype(np.float64) if array.dtype.name in ("bfloat16", "float16") else array


def error_in_eps(actual, expected, dtype: str | None = None, scale: float | None = None) -> float:
    """`max|actual - expected| / (eps * max|expected|)`; NaN and infinities must match in place and sign.

    `dtype` names the precision whose epsilon is the unit; by default, that of `actual`. `scale` replaces
    `max|expected|`, for arrays that are analytically zero. A difference in shape, or a NaN or infinity on one
    side only, is infinite.
    """
    dtype = dtype or str(actual.dtype if hasattr(actual, "dtype") else np.asarray(actual).dtype)
    dtype = dtype.removeprefix("torch.")
    a, b = (np.asarray(to_numpy(x), dtype=np.float64) for x in (actual, expected))
    if a.shape != b.shape:
        return float("inf")
    finite = np.isfinite(b)
    if not np.array_equal(np.isfinite(a), finite) or not np.array_equal(
        a[~finite], b[~finite], equal_nan=True
    ):
        return float("inf")
    difference = float(np.max(np.abs(a[finite] - b[finite]), initial=0.0))
    if difference == 0.0:
        return 0.0
    largest = float(np.max(np.abs(b[finite]), initial=0.0)) if scale is None else scale
    return difference / (EPS[dtype] * largest) if largest > 0.0 else float("inf")


def assert_within(
    actual, expected, eps_of_max: float, dtype: str | None = None, scale: float | None = None, what: str = ""
):
    """Fail, showing both arrays' worst place, unless `error_in_eps` is at most `eps_of_max`."""
    error = error_in_eps(actual, expected, dtype, scale)
    if error <= eps_of_max:
        return
    a, b = to_numpy(actual), to_numpy(expected)
    prefix = f"{what}: " if what else ""
    assert a.shape == b.shape, f"{prefix}shape {a.shape}, expected {b.shape}"
    with np.errstate(invalid="ignore"):
        gap = np.abs(a.astype(np.float64) - b.astype(np.float64))
    worst = np.unravel_index(np.argmax(np.where(np.isnan(gap), np.inf, gap)), gap.shape) if gap.size else ()
    raise AssertionError(
        f"{prefix}error of {error:.3g} eps of max, allowed {eps_of_max:g}; worst at "
        f"{tuple(map(int, worst))}: {a[worst]!r}, expected {b[worst]!r}"
    )


def assert_same(actual, expected, what: str = ""):
    """Fail unless shape and every element are equal, NaN counting as equal to NaN."""
    np.testing.assert_array_equal(to_numpy(actual), to_numpy(expected), err_msg=what)
