"""Cross entropy of a chunk's logits, and what is said about its tokens.

Shapes: C tokens of a chunk, V vocabulary (a device's slice of it, where devices share it).
"""

import jax
import jax.numpy as jnp

from jaxloss._mesh import lie_as, take
from jaxloss._reduction import compute_dtype, select
from jaxloss.losses._elements import zero_times
from jaxloss.numerics.logsumexp import logsumexp
from jaxloss.numerics.softmax import Classes, label_cross_entropy, log_softmax, soft_cross_entropy


def token_cross_entropy(
    logits, target, *, class_weight=None, label_smoothing=None, z_loss=None, axis_name=None
) -> jax.Array:
    """The losses [C] of labels [C] or probabilities [C, V]."""
    classes = Classes(1, axis_name)
    of_target = _label_losses if jnp.issubdtype(target.dtype, jnp.integer) else _probability_losses
    losses = of_target(logits, target, class_weight, label_smoothing, classes)
    return losses if z_loss is None else losses + z_loss * jnp.square(logsumexp(logits, classes))


def token_cross_entropy_and_statistics(logits, target, *, axis_name=None, **options):
    """The losses, and log-sum-exp, whether no class beats the target's, and the entropy of the prediction."""
    classes = Classes(1, axis_name)
    if jnp.issubdtype(target.dtype, jnp.integer):
        own = classes.pick(logits, target[:, None])
    else:
        own = classes.max(jnp.where(target == classes.max(target), logits, -jnp.inf))
    log_probs = log_softmax(logits, classes)
    terms = jnp.where(logits == -jnp.inf, 0.0, jnp.exp(log_probs) * log_probs)
    statistics = {
        "logsumexp": logsumexp(logits, classes),
        "is_correct": (own >= classes.max(logits))[:, 0],
        "entropy": -classes.sum(terms)[:, 0],
    }
    return token_cross_entropy(logits, target, axis_name=axis_name, **options), statistics


def count_labels(labels, valid, class_weight, sample_weight, axis_name: str | None):
    """The sums over the valid tokens of their weights times those of their labels' classes, and without."""
    dtype = compute_dtype(class_weight, sample_weight)
    counts = jnp.ones(labels.shape, dtype) if sample_weight is None else sample_weight.astype(dtype)
    counts = select(valid, lie_as(counts, valid))
    weights = select(valid, _weight_of(class_weight.astype(dtype), labels, axis_name))
    return jnp.sum(counts * weights), jnp.sum(counts)


def _weight_of(class_weight: jax.Array, labels: jax.Array, axis_name: str | None) -> jax.Array:
    """Each label's entry of `class_weight` [V], of the shape of the labels; NaN for one that is no class."""
    if axis_name is not None:
        return Classes(0, axis_name).pick(class_weight, labels.reshape(-1)).reshape(labels.shape)
    is_class = (labels >= 0) & (labels < class_weight.shape[0])
    return jnp.where(is_class, take(class_weight, jnp.where(is_class, labels, 0)), jnp.nan)


def _label_losses(logits, labels, class_weight, label_smoothing, classes: Classes):
    losses = label_cross_entropy(logits, labels, jnp.ones(labels.shape, bool), classes)
    if class_weight is not None:
        losses = _weight_of(class_weight, labels, classes.axis_name) * losses
    if label_smoothing is None:
        return losses
    return mix(label_smoothing, losses, _uniform_losses(logits, class_weight, classes))


def _uniform_losses(logits, class_weight, classes: Classes):
    """The cross entropy with the uniform distribution, each class with its weight."""
    nll = -log_softmax(logits, classes)
    if class_weight is not None:
        nll = zero_times(class_weight[None], nll)
    return classes.sum(nll)[:, 0] / classes.count(logits)


def _probability_losses(logits, probabilities, class_weight, label_smoothing, classes: Classes):
    probabilities = probabilities.astype(logits.dtype)
    if label_smoothing is not None:
        uniform = label_smoothing / classes.count(logits)
        probabilities = probabilities * (1 - label_smoothing) + uniform
    if class_weight is not None:
        probabilities = probabilities * class_weight[None]
    return soft_cross_entropy(logits, probabilities, classes)


def mix(share: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
    """`(1 - share) * first + share * second`; one without a share takes no part, infinite or not."""
    return zero_times(1 - share, first) + zero_times(share, second)
