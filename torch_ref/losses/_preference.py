"""What preference losses share."""

import torch
from torch import Tensor
from torch.nn import functional as F

from torch_ref.losses._masking import kept


def kept_logps(where: Tensor | None, *logps: Tensor) -> list[Tensor]:
    """What the mask leaves; NaN in place of positive numbers, which are no log-probabilities."""
    return [left.masked_fill(left > 0, torch.nan) for left in kept(where, *logps)]


def rows(where: Tensor | None, like: Tensor) -> Tensor:
    """The mask, or one that leaves everything."""
    return torch.ones(like.shape, dtype=torch.bool) if where is None else where


def logistic(margin: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Binary cross entropy of the margin with the label `1 - label_smoothing`."""
    return -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)
