"""Single answers that are desirable or not: no pairs are needed."""

import torch
from torch import Tensor

from torch_ref.losses._masking import kept, reduce_rows
from torch_ref.losses._preference import kept_logps, logistic, rows

__all__ = ["bco_loss", "kto_loss"]


def bco_loss(
    logps: Tensor,
    ref_logps: Tensor,
    is_desirable: Tensor,
    reward_shift: Tensor,
    *,
    beta: float = 0.1,
    reduction: str = "mean",
    where: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Logistic loss of the implicit reward beyond the shift, or below it."""
    where = rows(where, logps)
    policy, reference = kept_logps(where, logps, ref_logps.detach())
    kinds, weight = kept(where, is_desirable, sample_weight)
    lead = beta * (policy - reference) - torch.as_tensor(reward_shift).detach()
    return reduce_rows(logistic(torch.where(kinds, lead, -lead)), where, reduction, weight)


def kto_loss(
    logps: Tensor,
    ref_logps: Tensor,
    is_desirable: Tensor,
    kl: Tensor,
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    reduction: str = "mean",
    where: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """One minus the sigmoid of the log-ratio beyond the divergence, or below it, times the kind's weight."""
    where = rows(where, logps)
    policy, reference = kept_logps(where, logps, ref_logps.detach())
    kinds, weight = kept(where, is_desirable, sample_weight)
    lead = beta * (policy - reference - torch.as_tensor(kl).detach().clamp(min=0))
    desirable = desirable_weight * (1 - torch.sigmoid(lead))
    undesirable = undesirable_weight * (1 - torch.sigmoid(-lead))
    return reduce_rows(torch.where(kinds, desirable, undesirable), where, reduction, weight)
