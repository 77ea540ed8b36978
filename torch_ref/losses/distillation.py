"""Training a student on a teacher's logits, or on what was kept of them, on torch.nn.functional."""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from torch_ref.losses._masking import kept, reduce_rows
from torch_ref.losses.softmax_divergence import (
    forward_kl_div,
    jensen_shannon_div,
    reverse_kl_div,
    total_variation_div,
)

__all__ = ["distillation_loss", "top_k_distillation_loss"]

_DIVERGENCES = {
    "forward_kl": forward_kl_div,
    "reverse_kl": reverse_kl_div,
    "jensen_shannon": jensen_shannon_div,
    "total_variation": total_variation_div,
}


def distillation_loss(
    input: Tensor,
    teacher_input: Tensor,
    target: Tensor | None = None,
    *,
    temperature: float = 2.0,
    hard_weight: float = 0.0,
    divergence: str = "forward_kl",
    beta: float = 0.5,
    ignore_index: int = -100,
    reduction: str = "mean",
    where: Tensor | None = None,
    sample_weight: Tensor | None = None,
    axis: int = -1,
) -> Tensor:
    """The softened divergence times T squared, mixed with the cross entropy of the labels."""
    is_mixed = divergence == "jensen_shannon"
    chosen = partial(jensen_shannon_div, beta=beta) if is_mixed else _DIVERGENCES[divergence]
    student, teacher = input.movedim(axis, -1), teacher_input.detach().movedim(axis, -1)
    keep = torch.ones(student.shape[:-1], dtype=torch.bool) if where is None else where
    if target is not None:
        keep = keep & (target != ignore_index)
    student, teacher = student[keep], teacher[keep]
    soft = chosen(student / temperature, teacher / temperature, reduction="none") * temperature**2
    loss = (1 - hard_weight) * soft
    if hard_weight > 0.0 and target is not None:
        loss = loss + hard_weight * F.cross_entropy(student, target[keep], reduction="none")
    return reduce_rows(loss, keep, reduction, *kept(keep, sample_weight))


def top_k_distillation_loss(
    input: Tensor,
    teacher_top_logps: Tensor,
    teacher_top_ids: Tensor,
    *,
    tail: str = "bin",
    divergence: str = "forward_kl",
    reduction: str = "mean",
    where: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """A divergence of the probabilities of the classes kept, each row by itself."""
    keep = torch.ones(input.shape[:-1], dtype=torch.bool) if where is None else where
    losses = []
    for logits, logps, ids in zip(
        input[keep], teacher_top_logps[keep].detach(), teacher_top_ids[keep], strict=True
    ):
        given = logps > -torch.inf
        p, q = logps[given].exp(), torch.softmax(logits, -1)[ids[given]]
        if tail == "drop":
            losses.append((p * (p / q).log()).sum())
            continue
        if tail == "bin" and given.sum() < len(logits):
            p, q = (torch.cat([a, 1 - a.sum(-1, keepdim=True)]) for a in (p, q))
        losses.append(_DIVERGENCES[divergence](q.log(), p.log(), reduction="none"))
    loss = torch.stack(losses) if losses else torch.zeros(0, dtype=input.dtype)
    return reduce_rows(loss, keep, reduction, *kept(keep, sample_weight))
