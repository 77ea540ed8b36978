"""Focal loss and PolyLoss, as their papers write them, on torch.nn.functional's cross entropies."""

import torch
from torch import Tensor
from torch.nn import functional as F

from torch_ref.losses._masking import kept, reduce_rows

__all__ = ["focal_loss", "poly_loss", "sigmoid_focal_loss"]


def focal_loss(
    input: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    where: Tensor | None = None,
    sample_weight: Tensor | None = None,
    axis: int = -1,
) -> Tensor:
    """`(1 - p)^gamma` times the cross entropy, with p from `torch.softmax`."""

    def loss(nll: Tensor, own: Tensor) -> Tensor:
        return (1 - own) ** gamma * nll

    return _of_labels(loss, input, target, weight, ignore_index, reduction, where, sample_weight, axis)


def poly_loss(
    input: Tensor,
    target: Tensor,
    *,
    epsilon: float | Tensor = 2.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    where: Tensor | None = None,
    sample_weight: Tensor | None = None,
    axis: int = -1,
) -> Tensor:
    """Cross entropy plus `sum_j epsilon_j (1 - p)^j`, with p from `torch.softmax`."""
    coefficients = epsilon.reshape(-1) if isinstance(epsilon, Tensor) else torch.tensor([epsilon]).to(input)

    def loss(nll: Tensor, own: Tensor) -> Tensor:
        powers = torch.arange(1, len(coefficients) + 1, dtype=own.dtype)
        return nll + ((1 - own)[..., None] ** powers) @ coefficients

    return _of_labels(loss, input, target, weight, ignore_index, reduction, where, sample_weight, axis)


def sigmoid_focal_loss(
    input: Tensor,
    target: Tensor,
    *,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    reduction: str = "mean",
    where: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """The formula of torchvision's function of this name."""
    keep = torch.ones(input.shape, dtype=torch.bool) if where is None else where
    x, y = input[keep], target[keep]
    p = torch.sigmoid(x)
    p_t = p * y + (1 - p) * (1 - y)
    loss = F.binary_cross_entropy_with_logits(x, y, reduction="none") * (1 - p_t) ** gamma
    if alpha is not None:
        loss = loss * (alpha * y + (1 - alpha) * (1 - y))
    return reduce_rows(loss, keep, reduction, *kept(keep, sample_weight))


def _of_labels(loss, input, target, weight, ignore_index, reduction, where, sample_weight, axis) -> Tensor:
    """Rows that take no part are deleted first; the rest is as written."""
    input = input.movedim(0 if input.dim() == 1 else axis, -1)
    keep = target != ignore_index
    keep = keep if where is None else keep & where
    rows, labels = input[keep], target[keep]
    nll = F.cross_entropy(rows, labels, reduction="none")
    own = torch.softmax(rows, -1).gather(-1, labels[:, None])[:, 0]
    row_weight = torch.ones_like(nll) if weight is None else weight[labels]
    if sample_weight is not None:
        row_weight = row_weight * sample_weight[keep]
    return reduce_rows(loss(nll, own), keep, reduction, row_weight)
