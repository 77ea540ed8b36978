"""Sums over a vocabulary that the devices of a mesh axis share, each holding a slice of it, in order.

With `axis_name=None` the whole vocabulary is here, and these are plain sums. Classes are axis 1.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxloss import _softmax


def num_classes(array: jax.Array, axis_name: str | None, axis: int = 1) -> int:
    """The size of the whole vocabulary."""
    return array.shape[axis] * (1 if axis_name is None else lax.axis_size(axis_name))


def total(array: jax.Array, axis_name: str | None) -> jax.Array:
    """The sum over the classes."""
    local = jnp.sum(array, 1)
    return local if axis_name is None else lax.psum(local, axis_name)


def largest(array: jax.Array, axis_name: str | None) -> jax.Array:
    """The maximum over the classes; without a derivative."""
    local = jnp.max(lax.stop_gradient(array), 1, initial=-jnp.inf)
    return local if axis_name is None else lax.pmax(local, axis_name)


def own_labels(labels: jax.Array, size: int, axis_name: str | None) -> jax.Array:
    """The labels, counted from the first class of this device; -1 where another device holds the class."""
    if axis_name is None:
        return labels
    local = labels - lax.axis_index(axis_name).astype(labels.dtype) * size
    return jnp.where((local >= 0) & (local < size), local, -1)


def pick(array: jax.Array, labels: jax.Array, axis_name: str | None) -> jax.Array:
    """`array[label]` of a vector, or `array[n, label[n]]` of rows; NaN for a label that is no class."""
    size = array.shape[-1]
    local = own_labels(labels, size, axis_name)
    is_here = (local >= 0) & (local < size)
    index = jnp.where(is_here, local, 0)
    found = array[index] if array.ndim == 1 else jnp.take_along_axis(array, index[:, None], 1)[:, 0]
    if axis_name is None:
        return jnp.where(is_here, found, jnp.nan)
    found = lax.psum(jnp.where(is_here, found, 0.0), axis_name)
    return jnp.where((labels >= 0) & (labels < num_classes(array, axis_name, -1)), found, jnp.nan)


def logsumexp(logits: jax.Array, axis_name: str | None) -> jax.Array:
    """Log of the sum over the classes of the exponentials."""
    peak = largest(logits, axis_name)
    # A row of -inf alone gives -inf, and +inf gives inf, neither by way of NaN.
    reference = jnp.where(jnp.isfinite(peak), peak, 0.0)
    return reference + jnp.log(total(jnp.exp(logits - reference[:, None]), axis_name))


def label_cross_entropy(logits: jax.Array, labels: jax.Array, axis_name: str | None) -> jax.Array:
    """`-log softmax(logits)[label]`, accurate for confident logits; NaN for a label that is no class."""
    if axis_name is None:
        return _softmax.label_cross_entropy(logits, labels, jnp.ones(labels.shape, bool), 1)
    in_range = (labels >= 0) & (labels < num_classes(logits, axis_name))
    local = own_labels(labels, logits.shape[1], axis_name)
    return _split_cross_entropy(logits, local, axis_name) * jnp.where(in_range, 1.0, jnp.nan).astype(
        logits.dtype
    )


def _split_statistics(logits, local_labels, axis_name):
    """As in `_softmax`: the largest other logit and the others' sum are split off, so that nothing
    cancels."""
    is_own = _softmax.is_label(logits.shape, local_labels, 1)
    own = total(jnp.where(is_own, logits, 0.0), axis_name)
    others = jnp.where(is_own, -jnp.inf, logits)
    peak = largest(others, axis_name)
    peak = jnp.where(peak == -jnp.inf, jnp.where(jnp.isfinite(own), own, 0.0), peak)
    rest = total(jnp.exp(others - peak[:, None]), axis_name)
    gap, error = _softmax._difference(peak, own)
    u = _softmax._exp_times(jnp.minimum(gap, 0.0), error, rest)
    own_exp = _softmax._exp_times(-jnp.maximum(gap, 0.0), -error, jnp.ones_like(rest))
    leads = gap <= 0.0
    loss = jnp.where(leads, jnp.log1p(u), gap + (error + jnp.log(rest + own_exp)))
    led_scale = _softmax._exp_times(jnp.minimum(gap, 0.0), error, 1 / (1 + u))
    scale = jnp.where(leads, led_scale, 1 / (rest + own_exp))
    others_mass = jnp.where(leads, u / (1 + u), rest / (rest + own_exp))
    return loss, peak, scale, others_mass


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _split_cross_entropy(logits, local_labels, axis_name):
    return _split_statistics(logits, local_labels, axis_name)[0]


@_split_cross_entropy.defjvp
def _split_cross_entropy_jvp(axis_name, primals, tangents):
    statistics = _split_statistics(lax.stop_gradient(primals[0]), primals[1], axis_name)
    gradient = _split_gradient(*primals, *statistics[1:], axis_name)
    return statistics[0], total(gradient * tangents[0], axis_name)


@partial(jax.custom_jvp, nondiff_argnums=(5,))
def _split_gradient(logits, local_labels, peak, scale, others_mass, axis_name):
    """`softmax(logits) - one_hot(label)`, this device's classes of it, from statistics of the logits."""
    is_own = _softmax.is_label(logits.shape, local_labels, 1)
    others = jnp.exp(jnp.where(is_own, -jnp.inf, logits) - peak[:, None]) * scale[:, None]
    return jnp.where(is_own, -others_mass[:, None], others)


@_split_gradient.defjvp
def _split_gradient_jvp(axis_name, primals, tangents):
    logits, local_labels, *_ = primals
    gradient = _split_gradient(*primals, axis_name)
    probabilities = gradient + _softmax.is_label(logits.shape, local_labels, 1).astype(gradient.dtype)
    mean = total(probabilities * tangents[0], axis_name)
    return gradient, probabilities * (tangents[0] - mean[:, None])
