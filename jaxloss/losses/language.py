"""Objectives of language models, from logits and tokens.

Shapes: B batch (any number of axes), T time, V vocabulary.
"""

from typing import Any

import jax
from jaxtyping import Array, Bool, Float, Int

from jaxloss import _checks
from jaxloss.losses.classification import cross_entropy

__all__ = ["final_token_loss", "next_token_loss"]


def next_token_loss(
    logits: Float[Array, "*B T V"],
    target: Int[Array, "*B T"],
    *,
    weight: Float[Array, " V"] | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    where: Bool[Array, "*B T"] | None = None,
    sample_weight: Float[Array, "*B T"] | None = None,
) -> Float[Array, "..."]:
    r"""Cross entropy of the next token, from every position: the objective of language-model pretraining.

    $$-\sum_{t=1}^{T} \log P(x_t \mid x_{<t})$$

    Args:
        logits: scores of the token that follows each position.
        target: that token: `target[..., t]` follows position `t`, so it is the input shifted by one.
        weight: a factor for each token of the vocabulary.
        ignore_index: positions with this target take no part (padding, prompts).
        reduction: "mean" (over the positions that take part), "sum" (the formula above) or "none".
        label_smoothing: share of the target spread evenly over the vocabulary, in [0, 1].
        where: positions that take part; the others count as deleted.
        sample_weight: a factor for each position's loss, also in the denominator of the mean.

    Returns:
        The loss in nats, at least float32: a scalar, or `[*B, T]` with "none". Without any position, "mean"
        gives NaN and "sum" 0. A token outside the vocabulary gives NaN, in value and gradient.

    Raises:
        TypeError: `logits` is not floating point or `target` not integer.
        ValueError: a shape, option or range is wrong.

    Differs from torch: torch has no such function.

    Reference: Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", equation 1.

    >>> import jax.numpy as jnp
    >>> logits, tokens = jnp.zeros((2, 3, 50), jnp.float32), jnp.array([[3, 1, 4], [1, 5, -100]])
    >>> print(next_token_loss(logits, tokens))  # ln 50
    3.912023
    """
    logits, target = _check_tokens(logits, target)
    return cross_entropy(
        logits,
        target,
        weight,
        ignore_index,
        reduction,
        label_smoothing,
        where=where,
        sample_weight=sample_weight,
    )


def final_token_loss(
    logits: Float[Array, "*B T V"],
    target: Int[Array, "*B T"],
    *,
    weight: Float[Array, " V"] | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    where: Bool[Array, "*B T"] | None = None,
    sample_weight: Float[Array, "*B T"] | None = None,
) -> Float[Array, "..."]:
    r"""Cross entropy of the next token, from the last position only.

    $$-\log P(x_T \mid x_{<T})$$

    One training signal for each sequence, where `next_token_loss` has T: logits and targets of earlier
    positions are not looked at, so a NaN there is harmless and their gradient is 0.

    Args:
        logits: scores of the token that follows each position; T may be 1.
        target: that token: `target[..., t]` follows position `t`.
        weight: a factor for each token of the vocabulary.
        ignore_index: sequences whose last target is this take no part.
        reduction: "mean" (over the sequences that take part), "sum" or "none".
        label_smoothing: share of the target spread evenly over the vocabulary, in [0, 1].
        where: of the shape of `target`; its last position says which sequences take part.
        sample_weight: of the shape of `target`; its last position is a factor for the sequence's loss.

    Returns:
        The loss in nats, at least float32: a scalar, or `[*B]` with "none". Without any sequence, "mean"
        gives NaN and "sum" 0. A last token outside the vocabulary gives NaN, in value and gradient.

    Raises:
        TypeError: `logits` is not floating point or `target` not integer.
        ValueError: a shape, option or range is wrong, or T is 0.

    Differs from torch: torch has no such function.

    Reference: Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", equation 1,
    for the sum of which this is the last term.

    >>> import jax.numpy as jnp
    >>> logits, tokens = jnp.zeros((2, 3, 50), jnp.float32), jnp.array([[3, 1, 4], [1, 5, 9]])
    >>> print(final_token_loss(logits, tokens, reduction="none"))
    [3.912023 3.912023]
    """
    logits, target = _check_tokens(logits, target)
    if target.shape[-1] == 0:
        raise ValueError(f"logits must have at least one position; got {_checks.describe(logits)}.")
    where = _checks.as_mask("where", where, target.shape, "that of target")
    sample_weight = _checks.as_sample_weight(sample_weight, target.shape, "that of target")
    return cross_entropy(
        logits[..., -1, :],
        target[..., -1],
        weight,
        ignore_index,
        reduction,
        label_smoothing,
        where=None if where is None else where[..., -1],
        sample_weight=None if sample_weight is None else sample_weight[..., -1],
    )


def _check_tokens(logits, target) -> tuple[jax.Array, Any]:
    logits, labels = _checks.as_floats("logits", logits), _checks.as_labels("target", target)
    if logits.ndim < 2:
        raise ValueError(f"logits must have shape [..., T, V]; got {_checks.describe(logits)}.")
    _checks.check_shape("target", labels, logits.shape[:-1], "one token for each position of logits")
    # As they came: of converted ones, `ignore_index` may be another.
    return logits, _checks.labels_as_given(target)
