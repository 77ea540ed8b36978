"""Negative log-likelihoods of real and counted targets: torch.nn.functional's own, plus `where=`."""

from torch import Tensor
from torch.nn import functional as F

from torch_ref.losses._masking import kept, undelete

__all__ = ["gaussian_nll_loss", "poisson_nll_loss"]


def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    reduction: str = "mean",
    *,
    where: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.poisson_nll_loss`; elements where the mask is False are deleted first."""
    input, target = kept(where, input, target)
    loss = F.poisson_nll_loss(input, target, log_input, full, eps=eps, reduction=reduction)
    return undelete(loss, where, reduction)


def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
    *,
    where: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.gaussian_nll_loss`; elements where the mask is False are deleted first."""
    if where is not None and isinstance(var, Tensor):
        var = var.unsqueeze(-1) if var.dim() < input.dim() else var
        var = var.expand(input.shape)[where]
    input, target = kept(where, input, target)
    loss = F.gaussian_nll_loss(input, target, var, full, eps, reduction)
    return undelete(loss, where, reduction)
