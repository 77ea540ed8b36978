"""The entropy of a softmax, with a gradient that cancels neither near-uniform nor confident."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxloss.numerics.softmax import Classes, centred, soft_cross_entropy, softmax


@partial(jax.jit, static_argnums=1)
def entropy(logits: jax.Array, classes: Classes) -> jax.Array:
    """`-sum(p * log(p))` with `p = softmax(logits)`, without the class axis; a class at -inf adds 0."""
    return _entropy(logits, classes)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _entropy(logits, classes):
    return soft_cross_entropy(logits, softmax(logits, classes), classes)


@_entropy.defjvp
def _entropy_jvp(classes, primals, tangents):
    (logits,) = primals
    p = softmax(logits, classes)
    # Relative to the peak, which the mean takes away again: log-probabilities have all `log V` in common.
    below = jnp.where(p == 0.0, 0.0, logits - lax.stop_gradient(classes.max(logits)))
    slope = -p * centred(p, below, classes)
    return entropy(logits, classes), jnp.squeeze(classes.sum(slope * tangents[0]), classes.axis)
