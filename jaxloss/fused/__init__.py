"""A linear head and its loss in one: the logits, a language model's largest array, are never whole."""

from jaxloss.fused.api import (
    TokenStatistics,
    linear_cross_entropy,
    linear_final_token_loss,
    linear_log_prob,
    linear_next_token_loss,
)
from jaxloss.fused.distillation import linear_distillation_loss, linear_kl_div

__all__ = [
    "TokenStatistics",
    "linear_cross_entropy",
    "linear_distillation_loss",
    "linear_final_token_loss",
    "linear_kl_div",
    "linear_log_prob",
    "linear_next_token_loss",
]
