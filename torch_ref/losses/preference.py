"""Preferences between pairs of answers: reward models, and direct optimisation against a reference model."""

import torch
from torch import Tensor
from torch.nn import functional as F

from torch_ref.losses._masking import kept, reduce_rows, weighted_mean
from torch_ref.losses._preference import kept_logps, logistic, only_log_probabilities, rows

__all__ = ["bradley_terry_loss", "dpo_loss", "sequence_logps"]


def sequence_logps(token_logps: Tensor, *, where: Tensor | None = None, average: bool = False) -> Tensor:
    """The sum or the mean of the tokens' log-probabilities, of those where the mask is True."""
    where = rows(where, token_logps)
    total = only_log_probabilities(torch.where(where, token_logps, 0.0)).sum(-1)
    return weighted_mean(total, where.sum(-1)) if average else total


def dpo_loss(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: float = 0.1,
    loss_type: str = "sigmoid",
    label_smoothing: float = 0.0,
    discopop_tau: float = 0.05,
    reduction: str = "mean",
    where: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """The variants of DPO as their papers write them."""
    where = rows(where, chosen_logps)
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps = kept_logps(
        where, chosen_logps, rejected_logps, ref_chosen_logps.detach(), ref_rejected_logps.detach()
    )
    (weight,) = kept(where, sample_weight)
    chosen, rejected = chosen_logps - ref_chosen_logps, rejected_logps - ref_rejected_logps
    margin = beta * (chosen - rejected)
    if loss_type == "sigmoid":
        loss = logistic(margin, label_smoothing)
    elif loss_type == "hinge":
        loss = (1 - margin).clamp(min=0)
    elif loss_type == "ipo":
        loss = (chosen - rejected - 1 / (2 * beta)) ** 2
    elif loss_type == "robust":
        wrong = F.logsigmoid(-margin)
        right = F.logsigmoid(margin)
        loss = (label_smoothing * wrong - (1 - label_smoothing) * right) / (1 - 2 * label_smoothing)
    elif loss_type == "exo_pair":
        target = torch.tensor([1 - label_smoothing, label_smoothing], dtype=margin.dtype).log()
        log_q = torch.stack([F.logsigmoid(margin), F.logsigmoid(-margin)], -1)
        loss = (log_q.exp() * (log_q - target)).sum(-1)
    elif loss_type == "nca_pair":
        loss = logistic(beta * chosen) + 0.5 * logistic(-beta * chosen) + 0.5 * logistic(-beta * rejected)
    elif loss_type == "bco_pair":
        loss = logistic(beta * chosen) + logistic(-beta * rejected)
    elif loss_type == "sppo_hard":
        loss = (chosen - 1 / (2 * beta)) ** 2 + (rejected + 1 / (2 * beta)) ** 2
    elif loss_type == "aot":
        ours, theirs = chosen_logps - rejected_logps, ref_chosen_logps - ref_rejected_logps
        loss = logistic(beta * _lead_by_rank(ours, theirs), label_smoothing)
    elif loss_type == "aot_unpaired":
        loss = logistic(beta * _lead_by_rank(chosen, rejected), label_smoothing)
    elif loss_type == "apo_zero":
        loss = 1 - torch.sigmoid(beta * chosen) + torch.sigmoid(beta * rejected)
    elif loss_type == "apo_down":
        loss = torch.sigmoid(beta * chosen) + 1 - torch.sigmoid(margin)
    elif loss_type == "discopop":
        share = torch.sigmoid(margin / discopop_tau)
        loss = (1 - share) * logistic(margin) + share * torch.exp(-margin)
    else:
        raise ValueError(f"unknown loss_type {loss_type!r}")
    return reduce_rows(loss, where, reduction, weight)


def _lead_by_rank(above: Tensor, below: Tensor) -> Tensor:
    """Each entry's lead over the other tensor's entry of the same rank."""
    order = above.argsort(stable=True)
    lead = above[order] - below[below.argsort(stable=True)]
    return torch.zeros_like(lead).index_copy(0, order, lead)


def bradley_terry_loss(
    chosen_rewards: Tensor,
    rejected_rewards: Tensor,
    *,
    margin: Tensor | None = None,
    center_rewards_coefficient: float = 0.0,
    reduction: str = "mean",
    where: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Logistic loss of the difference of two rewards, and the square of their sum."""
    where = rows(where, chosen_rewards)
    chosen, rejected, lead, weight = kept(where, chosen_rewards, rejected_rewards, margin, sample_weight)
    gap = chosen - rejected if lead is None else chosen - rejected - lead
    loss = logistic(gap) + center_rewards_coefficient * (chosen + rejected) ** 2
    return reduce_rows(loss, where, reduction, weight)
