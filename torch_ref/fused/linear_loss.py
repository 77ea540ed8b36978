"""Any loss of a token's logits as one of hidden states and head."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from torch_ref.fused._head import head_logits
from torch_ref.losses._masking import weighted_mean

__all__ = ["make_linear_loss"]


def make_linear_loss(fn: Callable, *, splits_classes: bool = False) -> Callable:
    """The loss whose tokens' values are `fn(logits, *arrays, **options)`; `splits_classes` is JAX's."""
    return partial(_linear_loss, partial(fn, axis_name=None) if splits_classes else fn)


def _linear_loss(
    fn: Callable,
    /,
    input: Tensor,
    linear_weight: Tensor,
    *arrays: Tensor,
    linear_bias: Tensor | None = None,
    reduction: str = "mean",
    where: Tensor | None = None,
    sample_weight: Tensor | None = None,
    denominator: float | Tensor | None = None,
    logit_softcap: float | None = None,
    logit_scale: float | Tensor | None = None,
    implementation: str = "auto",
    chunk_size: int | None = None,
    axis_name: str | None = None,
    **options,
):
    if axis_name is not None:
        raise ValueError("axis_name must be None: only JAX splits the vocabulary over devices")
    shape = input.shape[:-1] + linear_weight.shape[1:-1]
    valid = torch.ones(shape, dtype=torch.bool) if where is None else where
    options = {name: value for name, value in options.items() if value is not None}

    def logits_of(input: Tensor) -> Tensor:
        return head_logits(input, linear_weight, linear_bias, logit_softcap, logit_scale)

    def values_of(logits: Tensor, *arrays: Tensor):
        result = fn(logits, *arrays, **options)
        return result if isinstance(result, tuple) else (result, None)

    chosen = [array[valid] for array in arrays]
    if implementation == "chunked" and linear_weight.dim() == 2:
        chunks = zip(*(array.split(chunk_size or 256) for array in (input[valid], *chosen)), strict=True)
        parts = [
            checkpoint(lambda x, *own: values_of(logits_of(x), *own), *chunk, use_reentrant=False)
            for chunk in chunks
        ]
        losses = torch.cat([values for values, _ in parts])
        named = [statistics for _, statistics in parts]
        statistics = named[0] and {name: torch.cat([each[name] for each in named]) for name in named[0]}
    else:
        losses, statistics = values_of(logits_of(input)[valid], *chosen)

    def spread(values: Tensor) -> Tensor:
        rows = torch.zeros((*shape, *values.shape[1:]), dtype=values.dtype)
        return rows.index_put((valid,), values)

    factor = torch.ones_like(losses) if sample_weight is None else sample_weight[valid]
    count = factor.sum() if denominator is None else torch.as_tensor(denominator, dtype=losses.dtype)
    total = (losses * factor).sum()
    by_reduction = {
        "none": lambda: spread(losses * factor),
        "sum": lambda: total,
        "parts": lambda: (total, count),
    }
    loss = by_reduction.get(reduction, lambda: weighted_mean(total, count))()
    return loss if statistics is None else (loss, {k: spread(a.detach()) for k, a in statistics.items()})
