"""Divergences between two softmax distributions, as their definitions write them, on torch.log_softmax."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from torch_ref.losses._masking import kept, reduce_rows

__all__ = ["forward_kl_div", "jensen_shannon_div", "reverse_kl_div", "total_variation_div"]


def forward_kl_div(
    input: Tensor,
    target: Tensor,
    *,
    reduction: str = "mean",
    where: Tensor | None = None,
    sample_weight: Tensor | None = None,
    axis: int = -1,
) -> Tensor:
    """`torch.nn.functional.kl_div` of the two log-softmaxes."""
    return _divergence(_kl, input, target, reduction, where, sample_weight, axis)


def jensen_shannon_div(
    input: Tensor,
    target: Tensor,
    *,
    beta: float = 0.5,
    reduction: str = "mean",
    where: Tensor | None = None,
    sample_weight: Tensor | None = None,
    axis: int = -1,
) -> Tensor:
    """Two `torch.nn.functional.kl_div` from the mixture, as it mixes; at the ends one from the other."""
    skewed = partial(_jensen_shannon, beta=beta)
    return _divergence(skewed, input, target, reduction, where, sample_weight, axis)


def reverse_kl_div(
    input: Tensor,
    target: Tensor,
    *,
    reduction: str = "mean",
    where: Tensor | None = None,
    sample_weight: Tensor | None = None,
    axis: int = -1,
) -> Tensor:
    """`torch.nn.functional.kl_div` of the two log-softmaxes, exchanged."""
    return _divergence(lambda q, p: _kl(p, q), input, target, reduction, where, sample_weight, axis)


def total_variation_div(
    input: Tensor,
    target: Tensor,
    *,
    reduction: str = "mean",
    where: Tensor | None = None,
    sample_weight: Tensor | None = None,
    axis: int = -1,
) -> Tensor:
    """Half the L1 distance of the two softmaxes."""
    return _divergence(_total_variation, input, target, reduction, where, sample_weight, axis)


def _kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


def _jensen_shannon(log_q: Tensor, log_p: Tensor, beta: float) -> Tensor:
    if beta in (0, 1):
        return _kl(log_p, log_q) if beta else _kl(log_q, log_p)
    log_m = torch.logaddexp(log_q + math.log1p(-beta), log_p + math.log(beta))
    return beta * _kl(log_m, log_p) + (1 - beta) * _kl(log_m, log_q)


def _total_variation(log_q: Tensor, log_p: Tensor) -> Tensor:
    return (log_q.exp() - log_p.exp()).abs().sum(-1) / 2


def _divergence(
    divergence: Callable[[Tensor, Tensor], Tensor],
    input: Tensor,
    target: Tensor,
    reduction: str,
    where: Tensor | None,
    sample_weight: Tensor | None,
    axis: int,
) -> Tensor:
    """Rows that take no part are deleted first."""
    log_q, log_p = (torch.log_softmax(logits, axis).movedim(axis, -1) for logits in (input, target))
    keep = torch.ones(log_q.shape[:-1], dtype=torch.bool) if where is None else where
    loss = divergence(log_q[keep], log_p[keep])
    return reduce_rows(loss, keep, reduction, *kept(keep, sample_weight))
