"""Dropout whose mask can be put in from outside."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Dropout(nn.Module):
    """Set each element to zero with probability `rate` and scale the others to keep the mean.

    Set `mask` (bool, True where the element is kept) to use it in training instead of a random one.

    Args:
        rate: probability of dropping an element, in [0, 1).
    """

    mask: Tensor | None

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.mask = None

    def forward(self, x: Tensor, whole_length: int | None = None) -> Tensor:
        """Drop elements of `x` in training; return `x` itself in evaluation or when the rate is 0.

        Args:
            x: any tensor.
            whole_length: length along axis -2 of the tensor of which `x` is the end, and whose mask's end is
                applied; None means that `x` is the whole.
        """
        if not self.training or self.rate == 0:
            return x
        if self.mask is None:
            return F.dropout(x, self.rate, training=True)
        shape, skipped = tuple(x.shape), 0
        if whole_length is not None:
            shape, skipped = (*shape[:-2], whole_length, shape[-1]), whole_length - shape[-2]
        if self.mask.shape != shape or self.mask.dtype != torch.bool:
            raise ValueError(
                f"the dropout mask must be bool {shape}; got {self.mask.dtype} {tuple(self.mask.shape)}"
            )
        mask = self.mask[..., skipped:, :] if skipped else self.mask
        return torch.where(mask, x / (1 - self.rate), 0)

    def extra_repr(self) -> str:
        """Show the rate when the module is printed."""
        return f"rate={self.rate}"
