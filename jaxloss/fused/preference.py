"""What preference losses take, from hidden states and a head, without the logits in memory."""

from jaxtyping import Array, Bool, Float, Int

from jaxloss import _checks
from jaxloss.fused.api import linear_log_prob
from jaxloss.losses.preference import sequence_logps

__all__ = ["linear_sequence_logps"]


def linear_sequence_logps(
    input: Float[Array, "*B T D"],
    linear_weight: Float[Array, "V D"],
    target: Int[Array, "*B T"],
    *,
    average: bool = False,
    linear_bias: Float[Array, " V"] | None = None,
    ignore_index: int | None = None,
    where: Bool[Array, "*B T"] | None = None,
    logit_softcap: _checks.Scalar | None = None,
    logit_scale: _checks.Scalar | None = None,
    implementation: str = "auto",
    chunk_size: int | None = None,
    axis_name: str | None = None,
) -> Float[Array, "*B"]:
    r"""Log-probability of each sequence of labels under a linear head: what preference losses take.

    $$\log \pi(y) = \sum_t \log \pi(y_t \mid y_{<t})$$

    Equal to `sequence_logps` of `linear_log_prob`. One call for all sequences of a batch, chosen and rejected
    ones stacked, reads the head once.

    Args:
        input: hidden states after the last normalisation.
        linear_weight: the head, one row for each token of the vocabulary.
        target: `target[..., t]` is the token that follows position `t`; the prompt's and padding are
            `ignore_index`.
        average: divide by the number of tokens, as `orpo_loss` and `simpo_loss` ask for; a sequence without
            any is then NaN.
        linear_bias, ignore_index, where, logit_softcap, logit_scale, implementation, chunk_size, axis_name:
            as for `linear_cross_entropy`.

    Reference: Rafailov et al. 2023, "Direct Preference Optimization" (https://arxiv.org/abs/2305.18290),
    equation 7.

    >>> import jax.numpy as jnp
    >>> hidden, head = jnp.ones((2, 3, 8), jnp.float32), jnp.zeros((50, 8), jnp.float32)
    >>> print(linear_sequence_logps(hidden, head, jnp.array([[-100, 1, 4], [1, 5, 9]])))  # -ln 50 each
    [ -7.824046 -11.736069]
    """
    labels, given = _checks.as_labels("target", target), _checks.labels_as_given(target)
    if labels.ndim == 0:
        raise ValueError(f"target must have shape [..., T]; got {_checks.describe(labels)}.")
    head = _checks.as_floats("linear_weight", linear_weight)
    if head.ndim != 2:
        raise ValueError(f"linear_weight must have shape [V, D]; got {_checks.describe(head)}.")
    token_logps = linear_log_prob(
        input,
        head,
        given,
        linear_bias=linear_bias,
        ignore_index=ignore_index,
        where=where,
        logit_softcap=logit_softcap,
        logit_scale=logit_scale,
        implementation=implementation,
        chunk_size=chunk_size,
        axis_name=axis_name,
    )
    takes_part = _checks.not_ignored(given, -100 if ignore_index is None else ignore_index)
    where = _checks.as_mask("where", where, labels.shape, "that of target")
    takes_part = takes_part if where is None else takes_part & where
    return sequence_logps(token_logps, where=takes_part, average=average)
