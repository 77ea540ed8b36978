"""Divergences between distributions: torch.nn.functional's own, plus `where=`."""

from torch import Tensor
from torch.nn import functional as F

from torch_ref.losses._masking import undelete

__all__ = ["kl_div"]


def kl_div(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    log_target: bool = False,
    *,
    where: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.kl_div`; elements where the mask is False are deleted first."""
    if where is None:
        if reduction == "mean":
            # F.kl_div warns that its own default is not the divergence; the number is the same.
            return F.kl_div(input, target, reduction="none", log_target=log_target).mean()
        return F.kl_div(input, target, reduction=reduction, log_target=log_target)
    terms = F.kl_div(input[where], target[where], reduction="none", log_target=log_target)
    if reduction == "none":
        return undelete(terms, where, reduction)
    if reduction == "batchmean" and where.dim() > 0:
        batch = where.reshape(where.shape[0], -1).any(dim=1).sum()
        return terms.sum() / batch
    return terms.mean() if reduction == "mean" else terms.sum()
