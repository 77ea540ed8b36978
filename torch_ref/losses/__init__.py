"""The losses in plain PyTorch, through torch.nn.functional's own operations."""

from torch_ref.losses.binary import binary_cross_entropy as binary_cross_entropy
from torch_ref.losses.binary import binary_cross_entropy_with_logits as binary_cross_entropy_with_logits
from torch_ref.losses.binary import multilabel_soft_margin_loss as multilabel_soft_margin_loss
from torch_ref.losses.binary import soft_margin_loss as soft_margin_loss
from torch_ref.losses.checked import make_checked as make_checked
from torch_ref.losses.classification import cross_entropy as cross_entropy
from torch_ref.losses.classification import nll_loss as nll_loss
from torch_ref.losses.compose import init_log_variances as init_log_variances
from torch_ref.losses.compose import make_hybrid_loss as make_hybrid_loss
from torch_ref.losses.compose import make_uncertainty_weighted_loss as make_uncertainty_weighted_loss
from torch_ref.losses.correlation import correlation_loss as correlation_loss
from torch_ref.losses.ctc import ctc_loss as ctc_loss
from torch_ref.losses.distillation import distillation_loss as distillation_loss
from torch_ref.losses.divergence import kl_div as kl_div
from torch_ref.losses.embedding import cosine_embedding_loss as cosine_embedding_loss
from torch_ref.losses.embedding import triplet_margin_loss as triplet_margin_loss
from torch_ref.losses.embedding import triplet_margin_with_distance_loss as triplet_margin_with_distance_loss
from torch_ref.losses.fairness import group_gap_penalty as group_gap_penalty
from torch_ref.losses.focal import focal_loss as focal_loss
from torch_ref.losses.focal import poly_loss as poly_loss
from torch_ref.losses.focal import sigmoid_focal_loss as sigmoid_focal_loss
from torch_ref.losses.language import final_token_loss as final_token_loss
from torch_ref.losses.language import next_token_loss as next_token_loss
from torch_ref.losses.likelihood import gaussian_nll_loss as gaussian_nll_loss
from torch_ref.losses.likelihood import poisson_nll_loss as poisson_nll_loss
from torch_ref.losses.margin import hinge_embedding_loss as hinge_embedding_loss
from torch_ref.losses.margin import margin_ranking_loss as margin_ranking_loss
from torch_ref.losses.margin import multi_margin_loss as multi_margin_loss
from torch_ref.losses.margin import multilabel_margin_loss as multilabel_margin_loss
from torch_ref.losses.penalties import previous_tokens as previous_tokens
from torch_ref.losses.penalties import token_set_loss as token_set_loss
from torch_ref.losses.penalties import unlikelihood_loss as unlikelihood_loss
from torch_ref.losses.penalties import z_loss as z_loss
from torch_ref.losses.regression import huber_loss as huber_loss
from torch_ref.losses.regression import l1_loss as l1_loss
from torch_ref.losses.regression import mse_loss as mse_loss
from torch_ref.losses.regression import smooth_l1_loss as smooth_l1_loss
from torch_ref.losses.softmax_divergence import forward_kl_div as forward_kl_div
from torch_ref.losses.softmax_divergence import jensen_shannon_div as jensen_shannon_div
from torch_ref.losses.softmax_divergence import reverse_kl_div as reverse_kl_div
from torch_ref.losses.softmax_divergence import total_variation_div as total_variation_div

__all__ = [name for name in dir() if callable(globals()[name])]
