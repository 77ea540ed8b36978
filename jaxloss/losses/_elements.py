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


def elementwise_arguments(
    reduction: str,
    where,
    *,
    broadcastable: tuple[str, ...] = (),
    integers: tuple[str, ...] = (),
    reductions: tuple[str, ...] = REDUCTIONS,
    **arrays,
) -> tuple[list[Any], jax.Array | None]:
    """The named arrays in the dtype of the computation, with masked elements selected away, and the mask.

    All have the shape of the first; those in `broadcastable` are known to broadcast to it. Those in
    `integers` may be integers. None stays None.
    """
    first, *others = arrays
    read = {first: _checks.as_floats(first, arrays[first])}
    shape, of = read[first].shape, f"that of {first}"
    for name in others:
        if name in integers:
            read[name] = as_reals(name, arrays[name], shape, of)
        elif arrays[name] is not None:
            read[name] = _checks.as_floats(name, arrays[name])
            if name not in broadcastable:
                _checks.check_shape(name, read[name], shape, of)
    _checks.check_choice("reduction", reduction, reductions)
    where = _checks.as_mask("where", where, shape, of)
    dtype = compute_dtype(*read.values())
    full = {name: select(where, broadcast_in(array, shape, dtype)) for name, array in read.items()}
    return [full.get(name) for name in arrays], where


def broadcast_in(array: jax.Array, shape: tuple[int, ...], dtype) -> jax.Array:
    """`array` in `dtype`, broadcast to `shape`: in this order, since the gradient then sums in `dtype`."""
    return jnp.broadcast_to(array.astype(dtype), shape)


def as_reals(name: str, value, shape, of: str) -> Any:
    """`value`, which may hold integers: those are numbers without a dtype, whatever their width.

    numpy's stay in a numpy array: without 64 bits, JAX would wrap them.
    """
    is_integer = _checks.has_dtype(value, jnp.integer)
    reals = _checks.labels_as_given(value) if is_integer else _checks.as_floats(name, value)
    _checks.check_shape(name, reals, shape, of)
    return reals


def absolute(x: jax.Array) -> jax.Array:
    """`|x|` with the gradient `sign(x)`, which at 0 is 0, as in torch; `jnp.abs` has 1 there."""
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
    """`error**2 / 2` up to `delta`, linear beyond; its gradient is the error, clipped."""
    size = jnp.abs(error)
    near = jnp.minimum(size, delta)
    return near * (size - 0.5 * near)


@huber.defjvp
def _huber_jvp(delta, primals, tangents):
    return huber(primals[0], delta), jnp.clip(primals[0], -delta, delta) * tangents[0]


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def smooth_l1(error: jax.Array, beta: float) -> jax.Array:
    """`huber(error, beta) / beta` without overflow or underflow of `huber`."""
    size = jnp.abs(error)
    return jnp.where(size < beta, 0.5 * size * (size / beta), size - 0.5 * beta)


@smooth_l1.defjvp
def _smooth_l1_jvp(beta, primals, tangents):
    (error,) = primals
    slope = jnp.where(jnp.abs(error) < beta, error / beta, jnp.sign(error))
    return smooth_l1(error, beta), slope * tangents[0]


def zero_times(factor: jax.Array, value: jax.Array) -> jax.Array:
    """`factor * value` with 0 * inf = 0, as xlogy has it: a probability of 0 contributes 0."""
    return factor * jnp.where((factor == 0.0) & jnp.isinf(value), 0.0, value)
