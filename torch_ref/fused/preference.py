"""Preference losses from hidden states and a head."""

from collections.abc import Callable

from torch import Tensor

from torch_ref.fused.api import linear_log_prob
from torch_ref.losses.preference import sequence_logps

__all__ = ["linear_sequence_logps", "make_linear_preference_loss"]


def linear_sequence_logps(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    average: bool = False,
    linear_bias: Tensor | None = None,
    ignore_index: int | None = None,
    where: Tensor | None = None,
    logit_softcap: float | None = None,
    logit_scale: float | Tensor | None = None,
    implementation: str = "auto",
    chunk_size: int | None = None,
    axis_name: str | None = None,
) -> Tensor:
    """The sum or the mean of the labels' log-probabilities over each sequence."""
    token_logps = linear_log_prob(
        input,
        linear_weight,
        target,
        linear_bias=linear_bias,
        ignore_index=ignore_index,
        where=where,
        logit_softcap=logit_softcap,
        logit_scale=logit_scale,
        implementation=implementation,
        chunk_size=chunk_size,
        axis_name=axis_name,
    )
    takes_part = target != (-100 if ignore_index is None else ignore_index)
    takes_part = takes_part if where is None else takes_part & where
    return sequence_logps(token_logps, where=takes_part, average=average)


def make_linear_preference_loss(loss: Callable) -> Callable:
    """The loss of `linear_sequence_logps` of the chosen and the rejected half of a batch."""
    heads = ("linear_bias", "ignore_index", "where", "logit_softcap", "logit_scale", "implementation")

    def linear_loss(
        input: Tensor,
        linear_weight: Tensor,
        target: Tensor,
        *arrays: Tensor,
        average: bool = False,
        reduction: str = "mean",
        **options,
    ) -> Tensor:
        of_head = {name: options.pop(name) for name in heads if name in options}
        logps = linear_sequence_logps(input, linear_weight, target, average=average, **of_head)
        losses = loss(*logps.chunk(2), *arrays, reduction="none", **options)
        return losses if reduction == "none" else getattr(losses, reduction)()

    return linear_loss
