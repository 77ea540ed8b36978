"""Distillation between two linear heads."""

import torch
from torch import Tensor
from torch.nn import functional as F

from torch_ref.fused.reference import _logits

__all__ = ["linear_distillation_loss", "linear_kl_div"]


def linear_distillation_loss(
    input: Tensor,
    linear_weight: Tensor,
    teacher_input: Tensor,
    teacher_linear_weight: Tensor,
    target: Tensor | None = None,
    *,
    temperature: float = 2.0,
    hard_weight: float = 0.0,
    divergence: str = "forward_kl",
    linear_bias: Tensor | None = None,
    teacher_linear_bias: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    where: Tensor | None = None,
    sample_weight: Tensor | None = None,
    logit_softcap: float | None = None,
    teacher_logit_softcap: float | None = None,
    logit_scale: float | Tensor | None = None,
    teacher_logit_scale: float | Tensor | None = None,
    implementation: str = "auto",
    chunk_size: int | None = None,
) -> Tensor:
    """`T^2 D(softmax(teacher / T), softmax(student / T))`, mixed with the labels' cross entropy."""
    kept = torch.ones(input.shape[:-1], dtype=torch.bool) if where is None else where
    if target is not None:
        kept = kept & (target != ignore_index)
    student = _logits(input[kept], linear_weight, linear_bias, logit_softcap, logit_scale)
    with torch.no_grad():
        teacher = _logits(
            teacher_input[kept],
            teacher_linear_weight,
            teacher_linear_bias,
            teacher_logit_softcap,
            teacher_logit_scale,
        )
    log_q, log_p = (F.log_softmax(logits / temperature, -1) for logits in (student, teacher))
    if divergence == "forward_kl":
        soft = _kl(log_p, log_q)
    elif divergence == "reverse_kl":
        soft = _kl(log_q, log_p)
    else:
        log_m = torch.logaddexp(log_p, log_q) - torch.tensor(2.0, dtype=log_p.dtype).log()
        soft = (_kl(log_p, log_m) + _kl(log_q, log_m)) / 2
    losses = (1 - hard_weight) * temperature**2 * soft
    if target is not None and hard_weight > 0.0:
        losses = losses + hard_weight * F.cross_entropy(student, target[kept], reduction="none")
    factor = torch.ones_like(losses) if sample_weight is None else sample_weight[kept]
    if reduction == "none":
        return torch.zeros(kept.shape, dtype=losses.dtype).masked_scatter(kept, losses * factor)
    total = (losses * factor).sum()
    return total / factor.sum() if reduction == "mean" else total


def linear_kl_div(
    input: Tensor,
    linear_weight: Tensor,
    teacher_input: Tensor,
    teacher_linear_weight: Tensor,
    *,
    divergence: str = "forward_kl",
    linear_bias: Tensor | None = None,
    teacher_linear_bias: Tensor | None = None,
    reduction: str = "mean",
    where: Tensor | None = None,
    sample_weight: Tensor | None = None,
    logit_softcap: float | None = None,
    teacher_logit_softcap: float | None = None,
    logit_scale: float | Tensor | None = None,
    teacher_logit_scale: float | Tensor | None = None,
    implementation: str = "auto",
    chunk_size: int | None = None,
) -> Tensor:
    """Divergence between the distributions of two linear heads."""
    return linear_distillation_loss(
        input,
        linear_weight,
        teacher_input,
        teacher_linear_weight,
        temperature=1.0,
        divergence=divergence,
        linear_bias=linear_bias,
        teacher_linear_bias=teacher_linear_bias,
        reduction=reduction,
        where=where,
        sample_weight=sample_weight,
        logit_softcap=logit_softcap,
        teacher_logit_softcap=teacher_logit_softcap,
        logit_scale=logit_scale,
        teacher_logit_scale=teacher_logit_scale,
        implementation=implementation,
        chunk_size=chunk_size,
    )


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
