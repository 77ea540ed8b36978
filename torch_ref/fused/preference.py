"""What preference losses take, from hidden states and a head."""

from torch import Tensor

from torch_ref.fused.api import linear_log_prob
from torch_ref.losses.preference import sequence_logps

__all__ = ["linear_sequence_logps"]


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
