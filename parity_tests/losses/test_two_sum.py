"""Rounding errors are exact, and the logarithm that needs them keeps its digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloss.numerics.two_sum import log_minus, two_difference, two_sum
from parity_tests.compare import assert_same
from parity_tests.tolerances import LOG_MINUS_ERROR

rng = np.random.default_rng(0)
# Of sizes whose sums float64 holds exactly.
A, B = np.float32(rng.standard_normal((2, 1000)) * 2.0 ** rng.integers(-10, 11, (2, 1000)))


@pytest.mark.parametrize("compiled", [False, True])
def test_a_sum_and_its_error_are_the_whole_sum(compiled):
    run = jax.jit(two_sum) if compiled else two_sum
    rounded, error = (np.float64(part) for part in run(jnp.asarray(A), jnp.asarray(B)))
    assert_same(rounded, A + B)
    assert_same(rounded + error, A.astype(np.float64) + B)


def test_an_infinite_difference_has_no_error():
    rounded, error = two_difference(jnp.array([jnp.inf, -jnp.inf, 1.0]), jnp.array([1.0, 1.0, jnp.inf]))
    assert rounded.tolist() == [jnp.inf, -jnp.inf, -jnp.inf]
    assert error.tolist() == [0, 0, 0]


def test_log_minus_keeps_what_is_left_of_a_logarithm():
    # Of all sizes; and about the square root of 1/2, where the series has most to say.
    p = np.float32(np.concatenate([np.geomspace(1.2e-38, 1.0, 4000), np.linspace(0.706, 0.708, 20000)]))
    logarithm = np.log(p.astype(np.longdouble))
    x = np.float32(logarithm)
    found = np.asarray(jax.jit(log_minus)(jnp.asarray(p), jnp.asarray(x)))
    expected = logarithm - x
    rounding = np.spacing(np.abs(np.float32(expected))) / 2
    assert found.dtype == np.float32
    assert (np.abs(found - expected) - rounding).max() <= LOG_MINUS_ERROR
