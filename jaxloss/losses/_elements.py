"""Elementwise losses: their arrays, read and checked in one way, and the steps that they share."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxloss import _checks
from jaxloss._reduction import REDUCTIONS, compute_dtype, select

# A constant of type float in torch's C++, so that in float64 it is not quite 1e-12.
TORCH_EPSILON = float(np.float32(1e-12))


def as_elements(
    reduction: str, where, *, input, shared: tuple[str, ...] = (), **others
) -> tuple[list[Any], jax.Array | None]:
    """The named arrays in the dtype of the computation, with masked elements selected away, and the mask.

    All have the shape of `input`; those named in `shared` are known to broadcast to it. None stays None.
    """
    input = _checks.as_floats("input", input)
    read = {name: None if value is None else _checks.as_floats(name, value) for name, value in others.items()}
    for name, array in read.items():
        if array is not None and name not in shared:
            _checks.check_shape(name, array, input.shape, "that of input")
    _checks.check_choice("reduction", reduction, REDUCTIONS)
    where = _checks.as_mask("where", where, input.shape, "that of input")
    arrays = [input, *read.values()]
    dtype = compute_dtype(*arrays)
    full = [None if a is None else select(where, in_full(a, input.shape, dtype)) for a in arrays]
    return full, where


def in_full(array: jax.Array, shape: tuple[int, ...], dtype) -> jax.Array:
    """`array` in `dtype`, spread over `shape`: in this order, since the gradient then sums in `dtype`."""
    return jnp.broadcast_to(array.astype(dtype), shape)


def as_numbers(name: str, value, shape, of: str) -> jax.Array:
    """`value`, a target of few values such as 1 and -1, integers or not, as floating-point numbers."""
    integers = _checks.has_dtype(value, jnp.integer)
    numbers = _checks.as_labels(name, value) if integers else _checks.as_floats(name, value)
    _checks.check_shape(name, numbers, shape, of)
    return numbers.astype(jnp.float32) if integers else numbers


def absolute(x: jax.Array) -> jax.Array:
    """`|x|` with the gradient `sign(x)`, which is 0 at 0 as in torch; that of `jnp.abs` is 1 there."""
    return x * lax.stop_gradient(jnp.sign(x))


def hinge(x: jax.Array) -> jax.Array:
    """`max(x, 0)` whose gradient at 0 is 1, as that of torch's clamp; NaN stays NaN."""
    return jnp.where(x < 0.0, 0.0, x)


def strict_hinge(x: jax.Array) -> jax.Array:
    """`max(x, 0)` whose gradient at 0 is 0, as torch has it in its multi-class margins; NaN stays NaN."""
    return jnp.where(x <= 0.0, 0.0, x)


@jax.custom_jvp
def softplus(x: jax.Array) -> jax.Array:
    """`log(1 + exp(x))`, which never cancels and whose gradient is the sigmoid."""
    return jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@softplus.defjvp
def _softplus_jvp(primals, tangents):
    return softplus(primals[0]), jax.nn.sigmoid(primals[0]) * tangents[0]


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def huber(error: jax.Array, delta: float) -> jax.Array:
    """`error**2 / 2` up to `delta`, linear beyond; its gradient is the error, clipped, infinite or not."""
    size = jnp.abs(error)
    near = jnp.minimum(size, delta)
    return near * (size - 0.5 * near)


@huber.defjvp
def _huber_jvp(delta, primals, tangents):
    return huber(primals[0], delta), jnp.clip(primals[0], -delta, delta) * tangents[0]


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def smooth_l1(error: jax.Array, beta: float) -> jax.Array:
    """`huber(error, beta) / beta` without that product, which overflows and underflows before the loss."""
    size = jnp.abs(error)
    return jnp.where(size < beta, 0.5 * size * (size / beta), size - 0.5 * beta)


@smooth_l1.defjvp
def _smooth_l1_jvp(beta, primals, tangents):
    (error,) = primals
    slope = jnp.where(jnp.abs(error) < beta, error / beta, jnp.sign(error))
    return smooth_l1(error, beta), slope * tangents[0]


def times(factor: jax.Array, value: jax.Array) -> jax.Array:
    """`factor * value` with 0 * inf = 0: what has no probability contributes nothing."""
    nothing = (factor == 0.0) & jnp.isinf(value)
    return factor * jnp.where(nothing, 0.0, value)
