"""Elementwise losses: their arrays, read and checked in one way, and the steps that they share."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jaxloss import _checks
from jaxloss._reduction import REDUCTIONS, compute_dtype, select
from jaxloss.numerics.divergence import DIVERGENCES
from jaxloss.numerics.tangent import tangent_of

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


def read_divergence(divergence: str, beta) -> _checks.Scalar:
    """Check the name of a divergence, and read the `beta` of the generalised Jensen-Shannon one."""
    _checks.check_choice("divergence", divergence, tuple(DIVERGENCES))
    read = _checks.as_scalar("beta", beta, low=0.0, high=1.0)
    if divergence != "jensen_shannon" and not _checks.is_number(read, 0.5):
        raise ValueError(
            f"beta must be 0.5 with divergence={divergence!r}; got {beta!r}. It is for 'jensen_shannon'."
        )
    return read


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
    return softplus(primals[0]), sigmoid(primals[0]) * tangents[0]


@jax.custom_jvp
def sigmoid(x: jax.Array) -> jax.Array:
    """`1 / (1 + exp(-x))`, whose slope does not cancel."""
    return jax.nn.sigmoid(x)


@sigmoid.defjvp
def _sigmoid_jvp(primals, tangents):
    # Not `s * (1 - s)`, which cancels for a large `x`.
    return sigmoid(primals[0]), sigmoid(primals[0]) * sigmoid(-primals[0]) * tangents[0]


@jax.custom_jvp
def huber(error: jax.Array, delta: float | jax.Array) -> jax.Array:
    """`error**2 / 2` up to `delta`, linear beyond; its gradient is the error, clipped."""
    size = jnp.abs(error)
    near = jnp.minimum(size, delta)
    return near * (size - 0.5 * near)


def _huber_jvp(primals, tangents):
    error, delta = primals
    by_error, by_delta = (
        lambda: jnp.clip(error, -delta, delta),
        lambda: jnp.maximum(jnp.abs(error) - delta, 0.0),
    )
    return huber(error, delta), tangent_of((by_error, by_delta), tangents)


huber.defjvp(_huber_jvp, symbolic_zeros=True)


@jax.custom_jvp
def smooth_l1(error: jax.Array, beta: float | jax.Array) -> jax.Array:
    """`huber(error, beta) / beta` without overflow or underflow of `huber`; `|error|` at a beta of 0."""
    size = jnp.abs(error)
    return jnp.where(size >= beta, size - 0.5 * beta, 0.5 * size * _share(size, beta))


def _smooth_l1_jvp(primals, tangents):
    slope = _share(*primals)
    slopes = (lambda: slope), (lambda: -0.5 * jnp.square(slope))
    return smooth_l1(*primals), tangent_of(slopes, tangents)


smooth_l1.defjvp(_smooth_l1_jvp, symbolic_zeros=True)


@jax.custom_jvp
def _share(error: jax.Array, beta: float | jax.Array) -> jax.Array:
    """`error / beta`, clipped to 1 and -1; that of an error of 0 is 0, whatever the beta."""
    is_beyond = jnp.abs(error) >= beta
    return jnp.where(is_beyond, jnp.sign(error), error / jnp.where(is_beyond, 1.0, beta))


def _share_jvp(primals, tangents):
    error, beta = primals
    ratio, is_beyond = _share(error, beta), jnp.abs(error) >= beta
    slope = jnp.where(is_beyond, 0.0, 1 / jnp.where(is_beyond, 1.0, beta))
    return ratio, tangent_of(((lambda: slope), (lambda: -ratio * slope)), tangents)


_share.defjvp(_share_jvp, symbolic_zeros=True)


def nan_of(array: jax.Array, *options: float | jax.Array) -> jax.Array:
    """`array`; NaN, in value and every gradient, where an option is, which a comparison would not notice."""
    for option in options:
        if isinstance(option, jax.Array):
            array = array + jnp.where(jnp.isnan(option), option, 0.0)
    return array


def zero_times(factor: float | jax.Array, value: jax.Array) -> jax.Array:
    """`factor * value` with 0 * inf = 0, as xlogy has it: a probability of 0 contributes 0, with no slope."""
    if isinstance(factor, float) and factor != 0.0:
        return factor * value
    return _zero_times(jnp.asarray(factor, value.dtype), value)


@jax.custom_jvp
def _zero_times(factor: jax.Array, value: jax.Array) -> jax.Array:
    return factor * jnp.where((factor == 0.0) & jnp.isinf(value), 0.0, value)


def _zero_times_jvp(primals, tangents):
    factor, value = primals
    absorbs = (factor == 0.0) & jnp.isinf(value)
    slopes = (lambda: jnp.where(absorbs, 0.0, value)), (lambda: factor)
    # The value's own tangent may be infinite with it.
    tangents = [t if type(t) is SymbolicZero else jnp.where(absorbs, 0.0, t) for t in tangents]
    return _zero_times(*primals), tangent_of(slopes, tangents)


_zero_times.defjvp(_zero_times_jvp, symbolic_zeros=True)


@jax.custom_jvp
def signed(sign: jax.Array, score: jax.Array) -> jax.Array:
    """`sign * score`, whose gradient of the sign is 0 where none arrives, even at an infinite score."""
    return sign * score


def _signed_jvp(primals, tangents):
    return signed(*primals), tangent_of(((lambda: primals[1]), (lambda: primals[0])), tangents)


signed.defjvp(_signed_jvp, symbolic_zeros=True)
