"""The logits of a linear head."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def head_logits(input, linear_weight, linear_bias, logit_softcap, logit_scale) -> Tensor:
    """The logits [*, K, V] of a weight [V, K, D]; without further axes of the weight, [*, V]."""
    heads = linear_weight.shape[1:-1]
    bias = None if linear_bias is None else linear_bias.reshape(-1)
    logits = F.linear(input, linear_weight.reshape(-1, linear_weight.shape[-1]), bias)
    logits = logits.reshape(*input.shape[:-1], linear_weight.shape[0], math.prod(heads)).movedim(-2, -1)
    logits = logits.reshape(*input.shape[:-1], *heads, linear_weight.shape[0])
    logits = logits if logit_scale is None else logits * logit_scale
    return logits if logit_softcap is None else logit_softcap * torch.tanh(logits / logit_softcap)
