r"""Softmax arithmetic that does not cancel.

With a confident model, `logsumexp(z) - z_t` subtracts two nearly equal numbers: in float32 everything below
1e-7 is lost, and so is the gradient `p_t - 1`. Here the label's own term is left out of the sum, whatever
the reference `r` from which the exponents count:

    rest = sum_{j != t} exp(z_j - r),    gap = r - z_t,    u = exp(gap) rest,
    -log p_t = log(1 + u),    1 - p_t = u / (1 + u).

Nothing is subtracted but exponents, whose rounding errors (half an ULP of 80 is a relative error of 4e-6 in
`exp`) are computed exactly and put back. The functions take the class axis as it lies; they move no data.
They are jitted, so that a call outside `jit` compiles one program for each shape, not a hundred primitives.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

# How far a leading logit is above the reference, so that no other's exponential underflows before their sum,
# relative to the leader's, does; `exp(LEAD)` times any number of classes is finite.
LEAD = 64.0


def _difference(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`a - b` rounded, and its rounding error (Knuth's two-sum), 0 where the difference is infinite."""
    rounded = a - b
    b_part = rounded - a
    error = (a - (rounded - b_part)) - (b + b_part)
    return rounded, jnp.where(jnp.isfinite(rounded), error, jnp.zeros_like(error))


def exp_difference(a: jax.Array, b: jax.Array) -> jax.Array:
    """`exp(a - b)`, as accurate as `exp`."""
    rounded, error = _difference(a, b)
    return jnp.exp(rounded) * (1 + error)


def is_label(shape: tuple[int, ...], labels: jax.Array, axis: int) -> jax.Array:
    """One-hot rows as booleans, of the logits' `shape`; never materialised under `jit`."""
    return lax.broadcasted_iota(labels.dtype, shape, axis) == jnp.expand_dims(labels, axis)


def _label_statistics(logits: jax.Array, labels: jax.Array, kept: jax.Array, axis: int):
    """`-log p_t`, and what its gradient needs: a reference, the others' scale in the softmax, and `1 - p_t`.

    All keep the class axis, with size 1. A label outside the classes, like NaN or +inf among the logits,
    makes them NaN; a label's own logit of -inf makes the loss inf with a finite gradient, as in torch.
    """
    labels_1, kept_1 = jnp.expand_dims(labels, axis), jnp.expand_dims(kept, axis)
    in_range = (labels_1 >= 0) & (labels_1 < logits.shape[axis])
    # Gathered before anything is selected: a gather's operand is materialised, and this one already is.
    own = jnp.take_along_axis(logits, jnp.where(in_range, labels_1, 0), axis, mode="promise_in_bounds")
    own = jnp.where(kept_1, jnp.where(in_range, own, jnp.nan), 0.0)

    # Of all the logits, as they are: the largest of the masked ones takes XLA on CPU three times as long.
    peak = jnp.max(logits, axis, keepdims=True, initial=-jnp.inf)
    reference = jnp.where(kept_1, label_reference(own, peak), 0.0)
    rest = jnp.sum(_others_exp(logits, labels, kept, reference, axis), axis, keepdims=True)

    loss, scale, others_mass = label_terms(own, reference, rest)
    return loss, reference, scale, others_mass


def label_reference(own: jax.Array, peak: jax.Array) -> jax.Array:
    """The reference from which exponents count, given the label's logit and the largest of all."""
    return jnp.where(own == peak, own - LEAD, peak)


def label_terms(own: jax.Array, reference: jax.Array, rest: jax.Array):
    """`-log p_t`, the scale of `exp(z_j - reference)` in the softmax, and `1 - p_t`, of a row's numbers."""
    gap, error = _difference(reference, own)
    leads = gap <= 0.0
    lead = jnp.exp(jnp.minimum(gap, 0.0)) * (1 + error)
    own_exp = jnp.exp(-jnp.maximum(gap, 0.0)) * (1 - error)
    u = lead * rest
    loss = jnp.where(leads, jnp.log1p(u), gap + (error + jnp.log(rest + own_exp)))
    scale = jnp.where(leads, lead / (1 + u), 1 / (rest + own_exp))
    others_mass = jnp.where(leads, u / (1 + u), rest / (rest + own_exp))
    return loss, scale, others_mass


def _others_exp(logits, labels, kept, reference, axis: int) -> jax.Array:
    """`exp(logits - reference)` of all classes but the label; 0 for that one and in rows not kept."""
    is_other = ~is_label(logits.shape, labels, axis) & jnp.expand_dims(kept, axis)
    return jnp.where(is_other, exp_difference(logits, reference), 0.0)


@partial(jax.jit, static_argnums=3)
def label_cross_entropy(logits: jax.Array, labels: jax.Array, kept: jax.Array, axis: int) -> jax.Array:
    """`-log softmax(logits)[label]` along `axis`; labels and `kept` have the logits' shape without `axis`.

    Rows that are not kept give a loss of 0 and a gradient of 0, whatever they hold.
    """
    return _label_cross_entropy(logits, labels, kept, axis)


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def _label_cross_entropy(logits, labels, kept, axis):
    return jnp.squeeze(_label_statistics(logits, labels, kept, axis)[0], axis)


@_label_cross_entropy.defjvp
def _label_cross_entropy_jvp(axis, primals, tangents):
    logits, labels, kept = primals
    # Not of stop_gradient(logits), though `_label_gradient` has the whole derivative in its rule: linearizing
    # a loop may drop that rule, and what remains must have the right derivative too.
    statistics = _label_statistics(logits, labels, kept, axis)[1:]
    gradient = _label_gradient(logits, labels, kept, *statistics, axis)
    return label_cross_entropy(*primals, axis), jnp.sum(gradient * tangents[0], axis)


@partial(jax.custom_jvp, nondiff_argnums=(6,))
def _label_gradient(logits, labels, kept, reference, scale, others_mass, axis):
    """`softmax(logits) - one_hot(labels)`, from statistics that already depend on the logits."""
    # The very expression of the sum: XLA on CPU writes to memory what two others have in common.
    others = _others_exp(logits, labels, kept, reference, axis) * scale
    return jnp.where(is_label(logits.shape, labels, axis), -others_mass, others)


@_label_gradient.defjvp
def _label_gradient_jvp(axis, primals, tangents):
    logits, labels, *_ = primals
    gradient = _label_gradient(*primals, axis)
    probabilities = gradient + is_label(logits.shape, labels, axis).astype(gradient.dtype)
    return gradient, _softmax_tangent(probabilities, tangents[0], axis)


def _softmax_tangent(probabilities: jax.Array, tangent: jax.Array, axis: int) -> jax.Array:
    return probabilities * (tangent - jnp.sum(probabilities * tangent, axis, keepdims=True))


def _peak_statistics(logits: jax.Array, axis: int):
    """The peak, `logsumexp - peak`, and what the softmax needs: a reference, scale, number of peaks, `u`."""
    peak = jnp.max(logits, axis, keepdims=True, initial=-jnp.inf)
    # +inf and NaN poison their row, as in torch; an all -inf row does so by itself.
    peak = jnp.where(peak < jnp.inf, peak, jnp.nan)
    is_peak = logits == peak
    rest = jnp.sum(jnp.where(is_peak, 0.0, exp_difference(logits, peak - LEAD)), axis, keepdims=True)
    num_peaks = jnp.sum(is_peak, axis, keepdims=True).astype(logits.dtype)
    return peak_terms(peak, rest, num_peaks)


def peak_terms(peak: jax.Array, rest: jax.Array, num_peaks: jax.Array):
    """The statistics of a row, given the sum of `exp(z_j - peak + LEAD)` over all but the peaks."""
    reference = peak - LEAD
    lead = exp_difference(reference, peak)
    u = lead * rest
    return peak, jnp.log1p((num_peaks - 1) + u), reference, lead / (num_peaks + u), num_peaks, u


def _softmax_of(logits, statistics):
    peak, _, reference, scale, num_peaks, u = statistics
    return jnp.where(logits == peak, 1 / (num_peaks + u), exp_difference(logits, reference) * scale)


@partial(jax.jit, static_argnums=1)
def softmax(logits: jax.Array, axis: int) -> jax.Array:
    """Softmax along `axis`."""
    return _softmax(logits, axis)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _softmax(logits, axis):
    return _softmax_of(logits, _peak_statistics(logits, axis))


@_softmax.defjvp
def _softmax_jvp(axis, primals, tangents):
    probabilities = softmax(primals[0], axis)
    return probabilities, _softmax_tangent(probabilities, tangents[0], axis)


@partial(jax.jit, static_argnums=1)
def log_softmax(logits: jax.Array, axis: int) -> jax.Array:
    """Log-softmax along `axis`, accurate for the largest logit too, whose value is `-log(1 + u)`."""
    return _log_softmax(logits, axis)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _log_softmax(logits, axis):
    peak, excess, *_ = _peak_statistics(logits, axis)
    return (logits - peak) - excess


@_log_softmax.defjvp
def _log_softmax_jvp(axis, primals, tangents):
    (logits,), (tangent,) = primals, tangents
    mean = jnp.sum(softmax(logits, axis) * tangent, axis, keepdims=True)
    return log_softmax(logits, axis), tangent - mean


@partial(jax.jit, static_argnums=2)
def soft_cross_entropy(logits: jax.Array, probabilities: jax.Array, axis: int) -> jax.Array:
    """`-sum(probabilities * log_softmax(logits))` along `axis`, where 0 times -inf is 0."""
    return _soft_cross_entropy(logits, probabilities, axis)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _soft_cross_entropy(logits, probabilities, axis):
    peak, excess, *_ = _peak_statistics(logits, axis)
    below = jnp.where(probabilities == 0.0, 0.0, probabilities * (peak - logits))
    return jnp.sum(below, axis) + jnp.sum(probabilities, axis) * jnp.squeeze(excess, axis)


@partial(_soft_cross_entropy.defjvp, symbolic_zeros=True)
def _soft_cross_entropy_jvp(axis, primals, tangents):
    logits, probabilities = primals
    logits_dot, probabilities_dot = tangents
    loss = soft_cross_entropy(logits, probabilities, axis)
    loss_dot = jnp.zeros_like(loss)
    if type(logits_dot) is not jax.custom_derivatives.SymbolicZero:
        loss_dot += jnp.sum(_soft_gradient(logits, probabilities, axis) * logits_dot, axis)
    if type(probabilities_dot) is not jax.custom_derivatives.SymbolicZero:
        loss_dot -= jnp.sum(log_softmax(logits, axis) * probabilities_dot, axis)
    return loss, loss_dot


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _soft_gradient(logits, probabilities, axis):
    """`total * softmax(logits) - probabilities`; at a peak with most of the mass, by what is elsewhere."""
    statistics = _peak_statistics(logits, axis)
    total = jnp.sum(probabilities, axis, keepdims=True)
    elsewhere = jnp.sum(jnp.where(logits == statistics[0], 0.0, probabilities), axis, keepdims=True)
    return soft_gradient_of(logits, probabilities, total, elsewhere, statistics)


def soft_gradient_of(logits, probabilities, total, elsewhere, statistics):
    """The gradient, given the sums of the probabilities, of all classes and of those not at the peak."""
    peak, *_, num_peaks, u = statistics
    plain = total * _softmax_of(logits, statistics) - probabilities
    # Of the peak's share in the softmax and the rest's, the smaller keeps more digits.
    most_is_here = (logits == peak) & (num_peaks == 1.0) & (u < 1.0)
    return jnp.where(most_is_here, elsewhere - total * (u / (1 + u)), plain)


@_soft_gradient.defjvp
def _soft_gradient_jvp(axis, primals, tangents):
    (logits, probabilities), (logits_dot, probabilities_dot) = primals, tangents
    softmax_ = softmax(logits, axis)
    total = jnp.sum(probabilities, axis, keepdims=True)
    total_dot = jnp.sum(probabilities_dot, axis, keepdims=True)
    curvature = total * _softmax_tangent(softmax_, logits_dot, axis)
    return _soft_gradient(logits, probabilities, axis), curvature + total_dot * softmax_ - probabilities_dot
