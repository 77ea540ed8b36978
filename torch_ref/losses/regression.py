"""Losses on real numbers: torch.nn.functional's own, plus `where=`."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from torch_ref.losses._masking import kept, undelete

__all__ = ["huber_loss", "l1_loss", "mse_loss", "smooth_l1_loss"]


def l1_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    weight: Tensor | None = None,
    *,
    where: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.l1_loss`; elements where the mask is False are deleted first."""
    return _of_kept(F.l1_loss, input, target, weight, where, reduction)


def mse_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    weight: Tensor | None = None,
    *,
    where: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.mse_loss`; elements where the mask is False are deleted first."""
    return _of_kept(F.mse_loss, input, target, weight, where, reduction)


def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    beta: float = 1.0,
    *,
    where: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.smooth_l1_loss`; elements where the mask is False are deleted first."""
    input, target = kept(where, input, target)
    return undelete(F.smooth_l1_loss(input, target, reduction=reduction, beta=beta), where, reduction)


def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
    *,
    where: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.huber_loss`; elements where the mask is False are deleted first."""
    return _of_kept(F.huber_loss, input, target, weight, where, reduction, delta=delta)


# A parameter of any signature: torch's annotations leave out `weight`.
def _of_kept(loss: Callable, input, target, weight, where, reduction: str, **options: float) -> Tensor:
    input, target, weight = kept(where, input, target, weight)
    return undelete(loss(input, target, reduction=reduction, weight=weight, **options), where, reduction)
