"""Preferences between pairs of answers, optimised without a reference model."""

from torch import Tensor

from torch_ref.losses._masking import kept, reduce_rows
from torch_ref.losses._preference import kept_logps, logistic, rows

__all__ = ["cpo_loss", "orpo_loss", "simpo_loss"]


def cpo_loss(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    nll_weight: float = 1.0,
    reduction: str = "mean",
    where: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Logistic loss of the difference of log-probabilities, and the chosen answer's own."""
    where = rows(where, chosen_logps)
    chosen, rejected = kept_logps(where, chosen_logps, rejected_logps)
    loss = logistic(beta * (chosen - rejected), label_smoothing) - nll_weight * chosen
    return reduce_rows(loss, where, reduction, *kept(where, sample_weight))


def orpo_loss(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    *,
    beta: float = 0.1,
    nll_weight: float = 1.0,
    reduction: str = "mean",
    where: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Logistic loss of the difference of log-odds, and the chosen answer's negative log-likelihood."""
    where = rows(where, chosen_logps)
    chosen, rejected = kept_logps(where, chosen_logps, rejected_logps)
    chosen_odds, rejected_odds = (logps - (-logps.expm1()).log() for logps in (chosen, rejected))
    loss = beta * logistic(chosen_odds - rejected_odds) - nll_weight * chosen
    return reduce_rows(loss, where, reduction, *kept(where, sample_weight))


def simpo_loss(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    *,
    beta: float = 2.0,
    gamma: float = 0.5,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    where: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Logistic loss of the difference of averaged log-probabilities, less a margin."""
    where = rows(where, chosen_logps)
    chosen, rejected = kept_logps(where, chosen_logps, rejected_logps)
    loss = logistic(beta * (chosen - rejected) - gamma, label_smoothing)
    return reduce_rows(loss, where, reduction, *kept(where, sample_weight))
