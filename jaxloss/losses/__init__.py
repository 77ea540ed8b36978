"""The losses: pure functions of predictions and targets, with torch's names, arguments and numbers."""

from jaxloss.losses.classification import cross_entropy, nll_loss
from jaxloss.losses.divergence import kl_div
from jaxloss.losses.language import final_token_loss, next_token_loss
from jaxloss.losses.likelihood import gaussian_nll_loss, poisson_nll_loss
from jaxloss.losses.regression import huber_loss, l1_loss, mse_loss, smooth_l1_loss

__all__ = [
    "cross_entropy",
    "final_token_loss",
    "gaussian_nll_loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "mse_loss",
    "next_token_loss",
    "nll_loss",
    "poisson_nll_loss",
    "smooth_l1_loss",
]
