"""Hybrid losses: several combined, with weights that are fixed, change during training, or are learnt."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

__all__ = ["init_log_variances", "make_hybrid_loss", "make_uncertainty_weighted_loss"]


def make_hybrid_loss(
    losses: Mapping[str, Callable],
    weights: Mapping[str, float | Tensor | Callable],
) -> Callable:
    """The weighted sum of several losses, with weights that are fixed or depend on the step."""

    def hybrid(y_hat, y, *, step=None, return_terms: bool = False, **options):
        now = {name: weight(step) if callable(weight) else weight for name, weight in weights.items()}
        used = [name for name in losses if isinstance(now[name], Tensor) or now[name] != 0]
        terms = {name: losses[name](y_hat, y, **options) for name in used}
        total = torch.stack([now[name] * terms[name] for name in used]).sum() if used else torch.zeros(())
        return (total, terms) if return_terms else total

    return hybrid


def make_uncertainty_weighted_loss(
    losses: Mapping[str, Callable], likelihoods: Mapping[str, str]
) -> Callable:
    """The sum of losses scaled by a learnt noise, written with sigma as the paper does."""

    def hybrid(y_hat, y, log_variances: Mapping, *, return_terms: bool = False, **options):
        terms = {name: loss(y_hat, y, **options) for name, loss in losses.items()}
        scaled = []
        for name, term in terms.items():
            sigma = torch.exp(log_variances[name] / 2)
            factor = 2 if likelihoods[name] == "gaussian" else 1
            scaled.append(term / (factor * sigma**2) + torch.log(sigma))
        total = torch.stack(scaled).sum()
        return (total, terms) if return_terms else total

    return hybrid


def init_log_variances(losses: Mapping[str, Callable]) -> dict:
    """Every log-variance 0: parameters to be given to the optimizer beside the model's."""
    return {name: torch.zeros((), requires_grad=True) for name in losses}
