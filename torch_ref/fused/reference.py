"""`torch.nn.functional.linear`, then the loss."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["TokenStatistics", "linear_cross_entropy_reference"]


class TokenStatistics(NamedTuple):
    """What a head says about each token; without derivatives, and 0 for tokens that take no part.

    Attributes:
        logsumexp: log of the sum of the exponentials of the logits.
        is_correct: no class has a larger logit than the label (or than the most probable class of the
            target).
        entropy: of the predicted distribution, in nats.
    """

    logsumexp: Tensor
    is_correct: Tensor
    entropy: Tensor


def linear_cross_entropy_reference(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    where: Tensor | None = None,
    sample_weight: Tensor | None = None,
    z_loss: float = 0.0,
    logit_softcap: float | None = None,
    logit_scale: float | Tensor | None = None,
    return_statistics: bool = False,
) -> Tensor | tuple[Tensor, TokenStatistics]:
    """`cross_entropy` of the logits, with the terms that torch lacks added; classes are the last axis."""
    logits = _logits(input, linear_weight, linear_bias, logit_softcap, logit_scale)
    kept = torch.ones(logits.shape[:-1], dtype=torch.bool) if where is None else where
    has_labels = not target.is_floating_point()
    if has_labels:
        kept = kept & (target != (-100 if ignore_index is None else ignore_index))

    rows, chosen = logits[kept], target[kept]
    losses = F.cross_entropy(rows, chosen, weight, reduction="none", label_smoothing=label_smoothing)
    losses = losses + z_loss * rows.logsumexp(-1) ** 2
    factor = torch.ones_like(losses) if sample_weight is None else sample_weight[kept]
    losses = losses * factor
    if reduction == "none":
        loss = torch.zeros(kept.shape, dtype=losses.dtype).masked_scatter(kept, losses)
    elif reduction == "sum":
        loss = losses.sum()
    else:
        loss = losses.sum() / (factor * weight[chosen] if has_labels and weight is not None else factor).sum()
    return (loss, _statistics(logits.detach(), target, kept)) if return_statistics else loss


def _logits(input, linear_weight, linear_bias, logit_softcap, logit_scale) -> Tensor:
    """The logits [*, K, V] of a weight [V, K, D]; without further axes of the weight, [*, V]."""
    heads = linear_weight.shape[1:-1]
    bias = None if linear_bias is None else linear_bias.reshape(-1)
    logits = F.linear(input, linear_weight.reshape(-1, linear_weight.shape[-1]), bias)
    logits = logits.reshape(*input.shape[:-1], linear_weight.shape[0], math.prod(heads)).movedim(-2, -1)
    logits = logits.reshape(*input.shape[:-1], *heads, linear_weight.shape[0])
    logits = logits if logit_scale is None else logits * logit_scale
    return logits if logit_softcap is None else logit_softcap * torch.tanh(logits / logit_softcap)


def _statistics(logits: Tensor, target: Tensor, kept: Tensor) -> TokenStatistics:
    label = target.argmax(-1) if target.is_floating_point() else target.clamp(0, logits.shape[-1] - 1)
    own = logits.gather(-1, label[..., None])[..., 0]
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    values = (logits.logsumexp(-1), own >= logits.amax(-1), entropy)
    return TokenStatistics(*(torch.where(kept, value, torch.zeros_like(value)) for value in values))
