"""One minus Pearson's correlation, from `torch.corrcoef` or, with weights, `torch.cov`."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["correlation_loss"]


def correlation_loss(
    input: Tensor,
    target: Tensor,
    *,
    reduction: str = "mean",
    where: Tensor | None = None,
    sample_weight: Tensor | None = None,
    axis: int | Sequence[int] | None = -1,
) -> Tensor:
    """`1 - torch.corrcoef` of each series; 1 without variance."""
    keep = torch.ones(input.shape, dtype=torch.bool) if where is None else where
    weight = torch.ones_like(input) if sample_weight is None else sample_weight
    series = [_as_series(values, axis) for values in (input, target, weight, keep)]
    losses, present = [], []
    for x, y, w, k in zip(*series, strict=True):
        pair = torch.stack([x[k], y[k]])
        has_variance = pair.shape[1] > 1 and bool((pair.amax(1) > pair.amin(1)).all())
        present.append(bool(k.any()))
        losses.append(1 - _correlation(pair, w[k]) if has_variance else (pair * 0).sum() + float(k.any()))
    loss = torch.stack(losses)
    if reduction == "none":
        return loss.reshape(_shape_left(input, axis))
    return loss.sum() if reduction == "sum" else loss.sum() / sum(present)


def _correlation(pair: Tensor, weight: Tensor) -> Tensor:
    if (weight == 1).all():
        return torch.corrcoef(pair)[0, 1]
    covariance = torch.cov(pair, aweights=weight, correction=0)
    return covariance[0, 1] / torch.sqrt(covariance[0, 0] * covariance[1, 1])


def _axes(array: Tensor, axis: int | Sequence[int] | None) -> list[int]:
    if axis is None:
        return list(range(array.dim()))
    return [a % array.dim() for a in ([axis] if isinstance(axis, int) else axis)]


def _shape_left(array: Tensor, axis: int | Sequence[int] | None) -> list[int]:
    return [size for i, size in enumerate(array.shape) if i not in _axes(array, axis)]


def _as_series(array: Tensor, axis: int | Sequence[int] | None) -> Tensor:
    axes = _axes(array, axis)
    rest = [i for i in range(array.dim()) if i not in axes]
    length = int(torch.tensor([array.shape[a] for a in axes]).prod())
    return array.permute(*rest, *axes).reshape(-1, length)
