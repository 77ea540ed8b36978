"""Cross entropy of a linear head, and a language model's objectives; chunks are recomputed backwards."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from torch_ref.fused._head import head_logits
from torch_ref.losses._masking import weighted_mean

__all__ = [
    "TokenStatistics",
    "linear_cross_entropy",
    "linear_final_token_loss",
    "linear_log_prob",
    "linear_next_token_loss",
]


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


def linear_cross_entropy(
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
    implementation: str = "auto",
    chunk_size: int | None = None,
    axis_name: str | None = None,
    return_statistics: bool = False,
) -> Tensor | tuple[Tensor, TokenStatistics]:
    """`torch.nn.functional.linear_cross_entropy`, and the options that it lacks; `axis_name` is JAX's.

    Classes are the last axis. Chunks need a weight [V, D].
    """
    if axis_name is not None:
        raise ValueError("axis_name must be None: only JAX splits the vocabulary over devices")
    has_labels = not target.is_floating_point()
    valid = torch.ones(input.shape[:-1] + linear_weight.shape[1:-1], dtype=torch.bool)
    valid = valid if where is None else valid & where
    if has_labels:
        valid = valid & (target != (-100 if ignore_index is None else ignore_index))

    def logits_of(input: Tensor) -> Tensor:
        return head_logits(input, linear_weight, linear_bias, logit_softcap, logit_scale)

    def losses_of(logits: Tensor, target: Tensor) -> Tensor:
        losses = F.cross_entropy(logits, target, weight, reduction="none", label_smoothing=label_smoothing)
        return torch.stack([losses, z_loss * logits.logsumexp(-1) ** 2])

    chosen = target[valid]
    if implementation == "chunked" and linear_weight.dim() == 2:
        size = chunk_size or 256
        chunks = zip(input[valid].split(size), chosen.split(size), strict=True)
        parts = [checkpoint(lambda x, t: losses_of(logits_of(x), t), *c, use_reentrant=False) for c in chunks]
        losses = torch.cat(parts, 1)
    else:
        losses = losses_of(logits_of(input)[valid], chosen)
    factor = torch.ones_like(losses[0]) if sample_weight is None else sample_weight[valid]
    losses = losses * factor
    if reduction == "none":
        loss = torch.zeros(valid.shape, dtype=losses.dtype).masked_scatter(valid, losses.sum(0))
    elif reduction == "sum":
        loss = losses.sum()
    else:
        counts = factor * weight[chosen] if has_labels and weight is not None else factor
        # The z-loss is a mean over the tokens, whatever their classes weigh.
        loss = weighted_mean(losses[0].sum(), counts.sum()) + weighted_mean(losses[1].sum(), factor.sum())
    return (loss, _statistics(logits_of(input).detach(), target, valid)) if return_statistics else loss


def linear_log_prob(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    ignore_index: int | None = None,
    where: Tensor | None = None,
    logit_softcap: float | None = None,
    logit_scale: float | Tensor | None = None,
    implementation: str = "auto",
    chunk_size: int | None = None,
    axis_name: str | None = None,
) -> Tensor:
    """Log-probability of each label under a linear head."""
    losses: Any = linear_cross_entropy(
        input,
        linear_weight,
        target,
        linear_bias=linear_bias,
        reduction="none",
        ignore_index=ignore_index,
        where=where,
        logit_softcap=logit_softcap,
        logit_scale=logit_scale,
        implementation=implementation,
        chunk_size=chunk_size,
        axis_name=axis_name,
    )
    return -losses


def linear_next_token_loss(
    input: Tensor, linear_weight: Tensor, target: Tensor, *, reduction: str = "mean", **options
):
    """Cross entropy of the next token from every position: `target[..., t]` follows `input[..., t, :]`."""
    return linear_cross_entropy(input, linear_weight, target, reduction=reduction, **options)


def linear_final_token_loss(
    input: Tensor, linear_weight: Tensor, target: Tensor, *, reduction: str = "mean", **options
):
    """Cross entropy of the next token, from the last position only."""
    for name in ("where", "sample_weight"):
        if options.get(name) is not None:
            options[name] = options[name][..., -1]
    input, target = input[..., -1, :], target[..., -1]
    return linear_cross_entropy(input, linear_weight, target, reduction=reduction, **options)


def _statistics(logits: Tensor, target: Tensor, valid: Tensor) -> TokenStatistics:
    label = target.argmax(-1) if target.is_floating_point() else target.clamp(0, logits.shape[-1] - 1)
    own = logits.gather(-1, label[..., None])[..., 0]
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    values = (logits.logsumexp(-1), own >= logits.amax(-1), entropy)
    return TokenStatistics(*(torch.where(valid, value, torch.zeros_like(value)) for value in values))
