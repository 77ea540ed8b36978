"""The losses: pure functions of predictions and targets, with torch's names, arguments and numbers."""

from jaxloss.losses.binary import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    multilabel_soft_margin_loss,
    soft_margin_loss,
)
from jaxloss.losses.checked import make_checked
from jaxloss.losses.classification import (
    cross_entropy,
    nll_loss,
)
from jaxloss.losses.compose import (
    init_log_variances,
    make_hybrid_loss,
    make_uncertainty_weighted_loss,
)
from jaxloss.losses.correlation import correlation_loss
from jaxloss.losses.ctc import ctc_loss
from jaxloss.losses.distillation import distillation_loss
from jaxloss.losses.divergence import kl_div
from jaxloss.losses.embedding import (
    cosine_embedding_loss,
    triplet_margin_loss,
    triplet_margin_with_distance_loss,
)
from jaxloss.losses.fairness import group_gap_penalty
from jaxloss.losses.focal import (
    focal_loss,
    poly_loss,
    sigmoid_focal_loss,
)
from jaxloss.losses.language import (
    final_token_loss,
    next_token_loss,
)
from jaxloss.losses.likelihood import (
    gaussian_nll_loss,
    poisson_nll_loss,
)
from jaxloss.losses.margin import (
    hinge_embedding_loss,
    margin_ranking_loss,
    multi_margin_loss,
    multilabel_margin_loss,
)
from jaxloss.losses.penalties import (
    previous_tokens,
    token_set_loss,
    unlikelihood_loss,
    z_loss,
)
from jaxloss.losses.regression import (
    huber_loss,
    l1_loss,
    mse_loss,
    smooth_l1_loss,
)
from jaxloss.losses.softmax_divergence import (
    forward_kl_div,
    jensen_shannon_div,
    reverse_kl_div,
    total_variation_div,
)

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "correlation_loss",
    "cosine_embedding_loss",
    "cross_entropy",
    "ctc_loss",
    "distillation_loss",
    "final_token_loss",
    "focal_loss",
    "forward_kl_div",
    "gaussian_nll_loss",
    "group_gap_penalty",
    "hinge_embedding_loss",
    "huber_loss",
    "init_log_variances",
    "jensen_shannon_div",
    "kl_div",
    "l1_loss",
    "make_checked",
    "make_hybrid_loss",
    "make_uncertainty_weighted_loss",
    "margin_ranking_loss",
    "mse_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "next_token_loss",
    "nll_loss",
    "poisson_nll_loss",
    "poly_loss",
    "previous_tokens",
    "reverse_kl_div",
    "sigmoid_focal_loss",
    "smooth_l1_loss",
    "soft_margin_loss",
    "token_set_loss",
    "total_variation_div",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
    "unlikelihood_loss",
    "z_loss",
]
