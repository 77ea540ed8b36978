"""Objectives of language models, from logits and tokens.

Shapes: B batch (any number of axes), T time, V vocabulary.
"""

from typing import Any

import jax
from jaxtyping import Array, Bool, Float, Int

from jaxloss import _checks
from jaxloss._checks import Scalar
from jaxloss._mesh import last_along
from jaxloss.losses.classification import cross_entropy

__all__ = ["final_token_loss", "next_token_loss"]


def next_token_loss(
    logits: Float[Array, "*B T V"],
    target: Int[Array, "*B T"],
    *,
    weight: Float[Array, " V"] | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: Scalar = 0.0,
    where: Bool[Array, "*B T"] | None = None,
    sample_weight: Float[Array, "*B T"] | None = None,
) -> Float[Array, "..."]:
    r"""Cross entropy of the next token, from every position: the objective of language-model pretraining.

    $$-\sum_{t=1}^{T} \log P(x_t \mid x_{<t})$$

    Args:
        logits: scores of the token that follows each position.
        target: that token: `target[..., t]` follows position `t`, so it is the input shifted by one.
        weight: a factor for each token of the vocabulary.
        reduction: "sum" gives the formula above, "mean" divides it by the number of positions.
        label_smoothing: share of the target spread evenly over the vocabulary, in [0, 1].

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
    label_smoothing: Scalar = 0.0,
    where: Bool[Array, "*B T"] | None = None,
    sample_weight: Float[Array, "*B T"] | None = None,
) -> Float[Array, "..."]:
    r"""Cross entropy of the next token, from the last position only.

    $$-\log P(x_T \mid x_{<T})$$

    One training signal for each sequence, where `next_token_loss` has T. Earlier positions are not looked at:
    a NaN there is harmless, and their gradient is 0.

    Args:
        logits: scores of the token that follows each position; T may be 1.
        target: that token: `target[..., t]` follows position `t`.
        weight: a factor for each token of the vocabulary.
        label_smoothing: share of the target spread evenly over the vocabulary, in [0, 1].
        where: of the shape of `target`; its last position says which sequences take part.
        sample_weight: of the shape of `target`; its last position is a factor for the sequence's loss.

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
        last_along(logits, -2),
        last_along(target, -1),
        weight,
        ignore_index,
        reduction,
        label_smoothing,
        where=None if where is None else last_along(where, -1),
        sample_weight=None if sample_weight is None else last_along(sample_weight, -1),
    )


def _check_tokens(logits, target) -> tuple[jax.Array, Any]:
    logits, labels = _checks.as_floats("logits", logits), _checks.as_labels("target", target)
    if logits.ndim < 2:
        raise ValueError(f"logits must have shape [..., T, V]; got {_checks.describe(logits)}.")
    _checks.check_shape("target", labels, logits.shape[:-1], "one token for each position of logits")
    # Unconverted: `ignore_index` must be compared in the caller's dtype.
    return logits, _checks.labels_as_given(target)
