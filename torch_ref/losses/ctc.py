"""Connectionist temporal classification: torch.nn.functional's own, plus `where=`."""

import torch
from torch import Tensor
from torch.nn import functional as F

from torch_ref.losses._masking import undelete

__all__ = ["ctc_loss"]


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor | tuple[int, ...],
    target_lengths: Tensor | tuple[int, ...],
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
    *,
    where: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.ctc_loss`; sequences where the mask is False are deleted first."""
    frames, labels = torch.as_tensor(input_lengths), torch.as_tensor(target_lengths)
    if where is None:
        return F.ctc_loss(log_probs, targets, frames, labels, blank, reduction, zero_infinity)
    if targets.dim() == 1:
        parts = zip(targets.split(labels.tolist()), where.tolist(), strict=True)
        targets = torch.cat([part for part, kept in parts if kept])
    else:
        targets = targets[where]
    loss = F.ctc_loss(
        log_probs[:, where], targets, frames[where], labels[where], blank, reduction, zero_infinity
    )
    return undelete(loss, where, reduction)
