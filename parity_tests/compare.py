"""Assertions on arrays of either framework, by the error measure that `jaxloss.testing` gives its users."""

import numpy as np

from jaxloss.interop import to_numpy
from jaxloss.testing import difference, error_in_eps

__all__ = ["assert_same", "assert_within", "error_in_eps", "to_numpy"]


def assert_within(
    actual, expected, eps_of_max: float, dtype: str | None = None, scale: float | None = None, what: str = ""
):
    """Fail, showing both arrays' worst place, unless `error_in_eps` is at most `eps_of_max`."""
    worst = difference(actual, expected, dtype, scale=scale)
    if worst.eps_of_max <= eps_of_max:
        return
    prefix = f"{what}: " if what else ""
    shapes = np.shape(to_numpy(actual)), np.shape(to_numpy(expected))
    assert shapes[0] == shapes[1], f"{prefix}shape {shapes[0]}, expected {shapes[1]}"
    raise AssertionError(
        f"{prefix}error of {worst.eps_of_max:.3g} eps of max, allowed {eps_of_max:g}; worst at "
        f"{worst.index}: {worst.actual!r}, expected {worst.expected!r}"
    )


def assert_same(actual, expected, what: str = ""):
    """Fail unless shape and every element are equal, NaN counting as equal to NaN."""
    np.testing.assert_array_equal(to_numpy(actual), to_numpy(expected), err_msg=what)
