"""Masking by deletion: torch sees only the elements or rows that take part."""

import torch
from torch import Tensor

# How far above 0 rounding may leave a log-probability.
ROUNDING = 1e-4


def kept(where: Tensor | None, *arrays: Tensor | None) -> list:
    """What the mask leaves of each array; None stays None."""
    return [array if array is None or where is None else array[where] for array in arrays]


def undelete(loss: Tensor, where: Tensor | None, reduction: str) -> Tensor:
    """With "none", the losses back in their places, with 0 where they were deleted."""
    if where is None or reduction != "none":
        return loss
    return torch.zeros(where.shape, dtype=loss.dtype).masked_scatter(where, loss)


def reduce_rows(loss: Tensor, where: Tensor, reduction: str, weight: Tensor | None) -> Tensor:
    """Reduce what is left of the rows, times the weights that are left; the mean divides by their sum."""
    weight = torch.ones_like(loss) if weight is None else weight
    if reduction == "none":
        return undelete(loss * weight, where, reduction)
    total = (loss * weight).sum()
    return total if reduction == "sum" else weighted_mean(total, weight.sum())


def weighted_mean(total: Tensor, total_weight: Tensor) -> Tensor:
    """`total / total_weight`, NaN for a weight of 0, where the total of smoothed labels may be another."""
    return total / torch.where(total_weight == 0, torch.nan, total_weight)
