"""Losses on real numbers: torch.nn.functional's own, plus `where=`."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["huber_loss", "l1_loss", "mse_loss", "smooth_l1_loss"]


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


def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    beta: float = 1.0,
    *,
    where: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.smooth_l1_loss`; elements where the mask is False are deleted first."""
    if where is None:
        return F.smooth_l1_loss(input, target, reduction=reduction, beta=beta)
    loss = F.smooth_l1_loss(input[where], target[where], reduction=reduction, beta=beta)
    return _undelete(loss, where) if reduction == "none" else loss


def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
    *,
    where: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.huber_loss`; elements where the mask is False are deleted first."""
    return _of_kept(F.huber_loss, input, target, weight, where, reduction=reduction, delta=delta)


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
    return _undelete(result, where) if reduction == "none" else result


def _undelete(loss: Tensor, where: Tensor) -> Tensor:
    return torch.zeros(where.shape, dtype=loss.dtype).masked_scatter(where, loss)
