"""The logarithm of a sum of exponentials, whose second derivative does not cancel either."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxloss.numerics.softmax import Classes, softmax_tangent


def logsumexp(logits: jax.Array, classes: Classes) -> jax.Array:
    """Log of the sum of the exponentials, without the class axis."""
    return jnp.squeeze(_logsumexp(logits, classes), classes.axis)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _logsumexp(logits, classes):
    reference, _, total = _plain_exp(logits, classes)
    return reference + jnp.log(total)


@_logsumexp.defjvp
def _logsumexp_jvp(classes, primals, tangents):
    return _logsumexp(*primals, classes), classes.sum(_plain_softmax(*primals, classes) * tangents[0])


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _plain_softmax(logits, classes):
    """The softmax from what the log-sum-exp has at hand."""
    _, exponentials, total = _plain_exp(logits, classes)
    return exponentials / total


@_plain_softmax.defjvp
def _plain_softmax_jvp(classes, primals, tangents):
    probabilities = _plain_softmax(*primals, classes)
    return probabilities, softmax_tangent(probabilities, tangents[0], classes)


def _plain_exp(logits, classes: Classes):
    """A reference, the exponentials relative to it, and their sum."""
    peak = classes.max(lax.stop_gradient(logits))
    # A row of -inf alone gives -inf, and +inf gives inf, neither by way of NaN.
    reference = jnp.where(jnp.isfinite(peak), peak, 0.0)
    exponentials = jnp.exp(logits - reference)
    return reference, exponentials, classes.sum(exponentials)
