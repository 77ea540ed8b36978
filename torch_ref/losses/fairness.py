"""The gap of the mean loss between groups, group by group."""

import torch
from torch import Tensor

__all__ = ["group_gap_penalty"]


def group_gap_penalty(
    input: Tensor,
    group: Tensor,
    num_groups: int,
    *,
    measure: str = "range",
    ignore_index: int = -100,
    where: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """The range or `torch.var` of the groups' weighted means."""
    keep = group != ignore_index
    keep = keep if where is None else keep & where
    losses, groups = input[keep], group[keep]
    weight = torch.ones_like(losses) if sample_weight is None else sample_weight[keep]
    means = []
    for g in range(num_groups):
        members = groups == g
        if weight[members].sum() > 0:
            means.append((weight[members] * losses[members]).sum() / weight[members].sum())
    if len(means) < 2:
        return (losses * 0).sum()
    stacked = torch.stack(means)
    return stacked.amax() - stacked.amin() if measure == "range" else torch.var(stacked, correction=0)
