"""`log(p) - x` in float32 where the two nearly cancel, as they do between distributions that are alike."""

import jax
import jax.numpy as jnp

# ln 2 in two parts, the first short enough that its product with any exponent is exact.
_LN2_HIGH = 0.693145751953125
_LN2_LOW = 1.4286068203094172e-06
# The coefficients of 2 artanh(s) / s - 2, in powers of s**2.
_ARTANH = (2 / 3, 2 / 5, 2 / 7, 2 / 9, 2 / 11)


def log_minus(p: jax.Array, x: jax.Array) -> jax.Array:
    """`log(p) - x` with an absolute error of about 2e-10, for float32 and `p` normal.

    `log(p)` alone is rounded to half an ULP of its own, 2e-7 at -5, whatever is left of it after the
    subtraction. Here it stays in parts, `k ln 2 + 2 artanh(s)` with `s = (m - 1) / (m + 1)`, until `x` is
    gone. Not differentiable.
    """
    mantissa, exponent = jnp.frexp(p)
    low = mantissa < 0.70710678
    mantissa = jnp.where(low, 2 * mantissa, mantissa)
    exponent = exponent.astype(p.dtype) - low.astype(p.dtype)
    numerator = mantissa - 1
    denominator, denominator_error = _sum(mantissa, jnp.ones_like(mantissa))
    s = numerator / denominator
    product, product_error = _product(s, denominator)
    s_error = ((numerator - product) - product_error - s * denominator_error) / denominator
    square = s * s
    tail = jnp.zeros_like(s)
    for coefficient in reversed(_ARTANH):
        tail = square * (coefficient + tail)
    main, main_error = _sum(exponent * _LN2_HIGH, -x)
    main, last_error = _sum(main, 2 * s)
    exact = main + (main_error + last_error + (2 * s_error + s * tail + exponent * _LN2_LOW))
    return jnp.where(jnp.isfinite(main) & (p >= jnp.finfo(p.dtype).tiny), exact, jnp.log(p) - x)


def _sum(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`a + b` rounded, and its rounding error (Knuth's two-sum)."""
    rounded = a + b
    b_part = rounded - a
    return rounded, (a - (rounded - b_part)) + (b - b_part)


def _product(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`a * b` rounded, and its rounding error (Dekker's product with Veltkamp's splitting)."""
    rounded = a * b
    (a_high, a_low), (b_high, b_low) = _split(a), _split(b)
    error = ((a_high * b_high - rounded) + a_high * b_low + a_low * b_high) + a_low * b_low
    return rounded, error


def _split(a: jax.Array) -> tuple[jax.Array, jax.Array]:
    high = 4097.0 * a
    high = high - (high - a)
    return high, a - high
