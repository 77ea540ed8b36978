"""Losses of yes-or-no targets: torch.nn.functional's own, plus `where=`."""

from torch import Tensor
from torch.nn import functional as F

from torch_ref.losses._masking import kept, undelete

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
    input, target, weight = kept(where, input, target, _spread(weight, input))
    return undelete(F.binary_cross_entropy(input, target, weight, reduction=reduction), where, reduction)


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
    factors = _spread(weight, input), _spread(pos_weight, input)
    input, target, weight, pos_weight = kept(where, input, target, *factors)
    loss = F.binary_cross_entropy_with_logits(
        input, target, weight, reduction=reduction, pos_weight=pos_weight
    )
    return undelete(loss, where, reduction)


def soft_margin_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    *,
    where: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.soft_margin_loss`; elements where the mask is False are deleted first."""
    input, target = kept(where, input, target)
    return undelete(F.soft_margin_loss(input, target, reduction=reduction), where, reduction)


def multilabel_soft_margin_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    *,
    where: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.multilabel_soft_margin_loss`; rows where the mask is False are deleted first."""
    input, target, weight = kept(where, input, target, _spread(weight, input))
    loss = F.multilabel_soft_margin_loss(input, target, weight, reduction=reduction)
    return undelete(loss, where, reduction)


def _spread(weight: Tensor | None, input: Tensor) -> Tensor | None:
    return None if weight is None else weight.expand(input.shape)
