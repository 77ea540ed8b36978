"""Cross entropy of a linear head; with chunks, each recomputed in the backward pass."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from torch_ref.fused.reference import TokenStatistics as TokenStatistics
from torch_ref.fused.reference import linear_cross_entropy_reference

__all__ = ["TokenStatistics", "linear_cross_entropy", "linear_log_prob"]


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    where: Tensor | None = None,
    sample_weight: Tensor | None = None,
    z_loss: float = 0.0,
    logit_softcap: float | None = None,
    logit_scale: float | Tensor | None = None,
    implementation: str = "auto",
    chunk_size: int | None = None,
    axis_name: str | None = None,
    return_statistics: bool = False,
) -> Tensor | tuple[Tensor, TokenStatistics]:
    """`torch.nn.functional.linear_cross_entropy`, and the options that it lacks; `axis_name` is JAX's."""
    if axis_name is not None:
        raise ValueError("axis_name must be None: only JAX splits the vocabulary over devices")
    options: dict[str, Any] = {
        "linear_bias": linear_bias,
        "weight": weight,
        "ignore_index": ignore_index,
        "label_smoothing": label_smoothing,
        "z_loss": z_loss,
        "logit_softcap": logit_softcap,
        "logit_scale": logit_scale,
    }
    if implementation != "chunked" or return_statistics or linear_weight.dim() > 2 or input.dim() < 2:
        return linear_cross_entropy_reference(
            input,
            linear_weight,
            target,
            reduction=reduction,
            where=where,
            sample_weight=sample_weight,
            return_statistics=return_statistics,
            **options,
        )
    losses = _chunked_losses(input, linear_weight, target, where, chunk_size or 256, options)
    factor = torch.ones_like(losses) if sample_weight is None else sample_weight
    if reduction == "none":
        return losses * factor
    if where is not None:
        factor = torch.where(where, factor, 0.0)
    total = (losses * factor).sum()
    if reduction == "sum":
        return total
    if not target.is_floating_point():
        kept = target != (-100 if ignore_index is None else ignore_index)
        factor = torch.where(kept, factor if weight is None else factor * weight[target.where(kept, 0)], 0.0)
    return total / factor.sum()


def _chunked_losses(input, linear_weight, target, where, chunk_size, options) -> Tensor:
    kept = torch.ones(input.shape[:-1], dtype=torch.bool) if where is None else where
    chunks = zip(
        input.flatten(0, -2).split(chunk_size),
        target.reshape(kept.numel(), *target.shape[input.dim() - 1 :]).split(chunk_size),
        kept.flatten().split(chunk_size),
        strict=True,
    )
    losses = [
        checkpoint(
            lambda x, t, k: linear_cross_entropy_reference(
                x, linear_weight, t, where=k, reduction="none", **options
            ),
            *chunk,
            use_reentrant=False,
        )
        for chunk in chunks
    ]
    return torch.cat(losses).reshape(kept.shape)


def linear_log_prob(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    ignore_index: int | None = None,
    where: Tensor | None = None,
    logit_softcap: float | None = None,
    logit_scale: float | Tensor | None = None,
    implementation: str = "auto",
    chunk_size: int | None = None,
    axis_name: str | None = None,
) -> Tensor:
    """Log-probability of each label under a linear head."""
    losses: Any = linear_cross_entropy(
        input,
        linear_weight,
        target,
        linear_bias=linear_bias,
        reduction="none",
        ignore_index=ignore_index,
        where=where,
        logit_softcap=logit_softcap,
        logit_scale=logit_scale,
        implementation=implementation,
        chunk_size=chunk_size,
        axis_name=axis_name,
    )
    return -losses
