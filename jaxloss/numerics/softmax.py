r"""Softmax arithmetic that does not cancel, over classes that lie on one device or are split over several.

With a confident model, `logsumexp(z) - z_t` subtracts two nearly equal numbers: in float32 everything below
1e-7 is lost, and so is the gradient `p_t - 1`. Here the label's own term is left out of the sum, whatever
the reference `r` from which the exponents count:

    rest = sum_{j != t} exp(z_j - r),    gap = r - z_t,    u = exp(gap) rest,
    -log p_t = log(1 + u),    1 - p_t = u / (1 + u).

Nothing is subtracted but exponents, whose rounding errors (half an ULP of 80 is a relative error of 4e-6 in
`exp`) are computed exactly and put back. The class axis stays where it lies; no data is moved. Statistics of
a row keep that axis, with size 1.

The functions are jitted, so that a call outside `jit` compiles one program for each shape, not a hundred
primitives. No rule holds its statistics constant: linearizing a loop may drop the rules of custom_jvp
functions in it, and what remains must have the right derivative too.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jaxloss._mesh import indices_along, take_along
from jaxloss.numerics.tangent import slope_times
from jaxloss.numerics.two_sum import exp_difference, two_difference

# How far a leading logit is above the reference, so that no other's exponential underflows before their sum,
# relative to the leader's, does; `exp(LEAD)` times any number of classes is finite.
LEAD = 64.0


@dataclass(frozen=True)
class Classes:
    """Where the classes lie: along `axis`, and over the mesh axis `axis_name`, if given, in slices, in order.

    What it returns is the whole vocabulary's, with size 1 along `axis`, on every device.
    """

    axis: int = -1
    axis_name: str | None = None

    def count(self, array: jax.Array) -> int:
        """The number of classes."""
        return array.shape[self.axis] * (1 if self.axis_name is None else lax.axis_size(self.axis_name))

    def sum(self, array: jax.Array) -> jax.Array:
        """The sum over the classes."""
        local = jnp.sum(array, self.axis, keepdims=True)
        return local if self.axis_name is None else lax.psum(local, self.axis_name)

    def max(self, array: jax.Array) -> jax.Array:
        """The maximum over the classes; that of split classes has no derivative."""
        if self.axis_name is None:
            return jnp.max(array, self.axis, keepdims=True, initial=-jnp.inf)
        return lax.pmax(lax.stop_gradient(Classes(self.axis).max(array)), self.axis_name)

    def is_label(self, array: jax.Array, labels: jax.Array) -> jax.Array:
        """One-hot rows as booleans, of the shape of `array`; never materialised under `jit`."""
        local = jnp.expand_dims(self._local(labels, array.shape[self.axis]), self.axis)
        return indices_along(array, self.axis, labels.dtype) == local

    def pick(self, array: jax.Array, labels: jax.Array) -> jax.Array:
        """The label's entry of each row; NaN for a label that is no class.

        `labels` have the array's shape, with any number of them along the class axis.
        """
        size = array.shape[self.axis]
        local = self._local(labels, size)
        is_here = (local >= 0) & (local < size)
        index = jnp.where(is_here, local, 0)
        found = take_along(array, index, self.axis)
        if self.axis_name is None:
            return jnp.where(is_here, found, jnp.nan)
        is_class = (labels >= 0) & (labels < self.count(array))
        return jnp.where(is_class, lax.psum(jnp.where(is_here, found, 0.0), self.axis_name), jnp.nan)

    def _local(self, labels: jax.Array, size: int) -> jax.Array:
        """The labels, counted from the first class of this device."""
        if self.axis_name is None:
            return labels
        return labels - lax.axis_index(self.axis_name).astype(labels.dtype) * size


@partial(jax.jit, static_argnums=3)
def label_cross_entropy(
    logits: jax.Array, labels: jax.Array, valid: jax.Array, classes: Classes
) -> jax.Array:
    """`-log softmax(logits)[label]`; labels and `valid` have the logits' shape without the class axis.

    Rows that are not valid give a loss of 0 and a gradient of 0, whatever they hold. A label outside the
    classes, like NaN or +inf among the logits, gives NaN; a label's own logit of -inf gives an infinite loss
    with a finite gradient, as in torch.
    """
    return _label_cross_entropy(logits, labels, valid, classes)


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def _label_cross_entropy(logits, labels, valid, classes):
    return jnp.squeeze(_label_statistics(logits, labels, valid, classes)[0], classes.axis)


@_label_cross_entropy.defjvp
def _label_cross_entropy_jvp(classes, primals, tangents):
    logits, labels, valid = primals
    statistics = _label_statistics(logits, labels, valid, classes)[1:]
    gradient = _label_gradient(logits, labels, valid, *statistics, classes)
    dot = jnp.squeeze(classes.sum(gradient * tangents[0]), classes.axis)
    return label_cross_entropy(*primals, classes), dot


def _label_statistics(logits, labels, valid, classes: Classes):
    """`-log p_t`, and for its gradient a reference, the others' scale in the softmax, and `1 - p_t`."""
    valid_1 = jnp.expand_dims(valid, classes.axis)
    # Picked before anything is selected: a gather's operand is materialised, and this one already is.
    own = classes.pick(logits, jnp.expand_dims(labels, classes.axis))
    own = jnp.where(valid_1, own, 0.0)

    # Of all the logits, as they are: the largest of the masked ones takes XLA on CPU three times as long.
    peak = classes.max(logits)
    reference = jnp.where(valid_1, jnp.where(own == peak, own - LEAD, peak), 0.0)
    rest = classes.sum(_others_exp(logits, labels, valid, reference, classes))

    gap, error = two_difference(reference, own)
    leads = gap <= 0.0
    lead = jnp.exp(jnp.minimum(gap, 0.0)) * (1 + error)
    # No error to put back: beside `rest`, then at least 1, it is less than half a rounding.
    own_exp = jnp.exp(-jnp.maximum(gap, 0.0))
    u = lead * rest
    loss = jnp.where(leads, jnp.log1p(u), gap + (error + jnp.log(rest + own_exp)))
    scale = jnp.where(leads, lead / (1 + u), 1 / (rest + own_exp))
    others_mass = jnp.where(leads, u / (1 + u), rest / (rest + own_exp))
    return loss, reference, scale, others_mass


def _others_exp(logits, labels, valid, reference, classes: Classes) -> jax.Array:
    """`exp(logits - reference)` of all classes but the label; 0 for the label and in rows not valid."""
    is_other = ~classes.is_label(logits, labels) & jnp.expand_dims(valid, classes.axis)
    return jnp.where(is_other, exp_difference(logits, reference), 0.0)


@partial(jax.custom_jvp, nondiff_argnums=(6,))
def _label_gradient(logits, labels, valid, reference, scale, others_mass, classes):
    """`softmax(logits) - one_hot(labels)`."""
    # The very expression of the sum: XLA on CPU writes to memory what two others have in common.
    others = _others_exp(logits, labels, valid, reference, classes) * scale
    return jnp.where(classes.is_label(logits, labels), -others_mass, others)


@_label_gradient.defjvp
def _label_gradient_jvp(classes, primals, tangents):
    logits, labels, _, reference, scale, _ = primals
    gradient = _label_gradient(*primals, classes)
    # The label's own from its logit: from `gradient + 1`, nothing would be left of a small one.
    own = exp_difference(logits, reference) * scale
    probabilities = jnp.where(classes.is_label(logits, labels), own, gradient)
    probabilities = jnp.where(jnp.expand_dims(primals[2], classes.axis), probabilities, 0.0)
    return gradient, softmax_tangent(probabilities, tangents[0], classes)


def centred(probabilities: jax.Array, values: jax.Array, classes: Classes) -> jax.Array:
    """`values - sum(probabilities * values)`, linear in the values.

    They count from that of a class that has more than half of the probability, whose own would cancel.
    """
    values = values - classes.sum(jnp.where(probabilities > 0.5, values, 0.0))
    return values - classes.sum(probabilities * values)


def softmax_tangent(probabilities: jax.Array, tangent: jax.Array, classes: Classes) -> jax.Array:
    """The softmax's tangent, given that of the logits."""
    return probabilities * centred(probabilities, tangent, classes)


def _peak_statistics(logits, classes: Classes):
    """The peak, `logsumexp - peak`, and what the softmax needs: a reference, scale, number of peaks, `u`."""
    peak = classes.max(logits)
    # +inf and NaN poison their row, as in torch; an all -inf row does so by itself.
    peak = jnp.where(peak < jnp.inf, peak, jnp.nan)
    is_peak = logits == peak
    num_peaks = classes.sum(is_peak.astype(logits.dtype))
    if classes.axis_name is not None:
        # The derivative that this maximum does not have, spread evenly over equal peaks, and no value.
        at_peak = jnp.where(is_peak, logits, 0.0)
        peak += classes.sum(at_peak - lax.stop_gradient(at_peak)) / num_peaks
    reference = peak - LEAD
    # The sum of the exponentials of all but the peaks.
    rest = classes.sum(jnp.where(is_peak, 0.0, exp_difference(logits, reference)))
    lead = exp_difference(reference, peak)
    u = lead * rest
    return peak, jnp.log1p((num_peaks - 1) + u), reference, lead / (num_peaks + u), num_peaks, u


def _softmax_of(logits, statistics):
    peak, _, reference, scale, num_peaks, u = statistics
    return jnp.where(logits == peak, 1 / (num_peaks + u), exp_difference(logits, reference) * scale)


@partial(jax.jit, static_argnums=1)
def softmax(logits: jax.Array, classes: Classes) -> jax.Array:
    """Softmax over the classes."""
    return _softmax(logits, classes)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _softmax(logits, classes):
    return _softmax_of(logits, _peak_statistics(logits, classes))


@_softmax.defjvp
def _softmax_jvp(classes, primals, tangents):
    probabilities = softmax(*primals, classes)
    return probabilities, softmax_tangent(probabilities, tangents[0], classes)


@partial(jax.jit, static_argnums=1)
def log_softmax(logits: jax.Array, classes: Classes) -> jax.Array:
    """Log-softmax over the classes, accurate for the largest logit too, whose value is `-log(1 + u)`."""
    return _log_softmax(logits, classes)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _log_softmax(logits, classes):
    peak, excess, *_ = _peak_statistics(logits, classes)
    return (logits - peak) - excess


@_log_softmax.defjvp
def _log_softmax_jvp(classes, primals, tangents):
    mean = classes.sum(softmax(*primals, classes) * tangents[0])
    return log_softmax(*primals, classes), tangents[0] - mean


@partial(jax.jit, static_argnums=2)
def soft_cross_entropy(logits: jax.Array, probabilities: jax.Array, classes: Classes) -> jax.Array:
    """`-sum(probabilities * log_softmax(logits))`, where 0 times -inf is 0."""
    return _soft_cross_entropy(logits, probabilities, classes)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _soft_cross_entropy(logits, probabilities, classes):
    peak, excess, *_ = _peak_statistics(logits, classes)
    below = jnp.where(probabilities == 0.0, 0.0, probabilities * (peak - logits))
    return jnp.squeeze(classes.sum(below) + classes.sum(probabilities) * excess, classes.axis)


@partial(_soft_cross_entropy.defjvp, symbolic_zeros=True)
def _soft_cross_entropy_jvp(classes, primals, tangents):
    logits, probabilities = primals
    loss = soft_cross_entropy(logits, probabilities, classes)
    dot = jnp.zeros_like(logits)
    if type(tangents[0]) is not SymbolicZero:
        dot += _soft_gradient(logits, probabilities, classes) * tangents[0]
    if type(tangents[1]) is not SymbolicZero:
        slope = log_softmax(logits, classes)
        excluded = (probabilities == 0.0) & (slope == -jnp.inf)
        dot -= slope_times(jnp.where(excluded, 0.0, slope), tangents[1])
    return loss, jnp.squeeze(classes.sum(dot), classes.axis)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _soft_gradient(logits, probabilities, classes):
    """`sum(probabilities) * softmax(logits) - probabilities`, which would cancel at a single peak."""
    statistics = _peak_statistics(logits, classes)
    peak, *_, num_peaks, u = statistics
    total = classes.sum(probabilities)
    elsewhere = classes.sum(jnp.where(logits == peak, 0.0, probabilities))
    plain = total * _softmax_of(logits, statistics) - probabilities
    # Of the peak's share in the softmax and the rest's, the smaller keeps more digits.
    most_is_here = (logits == peak) & (num_peaks == 1.0) & (u < 1.0)
    return jnp.where(most_is_here, elsewhere - total * (u / (1 + u)), plain)


@_soft_gradient.defjvp
def _soft_gradient_jvp(classes, primals, tangents):
    (logits, probabilities), (logits_dot, probabilities_dot) = primals, tangents
    softmax_ = softmax(logits, classes)
    curvature = classes.sum(probabilities) * softmax_tangent(softmax_, logits_dot, classes)
    mass_dot = classes.sum(probabilities_dot) * softmax_ - probabilities_dot
    return _soft_gradient(*primals, classes), curvature + mass_dot
