"""Losses on vectors: torch.nn.functional's own, plus `where=`."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from torch_ref.losses._masking import kept, undelete

__all__ = ["cosine_embedding_loss", "triplet_margin_loss", "triplet_margin_with_distance_loss"]


def cosine_embedding_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    reduction: str = "mean",
    *,
    where: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.cosine_embedding_loss`; pairs where the mask is False are deleted first."""
    input1, input2, target = kept(where, input1, input2, target)
    loss = F.cosine_embedding_loss(input1, input2, target, margin, reduction=reduction)
    return undelete(loss, where, reduction)


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
    *,
    where: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.triplet_margin_loss`; triplets where the mask is False are deleted first."""
    anchor, positive, negative = kept(where, anchor, positive, negative)
    loss = F.triplet_margin_loss(anchor, positive, negative, margin, p, eps, swap, reduction=reduction)
    return undelete(loss, where, reduction)


def triplet_margin_with_distance_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
    where: Tensor | None = None,
) -> Tensor:
    """`F.triplet_margin_with_distance_loss`; triplets where the mask is False are deleted first."""
    anchor, positive, negative = kept(where, anchor, positive, negative)
    loss = F.triplet_margin_with_distance_loss(
        anchor,
        positive,
        negative,
        distance_function=distance_function,
        margin=margin,
        swap=swap,
        reduction=reduction,
    )
    return undelete(loss, where, reduction)
