"""A linear head and its loss in one: the logits, a language model's largest array, are never whole."""

from jaxloss.fused.api import TokenStatistics as TokenStatistics
from jaxloss.fused.api import linear_cross_entropy as linear_cross_entropy
from jaxloss.fused.api import linear_final_token_loss as linear_final_token_loss
from jaxloss.fused.api import linear_log_prob as linear_log_prob
from jaxloss.fused.api import linear_next_token_loss as linear_next_token_loss
from jaxloss.fused.distillation import linear_distillation_loss as linear_distillation_loss
from jaxloss.fused.distillation import linear_kl_div as linear_kl_div
from jaxloss.fused.linear_loss import make_linear_loss as make_linear_loss
from jaxloss.fused.preference import linear_sequence_logps as linear_sequence_logps
from jaxloss.fused.preference import make_linear_preference_loss as make_linear_preference_loss

__all__ = [name for name in dir() if callable(globals()[name])]
