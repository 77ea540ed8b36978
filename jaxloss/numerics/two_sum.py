"""Sums, differences and products with their rounding errors, and the logarithm that needs them."""

import jax
import jax.numpy as jnp

# ln 2 in three parts, the first two short enough that their products with any exponent are exact.
_LN2 = (0.693145751953125, 1.4285906217992306e-06, 1.619850954759361e-11)
# The coefficients of 2 artanh(s) / s - 2 in powers of s**2: the first in two parts each, which float32 needs.
_ARTANH = (
    (0.6666666865348816, -1.9868215517249155e-08),
    (0.4000000059604645, -5.9604645663569045e-09),
    (0.2857142984867096, -1.277242400732348e-08),
)
_ARTANH_REST = (2 / 9, 2 / 11, 2 / 13, 2 / 15, 2 / 17)


def two_sum(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`a + b` rounded, and its rounding error (Knuth's two-sum)."""
    rounded = a + b
    b_part = rounded - a
    return rounded, (a - (rounded - b_part)) + (b - b_part)


def two_difference(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`a - b` rounded, and its rounding error, 0 where the difference is infinite."""
    rounded, error = two_sum(a, -b)
    return rounded, jnp.where(jnp.isfinite(rounded), error, jnp.zeros_like(error))


def exp_difference(a: jax.Array, b: jax.Array) -> jax.Array:
    """`exp(a - b)`, as accurate as `exp`."""
    rounded, error = two_difference(a, b)
    return jnp.exp(rounded) * (1 + error)


def log_minus(p: jax.Array, x: jax.Array) -> jax.Array:
    """`log(p) - x` with an absolute error below 6e-15 before it is rounded, for float32 and `p` normal.

    Between distributions that are alike the two nearly cancel. `log(p)` alone is rounded to half an ULP of
    its own, 2e-7 at -5, whatever is left of it after the subtraction. Here it stays in parts,
    `k ln 2 + 2 artanh(s)` with `s = (m - 1) / (m + 1)`, each of two numbers, until `x` is gone. Not
    differentiable.
    """
    mantissa, exponent = jnp.frexp(p)
    low = mantissa < 0.70710678
    mantissa = jnp.where(low, 2 * mantissa, mantissa)
    exponent = exponent.astype(p.dtype) - low.astype(p.dtype)
    numerator = mantissa - 1
    denominator, denominator_error = two_sum(mantissa, jnp.ones_like(mantissa))
    ratio = numerator / denominator
    product, product_error = _two_product(ratio, denominator)
    s = ratio, ((numerator - product) - product_error - ratio * denominator_error) / denominator
    square = _times(s, s)
    rest = jnp.zeros_like(p)
    for coefficient in reversed(_ARTANH_REST):
        rest = coefficient + square[0] * rest
    series = rest, jnp.zeros_like(p)
    for high, rounding in reversed(_ARTANH):
        power, power_error = _times(square, series)
        # In this order: XLA would make (constant + power) - constant the power, and the error 0.
        power, error = two_sum(power, jnp.full_like(p, high))
        series = power, error + (power_error + rounding)
    tail, tail_error = _times(_times(square, s), series)
    # From the largest on, each of which takes away what the one before has left.
    main, error = two_sum(exponent * _LN2[0], -x)
    for part in (2 * s[0], tail, exponent * _LN2[1]):
        main, next_error = two_sum(main, part)
        error += next_error
    exact = main + (error + (2 * s[1] + tail_error + exponent * _LN2[2]))
    return jnp.where(jnp.isfinite(main) & (p >= jnp.finfo(p.dtype).tiny), exact, jnp.log(p) - x)


def _times(a, b) -> tuple[jax.Array, jax.Array]:
    """The product of two numbers, each in two parts."""
    product, error = _two_product(a[0], b[0])
    return product, error + (a[0] * b[1] + a[1] * b[0])


def _two_product(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`a * b` rounded, and its rounding error (Dekker's product with Veltkamp's splitting)."""
    rounded = a * b
    (a_high, a_low), (b_high, b_low) = _split(a), _split(b)
    error = ((a_high * b_high - rounded) + a_high * b_low + a_low * b_high) + a_low * b_low
    return rounded, error


def _split(a: jax.Array) -> tuple[jax.Array, jax.Array]:
    high = 4097.0 * a
    high = high - (high - a)
    return high, a - high
