"""The losses: pure functions of predictions and targets, with torch's names, arguments and numbers.

What holds for all of them (`reduction`, `where`, `sample_weight`, `axis`, empty input, dtypes, labels out of
range, errors, units) is in docs/conventions.md; a docstring says what is special about its loss.
"""

from jaxloss.losses.aggregate import accumulated_value_and_grad as accumulated_value_and_grad
from jaxloss.losses.aggregate import aggregate as aggregate
from jaxloss.losses.binary import binary_cross_entropy as binary_cross_entropy
from jaxloss.losses.binary import binary_cross_entropy_with_logits as binary_cross_entropy_with_logits
from jaxloss.losses.binary import multilabel_soft_margin_loss as multilabel_soft_margin_loss
from jaxloss.losses.binary import soft_margin_loss as soft_margin_loss
from jaxloss.losses.checked import make_checked as make_checked
from jaxloss.losses.classification import cross_entropy as cross_entropy
from jaxloss.losses.classification import nll_loss as nll_loss
from jaxloss.losses.compose import init_log_variances as init_log_variances
from jaxloss.losses.compose import make_hybrid_loss as make_hybrid_loss
from jaxloss.losses.compose import make_uncertainty_weighted_loss as make_uncertainty_weighted_loss
from jaxloss.losses.correlation import correlation_loss as correlation_loss
from jaxloss.losses.ctc import ctc_loss as ctc_loss
from jaxloss.losses.distillation import distillation_loss as distillation_loss
from jaxloss.losses.distillation import top_k_distillation_loss as top_k_distillation_loss
from jaxloss.losses.divergence import kl_div as kl_div
from jaxloss.losses.embedding import cosine_embedding_loss as cosine_embedding_loss
from jaxloss.losses.embedding import triplet_margin_loss as triplet_margin_loss
from jaxloss.losses.embedding import triplet_margin_with_distance_loss as triplet_margin_with_distance_loss
from jaxloss.losses.fairness import group_gap_penalty as group_gap_penalty
from jaxloss.losses.focal import focal_loss as focal_loss
from jaxloss.losses.focal import poly_loss as poly_loss
from jaxloss.losses.focal import sigmoid_focal_loss as sigmoid_focal_loss
from jaxloss.losses.language import final_token_loss as final_token_loss
from jaxloss.losses.language import next_token_loss as next_token_loss
from jaxloss.losses.likelihood import gaussian_nll_loss as gaussian_nll_loss
from jaxloss.losses.likelihood import poisson_nll_loss as poisson_nll_loss
from jaxloss.losses.margin import hinge_embedding_loss as hinge_embedding_loss
from jaxloss.losses.margin import margin_ranking_loss as margin_ranking_loss
from jaxloss.losses.margin import multi_margin_loss as multi_margin_loss
from jaxloss.losses.margin import multilabel_margin_loss as multilabel_margin_loss
from jaxloss.losses.penalties import entropy_loss as entropy_loss
from jaxloss.losses.penalties import previous_tokens as previous_tokens
from jaxloss.losses.penalties import token_set_loss as token_set_loss
from jaxloss.losses.penalties import unlikelihood_loss as unlikelihood_loss
from jaxloss.losses.penalties import z_loss as z_loss
from jaxloss.losses.policy import PolicyStatistics as PolicyStatistics
from jaxloss.losses.policy import cispo_loss as cispo_loss
from jaxloss.losses.policy import clipped_policy_loss as clipped_policy_loss
from jaxloss.losses.policy import sapo_loss as sapo_loss
from jaxloss.losses.policy_terms import clipped_value_loss as clipped_value_loss
from jaxloss.losses.policy_terms import group_advantages as group_advantages
from jaxloss.losses.policy_terms import sampled_kl_div as sampled_kl_div
from jaxloss.losses.policy_terms import truncated_importance_weights as truncated_importance_weights
from jaxloss.losses.preference import bradley_terry_loss as bradley_terry_loss
from jaxloss.losses.preference import dpo_loss as dpo_loss
from jaxloss.losses.preference import sequence_logps as sequence_logps
from jaxloss.losses.reference_free import cpo_loss as cpo_loss
from jaxloss.losses.reference_free import orpo_loss as orpo_loss
from jaxloss.losses.reference_free import simpo_loss as simpo_loss
from jaxloss.losses.regression import huber_loss as huber_loss
from jaxloss.losses.regression import l1_loss as l1_loss
from jaxloss.losses.regression import mse_loss as mse_loss
from jaxloss.losses.regression import smooth_l1_loss as smooth_l1_loss
from jaxloss.losses.softmax_divergence import forward_kl_div as forward_kl_div
from jaxloss.losses.softmax_divergence import jensen_shannon_div as jensen_shannon_div
from jaxloss.losses.softmax_divergence import reverse_kl_div as reverse_kl_div
from jaxloss.losses.softmax_divergence import total_variation_div as total_variation_div
from jaxloss.losses.unpaired_preference import bco_loss as bco_loss
from jaxloss.losses.unpaired_preference import kto_loss as kto_loss

__all__ = [name for name in dir() if callable(globals()[name])]
