"""What preference losses share."""

import torch
from torch import Tensor
from torch.nn import functional as F

from torch_ref.losses._masking import ROUNDING, kept


def kept_logps(where: Tensor | None, *logps: Tensor) -> list[Tensor]:
    """What the mask leaves; NaN in place of numbers above 0, which are no log-probabilities."""
    return [only_log_probabilities(left) for left in kept(where, *logps)]


def only_log_probabilities(logps: Tensor) -> Tensor:
    """The same with NaN in place of numbers above 0, but for what rounding leaves, which is 0."""
    logps = logps.masked_fill(logps > ROUNDING, torch.nan)
    return logps - logps.detach().clamp(min=0)


def rows(where: Tensor | None, like: Tensor) -> Tensor:
    """The mask, or one that leaves everything."""
    return torch.ones(like.shape, dtype=torch.bool) if where is None else where


def logistic(margin: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Binary cross entropy of the margin with the label `1 - label_smoothing`."""
    return -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)
