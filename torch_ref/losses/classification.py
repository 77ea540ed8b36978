"""Losses on one score for each class: torch.nn.functional's own, plus `where=` and `axis=`."""

import torch
from torch import Tensor
from torch.nn import functional as F

from torch_ref.losses._masking import undelete, weighted_mean

__all__ = ["cross_entropy", "nll_loss"]


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    where: Tensor | None = None,
    sample_weight: Tensor | None = None,
    axis: int = -1,
) -> Tensor:
    """`torch.nn.functional.cross_entropy`; rows where the mask is False are deleted first."""
    rows, chosen, keep = _rows(input, target, where, axis)

    def loss_of(reduction: str) -> Tensor:
        return F.cross_entropy(
            rows,
            chosen,
            weight,
            ignore_index=ignore_index,
            reduction=reduction,
            label_smoothing=label_smoothing,
        )

    if sample_weight is not None:
        return _weigh(loss_of("none"), chosen, weight, ignore_index, reduction, keep, sample_weight)
    return undelete(loss_of(reduction), keep, reduction)


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    *,
    where: Tensor | None = None,
    sample_weight: Tensor | None = None,
    axis: int = -1,
) -> Tensor:
    """`torch.nn.functional.nll_loss`; rows where the mask is False are deleted first."""
    rows, chosen, keep = _rows(input, target, where, axis)
    if sample_weight is not None:
        loss = F.nll_loss(rows, chosen, weight, ignore_index=ignore_index, reduction="none")
        return _weigh(loss, chosen, weight, ignore_index, reduction, keep, sample_weight)
    loss = F.nll_loss(rows, chosen, weight, ignore_index=ignore_index, reduction=reduction)
    return undelete(loss, keep, reduction)


def _rows(input: Tensor, target: Tensor, where: Tensor | None, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """Input `[N, C]` and target `[N]` or `[N, C]` with the masked rows deleted, and the mask."""
    axis = 0 if input.dim() == 1 else axis
    has_class_axis = target.shape == input.shape
    input = input.movedim(axis, -1)
    target = target.movedim(axis, -1) if has_class_axis else target
    keep = torch.ones(input.shape[:-1], dtype=torch.bool) if where is None else where
    return input[keep], target[keep], keep


def _weigh(
    loss: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    keep: Tensor,
    sample_weight: Tensor,
) -> Tensor:
    """Losses of single rows times their weight; the mean divides by all weights of the labels that count."""
    chosen = sample_weight[keep]
    loss = loss * chosen
    if reduction == "none":
        return undelete(loss, keep, reduction)
    if reduction == "sum":
        return loss.sum()
    if not target.is_floating_point():
        counts = target != ignore_index
        chosen = torch.where(counts, chosen, 0.0)
        chosen = chosen if weight is None else chosen * weight[torch.where(counts, target, 0)]
    return weighted_mean(loss.sum(), chosen.sum())
