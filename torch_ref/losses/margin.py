"""Hinge losses on scores: torch.nn.functional's own, plus `where=`."""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["hinge_embedding_loss", "margin_ranking_loss", "multi_margin_loss", "multilabel_margin_loss"]


def margin_ranking_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    reduction: str = "mean",
    *,
    where: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.margin_ranking_loss`; pairs where the mask is False are deleted first."""
    if where is not None:
        input1, input2, target = input1[where], input2[where], target[where]
    loss = F.margin_ranking_loss(input1, input2, target, margin, reduction=reduction)
    return _undelete(loss, where) if where is not None and reduction == "none" else loss


def hinge_embedding_loss(
    input: Tensor,
    target: Tensor,
    margin: float = 1.0,
    reduction: str = "mean",
    *,
    where: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.hinge_embedding_loss`; pairs where the mask is False are deleted first."""
    if where is not None:
        input, target = input[where], target[where]
    loss = F.hinge_embedding_loss(input, target, margin, reduction=reduction)
    return _undelete(loss, where) if where is not None and reduction == "none" else loss


def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
    *,
    where: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.multi_margin_loss`; rows where the mask is False are deleted first."""
    if where is not None:
        input, target = input[where], target[where]
    loss = F.multi_margin_loss(input, target, p, margin, weight, reduction=reduction)
    return _undelete(loss, where) if where is not None and reduction == "none" else loss


def multilabel_margin_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    *,
    where: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.multilabel_margin_loss`; rows where the mask is False are deleted first."""
    if where is not None:
        input, target = input[where], target[where]
    loss = F.multilabel_margin_loss(input, target, reduction=reduction)
    return _undelete(loss, where) if where is not None and reduction == "none" else loss


def _undelete(loss: Tensor, where: Tensor) -> Tensor:
    return torch.zeros(where.shape, dtype=loss.dtype).masked_scatter(where, loss)
