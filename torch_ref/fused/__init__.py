"""A linear head and its loss, in plain PyTorch: the logits are made whole, or checkpointed by chunks."""

from torch_ref.fused.api import (
    TokenStatistics,
    linear_cross_entropy,
    linear_final_token_loss,
    linear_log_prob,
    linear_next_token_loss,
)
from torch_ref.fused.distillation import linear_distillation_loss, linear_kl_div

__all__ = [
    "TokenStatistics",
    "linear_cross_entropy",
    "linear_distillation_loss",
    "linear_final_token_loss",
    "linear_kl_div",
    "linear_log_prob",
    "linear_next_token_loss",
]
