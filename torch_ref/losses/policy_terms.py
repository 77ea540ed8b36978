"""What goes with a policy loss: advantages, the distance to a reference, a critic, off-policy weights."""

from typing import Any

import torch
from torch import Tensor

from torch_ref.losses._masking import kept, undelete

__all__ = ["clipped_value_loss", "group_advantages", "sampled_kl_div", "truncated_importance_weights"]


def group_advantages(
    rewards: Tensor,
    group_size: int,
    *,
    scale: str = "group",
    eps: float = 1e-4,
    where: Tensor | None = None,
) -> Tensor:
    """`(r - mean(group)) / (std + eps)`, the standard deviation of the group or of the batch."""
    advantages = torch.zeros_like(rewards)
    valid = torch.ones_like(rewards, dtype=torch.bool) if where is None else where
    for start in range(0, len(rewards), group_size):
        group = torch.arange(start, start + group_size)[valid[start : start + group_size]]
        if len(group) == 0 or (rewards[group] == rewards[group[0]]).all():
            continue
        advantages[group] = rewards[group] - rewards[group].mean()
        if scale == "group":
            advantages[group] /= rewards[group].std() + eps
    if scale == "batch" and advantages.any():
        advantages /= rewards[valid].std() + eps
    return advantages


def sampled_kl_div(
    logps: Tensor,
    ref_logps: Tensor,
    *,
    estimator: str = "k3",
    reduction: str = "mean",
    where: Tensor | None = None,
) -> Any:
    """With `r = ref / pi`: k1 is `-log(r)`, k2 is `log(r)**2 / 2`, and k3 is `r - 1 - log(r)`."""
    logps, ref_logps = kept(where, logps, ref_logps.detach())
    log_r = ref_logps - logps
    losses = {"k1": -log_r, "k2": log_r.square() / 2, "k3": torch.expm1(log_r) - log_r}[estimator]
    if reduction == "none":
        return undelete(losses, where, reduction)
    return losses.sum() if reduction == "sum" else losses.mean()


def truncated_importance_weights(
    old_logps: Tensor,
    rollout_logps: Tensor,
    *,
    cap: float = 2.0,
    level: str = "token",
    where: Tensor | None = None,
) -> Tensor:
    """`min(exp(old - rollout), cap)` for each token, or of the sum over its sequence."""
    log_ratio = (old_logps - rollout_logps).detach()
    if where is not None:
        log_ratio = torch.where(where, log_ratio, 0)
    if level == "sequence":
        log_ratio = log_ratio.sum(-1, keepdim=True).expand(log_ratio.shape)
    weights = log_ratio.exp().clamp(max=cap)
    return weights if where is None else torch.where(where, weights, 0)


def clipped_value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    *,
    clip: float = 0.2,
    reduction: str = "mean",
    where: Tensor | None = None,
) -> Any:
    """Half the larger of two squared errors: of the value, and of the value clipped to near the old one."""
    values, old_values, returns = kept(where, values, old_values.detach(), returns.detach())
    clipped = torch.clamp(values, old_values - clip, old_values + clip)
    losses = torch.max((values - returns).square(), (clipped - returns).square()) / 2
    if reduction == "none":
        return undelete(losses, where, reduction)
    return losses.sum() if reduction == "sum" else losses.mean()
