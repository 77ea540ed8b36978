"""The losses in plain PyTorch, through torch.nn.functional's own operations."""

from torch_ref.losses.binary import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    multilabel_soft_margin_loss,
    soft_margin_loss,
)
from torch_ref.losses.classification import (
    cross_entropy,
    nll_loss,
)
from torch_ref.losses.ctc import (
    ctc_loss,
)
from torch_ref.losses.divergence import (
    kl_div,
)
from torch_ref.losses.embedding import (
    cosine_embedding_loss,
    triplet_margin_loss,
    triplet_margin_with_distance_loss,
)
from torch_ref.losses.language import (
    final_token_loss,
    next_token_loss,
)
from torch_ref.losses.likelihood import (
    gaussian_nll_loss,
    poisson_nll_loss,
)
from torch_ref.losses.margin import (
    hinge_embedding_loss,
    margin_ranking_loss,
    multi_margin_loss,
    multilabel_margin_loss,
)
from torch_ref.losses.regression import (
    huber_loss,
    l1_loss,
    mse_loss,
    smooth_l1_loss,
)

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cosine_embedding_loss",
    "cross_entropy",
    "ctc_loss",
    "final_token_loss",
    "gaussian_nll_loss",
    "hinge_embedding_loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "margin_ranking_loss",
    "mse_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "next_token_loss",
    "nll_loss",
    "poisson_nll_loss",
    "smooth_l1_loss",
    "soft_margin_loss",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
]
