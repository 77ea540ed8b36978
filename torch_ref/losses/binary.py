"""Losses of yes-or-no targets: torch.nn.functional's own, plus `where=`."""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "multilabel_soft_margin_loss",
    "soft_margin_loss",
]


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    *,
    where: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.binary_cross_entropy`; elements where the mask is False are deleted first."""
    if where is None:
        return F.binary_cross_entropy(input, target, weight, reduction=reduction)
    weight = None if weight is None else weight.expand(input.shape)[where]
    loss = F.binary_cross_entropy(input[where], target[where], weight, reduction=reduction)
    return _undelete(loss, where) if reduction == "none" else loss


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
    *,
    where: Tensor | None = None,
) -> Tensor:
    """`F.binary_cross_entropy_with_logits`; elements where the mask is False are deleted first."""
    if where is None:
        return F.binary_cross_entropy_with_logits(
            input, target, weight, reduction=reduction, pos_weight=pos_weight
        )
    weight = None if weight is None else weight.expand(input.shape)[where]
    pos_weight = None if pos_weight is None else pos_weight.expand(input.shape)[where]
    loss = F.binary_cross_entropy_with_logits(
        input[where], target[where], weight, reduction=reduction, pos_weight=pos_weight
    )
    return _undelete(loss, where) if reduction == "none" else loss


def soft_margin_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    *,
    where: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.soft_margin_loss`; elements where the mask is False are deleted first."""
    if where is None:
        return F.soft_margin_loss(input, target, reduction=reduction)
    loss = F.soft_margin_loss(input[where], target[where], reduction=reduction)
    return _undelete(loss, where) if reduction == "none" else loss


def multilabel_soft_margin_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    *,
    where: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.multilabel_soft_margin_loss`; rows where the mask is False are deleted first."""
    if where is None:
        return F.multilabel_soft_margin_loss(input, target, weight, reduction=reduction)
    weight = None if weight is None else weight.expand(input.shape)[where]
    loss = F.multilabel_soft_margin_loss(input[where], target[where], weight, reduction=reduction)
    return _undelete(loss, where) if reduction == "none" else loss


def _undelete(loss: Tensor, where: Tensor) -> Tensor:
    return torch.zeros(where.shape, dtype=loss.dtype).masked_scatter(where, loss)
