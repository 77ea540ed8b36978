"""The one error measure of the suite, against numbers worked out by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxloss.testing import EPS, difference, error_in_eps
from parity_tests.compare import assert_within

INF, NAN = np.inf, np.nan


@pytest.mark.parametrize("dtype", EPS)
def test_eps_is_that_of_the_library_that_owns_the_dtype(dtype):
    assert EPS[dtype] == float(jnp.finfo(dtype).eps) == torch.finfo(getattr(torch, dtype)).eps


def test_error_is_the_widest_gap_in_eps_of_the_largest_entry():
    actual, expected = np.array([1.0, -8.0 + 2.0**-40, 2.0]), np.array([1.0, -8.0, 2.0 + 2.0**-39])
    found = difference(actual, expected)
    assert (found.eps_of_max, found.index) == (2.0**-39 / (8 * 2.0**-52), (2,))
    assert (found.actual, found.expected) == (2.0, 2.0 + 2.0**-39)
    assert found.ulp == 2.0**-39 / (2 * 2.0**-52)
    assert error_in_eps(actual, expected, scale=1.0) == 2.0**13
    assert error_in_eps(actual, expected, "float32") == 2.0**-39 / (8 * 2.0**-23)


@pytest.mark.parametrize("of", [np.asarray, jnp.asarray, torch.tensor], ids=["numpy", "jax", "torch"])
def test_arrays_of_all_libraries_are_measured_alike(of):
    assert error_in_eps(of(np.float32([1.0, 1.0])), of(np.float32([1.0, 1.0 + 2.0**-22]))) == pytest.approx(
        2.0
    )


def test_sixteen_bits_are_measured_in_their_own_eps():
    assert error_in_eps(jnp.asarray([1.0], jnp.bfloat16), torch.tensor([1.0 + 2.0**-7])) == pytest.approx(
        1.0, rel=0.01
    )


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        ([1.0, NAN], [1.0, 2.0]),
        ([1.0, 2.0], [1.0, NAN]),
        ([1.0, INF], [1.0, -INF]),
        ([1.0, INF], [1.0, NAN]),
        ([1.0, 1e308], [1.0, INF]),
        ([1e-300], [0.0]),
        ([[1.0]], [1.0]),
        ([1.0], 1.0),
    ],
)
def test_what_no_rounding_explains_is_infinitely_wrong(actual, expected):
    assert error_in_eps(np.array(actual), np.array(expected)) == INF
    with pytest.raises(AssertionError):
        assert_within(np.array(actual), np.array(expected), 1e30)


@pytest.mark.parametrize("values", [[], [0.0, -0.0], [NAN, INF, -INF, 1.0], 3.0, [5, 7], [True]])
def test_equal_arrays_have_no_error(values):
    assert error_in_eps(np.array(values), np.array(values)) == 0.0
