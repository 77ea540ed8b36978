"""The objectives of language models, from hidden states and head, without the logits in memory."""

from typing import Any

from jaxtyping import Array, Float, Int

from jaxloss import _checks
from jaxloss.fused.api import linear_cross_entropy

__all__ = ["linear_final_token_loss", "linear_next_token_loss"]


def linear_next_token_loss(
    input: Float[Array, "*B T D"],
    linear_weight: Float[Array, "V D"],
    target: Int[Array, "*B T"],
    **options: Any,
):
    r"""Cross entropy of the next token, from every position, given the model's hidden states and head.

    $$-\sum_{t=1}^{T} \log P(x_t \mid x_{<t})$$

    Equal to `next_token_loss` of the logits. With Model 5, `linear_weight` is the token embedding and
    `logit_scale` the model's.

    Args:
        input: hidden states after the last normalisation.
        linear_weight: the head, one row for each token of the vocabulary.
        target: `target[..., t]` is the token that follows position `t`.
        **options: those of `linear_cross_entropy`.

    Returns:
        As `linear_cross_entropy`: the mean over the positions that take part, by default.

    Raises:
        TypeError: an argument's dtype is wrong.
        ValueError: a shape, option or range is wrong.

    Differs from torch: torch has no such function.

    Reference: Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", equation 1.

    >>> import jax.numpy as jnp
    >>> hidden, head = jnp.ones((2, 3, 8), jnp.float32), jnp.zeros((50, 8), jnp.float32)
    >>> print(linear_next_token_loss(hidden, head, jnp.array([[3, 1, 4], [1, 5, -100]])))  # ln 50
    3.912023
    """
    hidden = _check_positions(input, linear_weight)
    _checks.as_labels("target", target)
    return linear_cross_entropy(hidden, linear_weight, _checks.unwrapped(target), **options)


def linear_final_token_loss(
    input: Float[Array, "*B T D"],
    linear_weight: Float[Array, "V D"],
    target: Int[Array, "*B T"],
    **options: Any,
):
    r"""Cross entropy of the next token, from the last position only, given hidden states and head.

    $$-\log P(x_T \mid x_{<T})$$

    Equal to `final_token_loss` of the logits, and the head is applied to one position of each sequence.

    Args:
        input: hidden states after the last normalisation; those before the last position are not looked at.
        linear_weight: the head, one row for each token of the vocabulary.
        target: `target[..., t]` is the token that follows position `t`.
        **options: those of `linear_cross_entropy`; `where` and `sample_weight` have the shape of `target`,
            and their last position counts.

    Returns:
        As `linear_cross_entropy`: the mean over the sequences that take part, by default.

    Raises:
        TypeError: an argument's dtype is wrong.
        ValueError: a shape, option or range is wrong, or T is 0.

    Differs from torch: torch has no such function.

    Reference: Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", equation 1,
    for the sum of which this is the last term.

    >>> import jax.numpy as jnp
    >>> hidden, head = jnp.ones((2, 3, 8), jnp.float32), jnp.zeros((50, 8), jnp.float32)
    >>> print(linear_final_token_loss(hidden, head, jnp.array([[3, 1, 4], [1, 5, 9]]), reduction="none"))
    [3.912023 3.912023]
    """
    hidden = _check_positions(input, linear_weight)
    if hidden.shape[-2] == 0:
        raise ValueError(f"input must have at least one position; got {_checks.describe(hidden)}.")
    labels = _checks.as_labels("target", target)
    _checks.check_shape("target", labels, hidden.shape[:-1], "one token for each position of input")
    where = _checks.as_mask("where", options.pop("where", None), labels.shape, "that of target")
    sample_weight = options.pop("sample_weight", None)
    if sample_weight is not None:
        sample_weight = _checks.as_floats("sample_weight", sample_weight)
        _checks.check_shape("sample_weight", sample_weight, labels.shape, "that of target")
        sample_weight = sample_weight[..., -1]
    return linear_cross_entropy(
        hidden[..., -1, :],
        linear_weight,
        _checks.unwrapped(target)[..., -1],
        where=None if where is None else where[..., -1],
        sample_weight=sample_weight,
        **options,
    )


def _check_positions(input, linear_weight):
    hidden, head = _checks.as_floats("input", input), _checks.as_floats("linear_weight", linear_weight)
    if head.ndim != 2:
        raise ValueError(f"linear_weight must have shape [V, D]; got {_checks.describe(head)}.")
    if hidden.ndim < 2:
        raise ValueError(f"input must have shape [..., T, D]; got {_checks.describe(hidden)}.")
    return hidden
