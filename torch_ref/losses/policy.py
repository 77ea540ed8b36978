"""Policy gradients on tokens; masked tokens are selected away, since a sequence keeps its shape."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from torch_ref.losses._masking import kept, undelete

__all__ = ["PolicyStatistics", "cispo_loss", "clipped_policy_loss", "sapo_loss"]


class PolicyStatistics(NamedTuple):
    """What a policy loss says about each token; without derivatives, and 0 for tokens that take no part."""

    ratio: Tensor
    is_clipped: Tensor
    kl: Tensor


def clipped_policy_loss(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    level: str = "token",
    reduction: str = "mean",
    where: Tensor | None = None,
    return_statistics: bool = False,
) -> Any:
    """`-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)`, with a ratio that is bounded first if A < 0."""
    logps, old_logps, advantages = _constants(logps, old_logps, advantages)
    log_ratio = _at_level(logps, old_logps, where, level)
    logps, old_logps, advantages, log_ratio = kept(where, logps, old_logps, advantages, log_ratio)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    bounded = ratio
    if dual_clip is not None:
        bounded = torch.where(advantages < 0, ratio.clamp(max=dual_clip), ratio)
    losses = -torch.min(bounded * advantages, clipped * advantages)
    is_clipped = (advantages > 0) & (ratio > 1 + clip_high) | (advantages < 0) & (ratio < 1 - clip_low)
    is_clipped |= (advantages < 0) & (bounded != ratio)
    statistics = _statistics(logps, old_logps, ratio, is_clipped)
    return _reduced(losses, statistics, reduction, where, return_statistics)


def cispo_loss(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    *,
    clip_low: float = 1.0,
    clip_high: float = 4.0,
    reduction: str = "mean",
    where: Tensor | None = None,
    return_statistics: bool = False,
) -> Any:
    """`-clip(r, 1 - clip_low, 1 + clip_high) A log(pi)`, with the clipped ratio as a constant."""
    logps, old_logps, advantages = kept(where, *_constants(logps, old_logps, advantages))
    ratio = (logps - old_logps).exp()
    weight = ratio.clamp(1 - clip_low, 1 + clip_high).detach()
    statistics = _statistics(logps, old_logps, ratio, weight != ratio)
    return _reduced(-weight * advantages * logps, statistics, reduction, where, return_statistics)


def sapo_loss(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    *,
    positive_temperature: float = 1.0,
    negative_temperature: float = 1.05,
    reduction: str = "mean",
    where: Tensor | None = None,
    return_statistics: bool = False,
) -> Any:
    """`-4 / tau sigmoid(tau (r - 1)) A`, with a temperature for each sign of the advantage."""
    logps, old_logps, advantages = kept(where, *_constants(logps, old_logps, advantages))
    ratio = (logps - old_logps).exp()
    temperature = torch.full_like(advantages, negative_temperature)
    temperature = temperature.masked_fill(advantages > 0, positive_temperature)
    losses = -4 / temperature * torch.sigmoid(temperature * (ratio - 1)) * advantages
    statistics = _statistics(logps, old_logps, ratio, torch.zeros_like(ratio, dtype=torch.bool))
    return _reduced(losses, statistics, reduction, where, return_statistics)


def _constants(logps: Tensor, old_logps: Tensor, advantages: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Those but `logps` are constants; an advantage of a sequence is one for each of its tokens."""
    advantages = advantages.detach()
    if advantages.dim() < logps.dim():
        advantages = advantages.unsqueeze(-1).expand(logps.shape)
    return logps, old_logps.detach(), advantages


def _at_level(logps: Tensor, old_logps: Tensor, where: Tensor | None, level: str) -> Tensor:
    if where is not None:
        logps, old_logps = torch.where(where, logps, 0), torch.where(where, old_logps, 0)
    log_ratio = logps - old_logps
    if level == "token":
        return log_ratio
    lengths = torch.full(logps.shape[:-1], logps.shape[-1]) if where is None else where.sum(-1)
    mean = (log_ratio.sum(-1) / lengths.clamp(min=1)).unsqueeze(-1).expand(logps.shape)
    return mean if level == "sequence" else mean.detach() + logps - logps.detach()


def _statistics(logps: Tensor, old_logps: Tensor, ratio: Tensor, is_clipped: Tensor) -> PolicyStatistics:
    log_ratio = (logps - old_logps).detach()
    return PolicyStatistics(ratio.detach(), is_clipped, log_ratio.exp() - 1 - log_ratio)


def _reduced(losses, statistics, reduction, where, return_statistics):
    if reduction == "none":
        loss = undelete(losses, where, reduction)
    else:
        loss = losses.sum() if reduction == "sum" else losses.mean()
    if not return_statistics:
        return loss
    return loss, PolicyStatistics(*(undelete(array, where, "none") for array in statistics))
