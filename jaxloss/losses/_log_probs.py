"""Log-probabilities as arguments: those above 0 are none; the exponentials of their differences overflow."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxloss._checked import check_log_probabilities

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
