"""What rules of differentiation share."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero


def tangent_of(slopes: Sequence[Callable[[], jax.Array]], tangents: Sequence[Any]) -> jax.Array:
    """The tangent of a function of several arguments; only the slopes of those that vary are computed."""
    pairs = zip(slopes, tangents, strict=True)
    products = [
        slope_times(slope(), tangent) for slope, tangent in pairs if type(tangent) is not SymbolicZero
    ]
    return sum(products[1:], products[0])


def slope_times(slope: float | jax.Array, tangent: jax.Array) -> jax.Array:
    """`slope * tangent`, linear in the tangent, where an infinite slope times 0 is 0.

    A tangent that is known to be 0 contributes nothing, and so must one that is given as zeros. To ask
    whether it is 0 would not be linear, so infinity is multiplied in two finite factors.
    """
    slope = jnp.asarray(slope, tangent.dtype)
    is_infinite, largest = jnp.isinf(slope), jnp.finfo(slope.dtype).max
    finite = jnp.where(is_infinite, jnp.sign(slope) * largest, slope)
    return finite * tangent * jnp.where(is_infinite, largest, 1.0)


@jax.custom_jvp
def bounded_log(p: jax.Array) -> jax.Array:
    """`log(p)`, at 0 that of the smallest normal number, and with its slope.

    As the slope of `p log p` it stays finite, so that what gave a probability of exactly 0, and has itself no
    slope there, multiplies it to 0.
    """
    return jnp.log(_at_least_tiny(p))


@bounded_log.defjvp
def _bounded_log_jvp(primals, tangents):
    return bounded_log(primals[0]), tangents[0] / _at_least_tiny(primals[0])


def _at_least_tiny(p: jax.Array) -> jax.Array:
    tiny = jnp.finfo(p.dtype).tiny
    return jnp.where((p >= 0.0) & (p < tiny), tiny, p)
