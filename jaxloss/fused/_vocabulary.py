"""Sums over a vocabulary that the devices of a mesh axis share, each holding a slice of it, in order.

With `axis_name=None` the whole vocabulary is here, and these are plain sums. Classes are axis 1.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jaxloss.numerics import softmax as _softmax


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
    """As in `_softmax`, with sums over the whole vocabulary."""
    own = total(jnp.where(_softmax.is_label(logits.shape, local_labels, 1), logits, 0.0), axis_name)
    reference = _softmax.label_reference(own, largest(logits, axis_name))
    rest = total(_others_exp(logits, local_labels, reference), axis_name)
    loss, scale, others_mass = _softmax.label_terms(own, reference, rest)
    return loss, reference, scale, others_mass


def _others_exp(logits, local_labels, reference):
    is_own = _softmax.is_label(logits.shape, local_labels, 1)
    return jnp.where(is_own, 0.0, _softmax.exp_difference(logits, reference[:, None]))


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _split_cross_entropy(logits, local_labels, axis_name):
    return _split_statistics(logits, local_labels, axis_name)[0]


@_split_cross_entropy.defjvp
def _split_cross_entropy_jvp(axis_name, primals, tangents):
    # With derivatives, as in `_softmax`: linearizing a loop may drop the rule of `_split_gradient`.
    statistics = _split_statistics(primals[0], primals[1], axis_name)
    gradient = _split_gradient(*primals, *statistics[1:], axis_name)
    return statistics[0], total(gradient * tangents[0], axis_name)


@partial(jax.custom_jvp, nondiff_argnums=(5,))
def _split_gradient(logits, local_labels, reference, scale, others_mass, axis_name):
    """`softmax(logits) - one_hot(label)`, this device's classes of it, from statistics of the logits."""
    is_own = _softmax.is_label(logits.shape, local_labels, 1)
    others = _others_exp(logits, local_labels, reference) * scale[:, None]
    return jnp.where(is_own, -others_mass[:, None], others)


@_split_gradient.defjvp
def _split_gradient_jvp(axis_name, primals, tangents):
    logits, local_labels, *_ = primals
    gradient = _split_gradient(*primals, axis_name)
    probabilities = gradient + _softmax.is_label(logits.shape, local_labels, 1).astype(gradient.dtype)
    mean = total(probabilities * tangents[0], axis_name)
    return gradient, probabilities * (tangents[0] - mean[:, None])


def log_softmax(logits: jax.Array, axis_name: str | None) -> jax.Array:
    """This device's part of the log-softmax, accurate for the largest logit too."""
    if axis_name is None:
        return _softmax.log_softmax(logits, 1)
    return _split_log_softmax(logits, _peak_statistics(logits, axis_name), axis_name)


def soft_cross_entropy(logits: jax.Array, probabilities: jax.Array, axis_name: str | None) -> jax.Array:
    """`-sum(probabilities * log_softmax(logits))`; a probability of 0 contributes 0, even to -inf."""
    if axis_name is None:
        return _softmax.soft_cross_entropy(logits, probabilities, 1)
    return _split_soft_cross_entropy(logits, probabilities, axis_name)


def _peak_statistics(logits, axis_name):
    """As in `_softmax`, which computes with them: those of the whole vocabulary, [C, 1]."""
    peak = largest(logits, axis_name)[:, None]
    # +inf and NaN poison their row, as in torch; an all -inf row does so by itself.
    peak = jnp.where(peak < jnp.inf, peak, jnp.nan)
    is_peak = logits == peak
    num_peaks = total(is_peak.astype(logits.dtype), axis_name)[:, None]
    # The derivative that `largest` does not have, spread evenly over equal peaks, and no value.
    at_peak = jnp.where(is_peak, logits, 0.0)
    peak += total(at_peak - lax.stop_gradient(at_peak), axis_name)[:, None] / num_peaks
    others = jnp.where(is_peak, 0.0, _softmax.exp_difference(logits, peak - _softmax.LEAD))
    return _softmax.peak_terms(peak, total(others, axis_name)[:, None], num_peaks)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _split_log_softmax(logits, statistics, axis_name):
    peak, excess, *_ = statistics
    return (logits - peak) - excess


@_split_log_softmax.defjvp
def _split_log_softmax_jvp(axis_name, primals, tangents):
    logits, statistics = primals
    mean = total(_split_softmax(logits, statistics, axis_name) * tangents[0], axis_name)
    return _split_log_softmax(logits, statistics, axis_name), tangents[0] - mean[:, None]


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _split_softmax(logits, statistics, axis_name):
    return _softmax._softmax_of(logits, statistics)


@_split_softmax.defjvp
def _split_softmax_jvp(axis_name, primals, tangents):
    probabilities = _split_softmax(*primals, axis_name)
    return probabilities, _softmax_tangent(probabilities, tangents[0], axis_name)


def _softmax_tangent(probabilities, tangent, axis_name):
    return probabilities * (tangent - total(probabilities * tangent, axis_name)[:, None])


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _split_soft_cross_entropy(logits, probabilities, axis_name):
    return _soft_loss(logits, probabilities, _peak_statistics(logits, axis_name), axis_name)


def _soft_loss(logits, probabilities, statistics, axis_name):
    peak, excess, *_ = statistics
    below = jnp.where(probabilities == 0.0, 0.0, probabilities * (peak - logits))
    return total(below + probabilities * excess, axis_name)


@partial(_split_soft_cross_entropy.defjvp, symbolic_zeros=True)
def _split_soft_cross_entropy_jvp(axis_name, primals, tangents):
    logits, probabilities = primals
    statistics = _peak_statistics(logits, axis_name)
    dot = jnp.zeros_like(logits)
    if type(tangents[0]) is not SymbolicZero:
        dot += _split_soft_gradient(logits, probabilities, statistics, axis_name) * tangents[0]
    if type(tangents[1]) is not SymbolicZero:
        dot -= _split_log_softmax(logits, statistics, axis_name) * tangents[1]
    return _soft_loss(logits, probabilities, statistics, axis_name), total(dot, axis_name)


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def _split_soft_gradient(logits, probabilities, statistics, axis_name):
    """`sum(probabilities) * softmax(logits) - probabilities`, which would cancel at a single peak."""
    whole = total(probabilities, axis_name)[:, None]
    elsewhere = total(jnp.where(logits == statistics[0], 0.0, probabilities), axis_name)[:, None]
    return _softmax.soft_gradient_of(logits, probabilities, whole, elsewhere, statistics)


@_split_soft_gradient.defjvp
def _split_soft_gradient_jvp(axis_name, primals, tangents):
    logits, probabilities, statistics = primals
    softmax = _split_softmax(logits, statistics, axis_name)
    curvature = _softmax_tangent(softmax, tangents[0], axis_name)
    dot = total(probabilities, axis_name)[:, None] * curvature
    dot += total(tangents[1], axis_name)[:, None] * softmax - tangents[1]
    return _split_soft_gradient(*primals, axis_name), dot
