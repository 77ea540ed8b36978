"""The losses: pure functions of predictions and targets, with torch's names, arguments and numbers."""

from jaxloss.losses.classification import cross_entropy, nll_loss
from jaxloss.losses.divergence import kl_div
from jaxloss.losses.language import final_token_loss, next_token_loss
from jaxloss.losses.regression import l1_loss, mse_loss

__all__ = [
    "cross_entropy",
    "final_token_loss",
    "kl_div",
    "l1_loss",
    "mse_loss",
    "next_token_loss",
    "nll_loss",
]
