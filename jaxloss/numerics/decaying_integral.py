"""The integral that generalised cross entropy and its derivatives are made of."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxloss.numerics.tangent import slope_times

# Of the series up to |q n| = 1, so that the first term left out is below the rounding of float64.
_NUM_TERMS = 19


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def decaying_integral(q: jax.Array, n: jax.Array, k: int = 0) -> jax.Array:
    r"""$\int_0^n t^k e^{-q t}\, dt$ for n in [0, inf] and any q, 0 included, all of one shape and dtype.

    Its derivatives are an integral of the same kind, `-decaying_integral(q, n, k + 1)`, and the integrand.
    """
    u = _product(q, n)
    is_small = jnp.abs(u) < 1.0
    return jnp.where(is_small, _series(jnp.where(is_small, u, 0.0), n, k), _by_parts(q, n, u, is_small, k))


@decaying_integral.defjvp
def _decaying_integral_jvp(k, primals, tangents):
    q, n = primals
    by_q, by_n = -decaying_integral(q, n, k + 1), _integrand(q, n, k)
    return decaying_integral(q, n, k), slope_times(by_q, tangents[0]) + slope_times(by_n, tangents[1])


def _product(q: jax.Array, n: jax.Array) -> jax.Array:
    """`q n`, where 0 times an infinite n is 0."""
    return q * jnp.where((q == 0.0) & jnp.isinf(n), 0.0, n)


def _integrand(q: jax.Array, n: jax.Array, k: int) -> jax.Array:
    decay = jnp.exp(-_product(q, n))
    return decay * jnp.where((decay == 0.0) & jnp.isinf(n), 0.0, n) ** k if k else decay


def _series(u: jax.Array, n: jax.Array, k: int) -> jax.Array:
    """Term by term: `n^(k+1) sum_j (-u)^j / (j! (k + 1 + j))`, by Horner's rule."""
    total = jnp.zeros_like(u)
    for j in reversed(range(_NUM_TERMS)):
        total = 1 / (k + 1 + j) - u / (j + 1) * total
    return n ** (k + 1) * total


def _by_parts(q: jax.Array, n: jax.Array, u: jax.Array, is_small: jax.Array, k: int) -> jax.Array:
    """`(k I_(k-1) - n^k exp(-q n)) / q`; 0 where the series serves, whose q may be 0."""
    q = jnp.where(is_small, 1.0, q)
    total = -jnp.expm1(-u) / q
    for power in range(1, k + 1):
        total = (power * total - _integrand(q, n, power)) / q
    return total
