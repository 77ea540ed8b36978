"""Losses on real numbers: torch.nn.functional's own, plus `where=`."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["l1_loss", "mse_loss"]


def l1_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    weight: Tensor | None = None,
    *,
    where: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.l1_loss`; elements where the mask is False are deleted first."""
    return _of_kept(F.l1_loss, input, target, weight, where, reduction=reduction)


def mse_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    weight: Tensor | None = None,
    *,
    where: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.mse_loss`; elements where the mask is False are deleted first."""
    return _of_kept(F.mse_loss, input, target, weight, where, reduction=reduction)


def _of_kept(
    loss: Callable,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    where: Tensor | None,
    *,
    reduction: str,
    **options: float,
) -> Tensor:
    if where is None:
        return loss(input, target, reduction=reduction, weight=weight, **options)
    weight = None if weight is None else weight[where]
    result = loss(input[where], target[where], reduction=reduction, weight=weight, **options)
    if reduction != "none":
        return result
    return torch.zeros(where.shape, dtype=result.dtype).masked_scatter(where, result)
