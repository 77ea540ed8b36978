"""Objectives of language models, from logits `[*B, T, V]` and tokens `[*B, T]`."""

from torch import Tensor

from torch_ref.losses.classification import cross_entropy

__all__ = ["final_token_loss", "next_token_loss"]


def next_token_loss(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    where: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Cross entropy of the next token, from every position."""
    return cross_entropy(
        logits,
        target,
        weight,
        ignore_index,
        reduction,
        label_smoothing,
        where=where,
        sample_weight=sample_weight,
    )


def final_token_loss(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    where: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Cross entropy of the next token, from the last position only."""
    return cross_entropy(
        logits[..., -1, :],
        target[..., -1],
        weight,
        ignore_index,
        reduction,
        label_smoothing,
        where=None if where is None else where[..., -1],
        sample_weight=None if sample_weight is None else sample_weight[..., -1],
    )
