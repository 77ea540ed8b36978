"""Distillation between two linear heads."""

from torch import Tensor

from torch_ref.fused._head import head_logits
from torch_ref.losses.distillation import distillation_loss

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
    beta: float = 0.5,
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
    """`distillation_loss` of the logits of both heads."""
    student = head_logits(input, linear_weight, linear_bias, logit_softcap, logit_scale)
    teacher = head_logits(
        teacher_input,
        teacher_linear_weight,
        teacher_linear_bias,
        teacher_logit_softcap,
        teacher_logit_scale,
    )
    return distillation_loss(
        student,
        teacher,
        target,
        temperature=temperature,
        hard_weight=hard_weight,
        divergence=divergence,
        beta=beta,
        ignore_index=ignore_index,
        reduction=reduction,
        where=where,
        sample_weight=sample_weight,
    )


def linear_kl_div(
    input: Tensor,
    linear_weight: Tensor,
    teacher_input: Tensor,
    teacher_linear_weight: Tensor,
    *,
    divergence: str = "forward_kl",
    beta: float = 0.5,
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
        beta=beta,
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
