"""From the losses of tokens to one number, sequence by sequence."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torch_ref.losses._masking import weighted_mean

__all__ = ["accumulated_value_and_grad", "aggregate"]


def aggregate(
    loss: Tensor,
    where: Tensor | None = None,
    *,
    mode: str = "token-mean",
    segment_ids: Tensor | None = None,
    max_length: float | None = None,
    denominator: float | None = None,
    reduction: str = "mean",
) -> Any:
    """Divide each token's loss by what `mode` says of its sequence, and the sum by the sequences."""
    sequences = [tokens for tokens in _sequences(loss, where, segment_ids) if len(tokens)]
    norm = {"token-mean": 1.0, "seq-mean-token-sum": 1.0, "seq-mean-token-sum-norm": max_length}
    shares = torch.zeros_like(loss).reshape(-1)
    for tokens in sequences:
        shares = shares.index_put((tokens,), loss.reshape(-1)[tokens] / (norm.get(mode) or len(tokens)))
    if reduction == "none":
        return shares.reshape(loss.shape)
    count = sum(map(len, sequences)) if mode == "token-mean" else len(sequences)
    total = shares.sum()
    divisor = loss.new_tensor(count if denominator is None else denominator)
    if reduction == "parts":
        return total, divisor
    return total if reduction == "sum" else weighted_mean(total, divisor)


def accumulated_value_and_grad(
    loss: Callable[..., Any], model: torch.nn.Module, parts: tuple[Any, ...]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Add the parts' sums, counts and gradients, and divide once."""
    names, weights = zip(*model.named_parameters(), strict=True)
    totals, counts, grads = [], [], [torch.zeros_like(weight) for weight in weights]
    for part in zip(*parts, strict=True):
        value = loss(model, *part)
        total, count = value if isinstance(value, tuple) else (value, value.new_ones(()))
        if total.requires_grad:  # an empty part depends on nothing
            of_part = torch.autograd.grad(total, weights)
            grads = [grad + new for grad, new in zip(grads, of_part, strict=True)]
        totals.append(total.detach())
        counts.append(count.detach())
    count = torch.stack(counts).sum()
    value = weighted_mean(torch.stack(totals).sum(), count)
    return value, {name: grad / count for name, grad in zip(names, grads, strict=True)}


def _sequences(loss: Tensor, where: Tensor | None, segment_ids: Tensor | None) -> list[Tensor]:
    """The places of each sequence's tokens that take part."""
    rows = list(torch.arange(loss.numel()).reshape(-1, loss.shape[-1]))
    if segment_ids is not None:
        lengths = [
            torch.unique_consecutive(ids, return_counts=True)[1].tolist()
            for ids in segment_ids.reshape(len(rows), -1)
        ]
        rows = [tokens for row, cuts in zip(rows, lengths, strict=True) for tokens in row.split(cuts)]
    return [tokens if where is None else tokens[where.reshape(-1)[tokens]] for tokens in rows]
