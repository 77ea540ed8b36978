"""Hinge losses on scores: torch.nn.functional's own, plus `where=`."""

from torch import Tensor
from torch.nn import functional as F

from torch_ref.losses._masking import kept, undelete

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
    input1, input2, target = kept(where, input1, input2, target)
    loss = F.margin_ranking_loss(input1, input2, target, margin, reduction=reduction)
    return undelete(loss, where, reduction)


def hinge_embedding_loss(
    input: Tensor,
    target: Tensor,
    margin: float = 1.0,
    reduction: str = "mean",
    *,
    where: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.hinge_embedding_loss`; pairs where the mask is False are deleted first."""
    input, target = kept(where, input, target)
    loss = F.hinge_embedding_loss(input, target, margin, reduction=reduction)
    return undelete(loss, where, reduction)


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
    input, target = kept(where, input, target)
    loss = F.multi_margin_loss(input, target, p, margin, weight, reduction=reduction)
    return undelete(loss, where, reduction)


def multilabel_margin_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    *,
    where: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.multilabel_margin_loss`; rows where the mask is False are deleted first."""
    input, target = kept(where, input, target)
    loss = F.multilabel_margin_loss(input, target, reduction=reduction)
    return undelete(loss, where, reduction)
