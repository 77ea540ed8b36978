"""The losses in plain PyTorch, through torch.nn.functional's own operations."""

from torch_ref.losses.classification import cross_entropy, nll_loss
from torch_ref.losses.divergence import kl_div
from torch_ref.losses.language import final_token_loss, next_token_loss
from torch_ref.losses.regression import l1_loss, mse_loss

__all__ = [
    "cross_entropy",
    "final_token_loss",
    "kl_div",
    "l1_loss",
    "mse_loss",
    "next_token_loss",
    "nll_loss",
]
