"""The head's product, then the loss, with the logits whole in memory: what the chunked form has to equal."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxloss._reduction import select
from jaxloss.fused._chunked import product
from jaxloss.fused._head_arguments import HeadArguments, head_arguments, mean_denominator
from jaxloss.losses.classification import cross_entropy
from jaxloss.numerics import softmax as _softmax

__all__ = ["TokenStatistics", "linear_cross_entropy_reference"]

# Ignored labels are masked before; this one cannot occur.
_NO_LABEL = -(2**63)


class TokenStatistics(NamedTuple):
    """What a head says about each token; without derivatives, and 0 for tokens that take no part.

    Attributes:
        logsumexp: log of the sum of the exponentials of the logits.
        is_correct: no class has a larger logit than the label (or than the most probable class of the
            target).
        entropy: of the predicted distribution, in nats.
    """

    logsumexp: Array
    is_correct: Array
    entropy: Array


def linear_cross_entropy_reference(
    input: Float[Array, "*N D"],
    linear_weight: Float[Array, "V ... D"],
    target: Int[Array, "..."] | Float[Array, "... V"],
    *,
    linear_bias: Float[Array, "V ..."] | None = None,
    weight: Float[Array, " V"] | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    where: Bool[Array, "..."] | None = None,
    sample_weight: Float[Array, "..."] | None = None,
    z_loss: float = 0.0,
    logit_softcap: float | None = None,
    logit_scale: float | Float[Array, ""] | None = None,
    return_statistics: bool = False,
) -> Float[Array, "..."] | tuple[Float[Array, "..."], TokenStatistics]:
    """`linear_cross_entropy`, with the logits made whole and ordinary differentiation.

    Args, Returns, Raises: as for `linear_cross_entropy`, which checks its options before it comes here.

    Reference: the composition of `torch.nn.functional.linear` and `cross_entropy`.

    >>> import jax.numpy as jnp
    >>> hidden, head = jnp.ones((4, 8), jnp.float32), jnp.zeros((50, 8), jnp.float32)
    >>> print(linear_cross_entropy_reference(hidden, head, jnp.arange(4)))  # ln 50
    3.912023
    """
    arguments = head_arguments(
        input, linear_weight, linear_bias, target, weight, ignore_index, where, sample_weight, logit_scale
    )
    kept = arguments.kept
    logits = _logits(arguments, logit_softcap)
    losses = cross_entropy(
        logits,
        arguments.target,
        arguments.class_weight,
        _NO_LABEL if arguments.has_labels else -100,
        "none",
        label_smoothing,
        where=kept,
    )
    if z_loss:
        losses = losses + z_loss * jnp.square(select(kept, jax.nn.logsumexp(logits, -1)))
    losses = select(kept, losses * arguments.sample_weight)
    if reduction == "none":
        loss = losses.reshape(arguments.shape)
    else:
        loss = jnp.sum(losses)
        loss = loss / mean_denominator(arguments) if reduction == "mean" else loss
    return (loss, _statistics(arguments, lax.stop_gradient(logits))) if return_statistics else loss


def _logits(arguments: HeadArguments, softcap: float | None) -> jax.Array:
    """The logits [N, K, V]; tokens that take no part have those of an input of zeros."""
    (num_tokens, num_heads), width = arguments.kept.shape, arguments.input.shape[1]
    input = select(jnp.any(arguments.kept, 1)[:, None], arguments.input)
    logits = product(input, arguments.weight.reshape(-1, width), 1, 1).astype(arguments.sample_weight.dtype)
    logits = jnp.moveaxis(logits.reshape(num_tokens, -1, num_heads), 1, 2)
    if arguments.bias is not None:
        logits = logits + arguments.bias.T
    if arguments.logit_scale is not None:
        logits = logits * arguments.logit_scale
    return logits if softcap is None else softcap * jnp.tanh(logits / softcap)


def _statistics(arguments: HeadArguments, logits: jax.Array) -> TokenStatistics:
    if arguments.has_labels:
        target = jnp.clip(arguments.target, 0, logits.shape[-1] - 1)
    else:
        target = jnp.argmax(arguments.target, -1)
    own = jnp.take_along_axis(logits, target[..., None], -1)[..., 0]
    log_probs = _softmax.log_softmax(logits, logits.ndim - 1)
    statistics = TokenStatistics(
        jax.nn.logsumexp(logits, -1),
        own >= jnp.max(logits, -1),
        -jnp.sum(jnp.where(log_probs == -jnp.inf, 0.0, jnp.exp(log_probs) * log_probs), -1),
    )
    return TokenStatistics(*(select(arguments.kept, a).reshape(arguments.shape) for a in statistics))
