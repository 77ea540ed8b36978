"""The objectives of language models, from hidden states and head."""

from torch import Tensor

from torch_ref.fused.api import linear_cross_entropy

__all__ = ["linear_final_token_loss", "linear_next_token_loss"]


def linear_next_token_loss(input: Tensor, linear_weight: Tensor, target: Tensor, **options):
    """Cross entropy of the next token from every position: `target[..., t]` follows `input[..., t, :]`."""
    return linear_cross_entropy(input, linear_weight, target, **options)


def linear_final_token_loss(input: Tensor, linear_weight: Tensor, target: Tensor, **options):
    """Cross entropy of the next token, from the last position only."""
    for name in ("where", "sample_weight"):
        if options.get(name) is not None:
            options[name] = options[name][..., -1]
    return linear_cross_entropy(input[..., -1, :], linear_weight, target[..., -1], **options)
