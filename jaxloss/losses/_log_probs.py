"""Log-probabilities as arguments, and of their differences what overflows or cancels."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxloss._checked import check_log_probabilities
from jaxloss.numerics.divergence import linear_growth
from jaxloss.numerics.tangent import tangent_of
from jaxloss.numerics.two_sum import two_difference

# What rounding may leave of 0: `logits - logsumexp(logits)` in float32 ends up to 1e-5 above.
_ROUNDING = 1e-4


def only_log_probabilities(name: str, logps: jax.Array) -> jax.Array:
    """The same array with NaN in place of numbers above 0, but for what rounding may leave: that counts as 0.

    The gradient is that of the number itself.
    """
    check_log_probabilities(name, logps, _ROUNDING)
    # A product, so that the NaN reaches the gradient as well.
    logps = logps * jnp.where(logps <= _ROUNDING, 1.0, jnp.nan).astype(logps.dtype)
    return logps - lax.stop_gradient(jnp.maximum(logps, 0.0))


def bounded_exp(x: jax.Array) -> jax.Array:
    """`exp(x)`, of what would overflow nearly the dtype's largest number."""
    return jnp.exp(jnp.minimum(x, largest_exponent(x.dtype)))


def largest_exponent(dtype) -> float:
    """Whose exponential is finite, with a rounding error put back too."""
    return math.log(float(jnp.finfo(dtype).max)) - 1.0


@jax.custom_jvp
def k3(logps: jax.Array, ref_logps: jax.Array) -> jax.Array:
    """`r - 1 - log(r)` of the ratio `r = exp(ref_logps - logps)`, never negative."""
    log_ratio, error = two_difference(logps, ref_logps)
    # Of a difference of 10, half a unit in the last place is 8 of its exponential.
    return linear_growth(log_ratio) + (1 - bounded_exp(-log_ratio)) * error


def _k3_jvp(primals, tangents):
    slope = -jnp.expm1(primals[1] - primals[0])
    return k3(*primals), tangent_of((lambda: slope, lambda: -slope), tangents)


k3.defjvp(_k3_jvp, symbolic_zeros=True)
