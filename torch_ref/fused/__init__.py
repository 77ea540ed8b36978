"""A linear head and its loss, in plain PyTorch: the logits are made whole, or checkpointed by chunks."""

from torch_ref.fused.api import TokenStatistics as TokenStatistics
from torch_ref.fused.api import linear_cross_entropy as linear_cross_entropy
from torch_ref.fused.api import linear_final_token_loss as linear_final_token_loss
from torch_ref.fused.api import linear_log_prob as linear_log_prob
from torch_ref.fused.api import linear_next_token_loss as linear_next_token_loss
from torch_ref.fused.distillation import linear_distillation_loss as linear_distillation_loss
from torch_ref.fused.distillation import linear_kl_div as linear_kl_div
from torch_ref.fused.linear_loss import make_linear_loss as make_linear_loss
from torch_ref.fused.preference import linear_sequence_logps as linear_sequence_logps
from torch_ref.fused.preference import make_linear_preference_loss as make_linear_preference_loss

__all__ = [name for name in dir() if callable(globals()[name])]
