"""The one definition of how far apart two arrays are, and how far apart they may be."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxloss.interop import to_numpy

EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""Machine epsilon of each dtype: the gap between 1 and the next number."""

# Two correct implementations that sum in another order differ by a few roundings of the largest term; a
# gradient passes through more sums than its value does. In 16 bits, torch rounds after every operation.
VALUE_EPS_OF_MAX = {"float64": 16.0, "float32": 16.0, "float16": 4.0, "bfloat16": 4.0}
GRADIENT_EPS_OF_MAX = {"float64": 64.0, "float32": 64.0, "float16": 8.0, "bfloat16": 8.0}

# Where torch itself is further from the float64 truth than is allowed, JAX may be this much further.
TIMES_TORCH_ERROR = 3.0

# A stable algorithm errs by about what one eps on its inputs does; measured at most 1.1 times that.
TIMES_CONDITION = 4.0

# But never by more: 7e-12 of the largest entry in float64. Measured at most 23,000 in a correct pair.
MOST_EPS_ALLOWED = 2.0**15


@dataclass(frozen=True)
class Difference:
    """How far `actual` is from `expected`, and where the gap is widest.

    Args:
        eps_of_max: `max|actual - expected| / (eps * max|expected|)`; infinite where shapes differ, or where a
            NaN or an infinity stands on one side only.
        ulp: the widest gap in units of the last place of `expected` there.
        index: where it is.
        actual: the value there.
        expected: the value there.
    """

    eps_of_max: float
    ulp: float
    index: tuple[int, ...]
    actual: float
    expected: float


def dtype_name(array: Any) -> str:
    """The dtype's name, the same for either framework and for numpy."""
    dtype = array.dtype if hasattr(array, "dtype") else np.asarray(array).dtype
    return str(dtype).removeprefix("torch.")


def difference(
    actual: Any, expected: Any, dtype: str | None = None, *, scale: float | None = None
) -> Difference:
    """Measure how far two arrays are apart, in eps of the largest expected entry.

    Elementwise relative error would be the wrong measure for parity: some gradients are analytically zero.

    Args:
        actual: an array of either framework.
        expected: the same, with the same shape.
        dtype: whose epsilon is the unit; by default that of `actual`, or float64 for whole numbers.
        scale: replaces `max|expected|`, for arrays that are analytically zero.

    Returns:
        The difference; 0 for empty arrays.

    >>> difference(np.float32([1.0, 2.0]), np.float32([1.0000001, 2.0])).eps_of_max
    0.5
    """
    eps = EPS[_unit(actual) if dtype is None else dtype]
    a, b = (to_numpy(x).astype(np.float64) for x in (actual, expected))
    if a.shape != b.shape:
        return Difference(np.inf, np.inf, (), np.nan, np.nan)
    if a.size == 0:
        return Difference(0.0, 0.0, (), np.nan, np.nan)
    with np.errstate(invalid="ignore", over="ignore"):
        gap = np.abs(a - b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    gap = np.where(same, 0.0, np.where(np.isfinite(gap), gap, np.inf))
    index = tuple(int(i) for i in np.unravel_index(np.argmax(gap), gap.shape))
    largest = float(np.max(np.abs(b[np.isfinite(b)]), initial=0.0)) if scale is None else scale
    widest = float(gap[index])
    # Divided one after the other: eps * largest underflows where `largest` is the smallest of numbers.
    error = 0.0 if widest == 0.0 else (widest / largest / eps if largest > 0.0 else np.inf)
    return Difference(error, _in_ulp(widest, float(b[index]), eps), index, float(a[index]), float(b[index]))


def error_in_eps(actual: Any, expected: Any, dtype: str | None = None, scale: float | None = None) -> float:
    """`max|actual - expected| / (eps * max|expected|)`; see `difference`."""
    return difference(actual, expected, dtype, scale=scale).eps_of_max


def _unit(array: Any) -> str:
    name = dtype_name(array)
    return "float64" if name.startswith(("int", "uint", "bool")) else name


def _in_ulp(gap: float, at: float, eps: float) -> float:
    if gap == 0.0:
        return 0.0
    if not (np.isfinite(gap) and np.isfinite(at)):
        return np.inf
    # A power of two below `at`; at zero, the ULP of the smallest normal float32, lest the count be infinite.
    power = 2.0 ** np.floor(np.log2(abs(at))) if at else 2.0**-126
    return gap / (power * eps) if power * eps > 0.0 else np.inf
