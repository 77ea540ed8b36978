"""From the losses of tokens to one number: what the mean divides by, and how parts add up to the whole.

Shapes: B rows (any number of axes), T tokens.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxloss import _checks
from jaxloss._checks import Scalar, in_dtype
from jaxloss._mesh import lie_as, whole_along
from jaxloss._reduction import (
    REDUCTIONS,
    as_denominator,
    compute_dtype,
    reduce_loss,
    select,
    weighted_mean,
)

__all__ = ["accumulated_value_and_grad", "aggregate"]

_MODES = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm")


def aggregate(
    loss: Float[Array, "*B T"],
    where: Bool[Array, "*B T"] | None = None,
    *,
    mode: str = "token-mean",
    segment_ids: Int[Array, "*B T"] | None = None,
    max_length: int | Scalar | None = None,
    denominator: int | Scalar | None = None,
    reduction: str = "mean",
) -> Any:
    r"""One number of the losses of tokens: the mean over tokens, or over sequences.

    With $S$ the sequences that have a token, $|s|$ the tokens of one and $L$ a fixed length,

    $$\begin{aligned}
    \text{token-mean} &\quad \sum_{s} \sum_{t \in s} \ell_t \Big/ \sum_{s} |s| \\
    \text{seq-mean-token-mean} &\quad \frac1{|S|} \sum_{s} \frac1{|s|} \sum_{t \in s} \ell_t \\
    \text{seq-mean-token-sum} &\quad \frac1{|S|} \sum_{s} \sum_{t \in s} \ell_t \\
    \text{seq-mean-token-sum-norm} &\quad \frac1{|S|} \sum_{s} \frac1L \sum_{t \in s} \ell_t
    \end{aligned}$$

    The names are verl's. In TRL's and Liger-Kernel's `loss_type`, bnpo, dapo and cispo are "token-mean", grpo
    and sapo "seq-mean-token-mean", and dr_grpo "seq-mean-token-sum-norm".

    A sequence without a token counts neither above nor below, as in verl; TRL and Liger-Kernel count it in
    the number of sequences, as a loss of 0: `denominator=len(loss)` does so too.

    Args:
        loss: $\ell_t$, from any loss with `reduction="none"`.
        mode: what the mean divides by.
        segment_ids: which sequence each token belongs to, where a row holds several: a run of equal ids is
            one. No id is special; padding is what `where` masks. None means a sequence a row.
        max_length: $L > 0$, of "seq-mean-token-sum-norm" alone, the same for the whole training.
        denominator: number to divide by, in place of the tokens or sequences that are counted here: those
            of the whole batch, where this is a part of it.
        reduction: "mean"; "parts", `(sum, count)`, both of which add up over parts of a batch; "sum", the
            first of the two; or "none", what each token adds to it.

    Returns:
        A scalar, but for "parts" and "none"; without any token, the mean is NaN.

    Reference: Yu et al. 2025, "DAPO", equation 8, for the tokens (https://arxiv.org/abs/2503.14476); Shao et
    al. 2024, "DeepSeekMath", equation 3, for the sequences (https://arxiv.org/abs/2402.03300); Liu et al.
    2025, "Understanding R1-Zero-Like Training", section 3.2, for the fixed length
    (https://arxiv.org/abs/2503.20783); Sheng et al. 2024, "HybridFlow", for verl's `loss_agg_mode`
    (https://arxiv.org/abs/2409.19256).

    >>> import jax.numpy as jnp
    >>> loss = jnp.array([[2.0, 4.0, 6.0], [8.0, jnp.nan, jnp.nan]], jnp.float32)
    >>> mask = ~jnp.isnan(loss)
    >>> print(aggregate(loss, mask), aggregate(loss, mask, mode="seq-mean-token-mean"))
    5.0 6.0
    >>> print(aggregate(loss, mask, segment_ids=jnp.array([[1, 1, 2], [1, 0, 0]]), mode="seq-mean-token-sum"))
    6.6666665
    """
    loss = _checks.as_floats("loss", loss)
    if loss.ndim == 0:
        raise ValueError(
            f'loss must have an axis of tokens; got {_checks.describe(loss)}. Use reduction="none".'
        )
    _checks.check_choice("mode", mode, _MODES)
    _checks.check_choice("reduction", reduction, REDUCTIONS)
    where = _checks.as_mask("where", where, loss.shape, "that of loss")
    dtype = compute_dtype(loss)
    given = as_denominator(denominator, reduction)
    given = None if given is None else jnp.asarray(in_dtype(given, dtype), dtype)
    max_length = _as_length(max_length, mode, dtype)
    ids = None if segment_ids is None else _as_segments(segment_ids, loss)
    loss = select(where, loss.astype(dtype))
    if mode == "token-mean":
        return reduce_loss(loss, reduction, where, given)
    length, num_sequences = _sequences(loss, where, ids)
    if mode == "seq-mean-token-mean":
        loss = loss / jnp.maximum(length, 1).astype(dtype)
    elif mode == "seq-mean-token-sum-norm":
        loss = loss / max_length
    return reduce_loss(loss, reduction, where, num_sequences.astype(dtype) if given is None else given)


def accumulated_value_and_grad(
    loss: Callable[..., Any],
    params: Any,
    parts: tuple[Any, ...],
    *,
    lay_out: Callable[[Any], Any] = lambda gradients: gradients,
) -> tuple[Float[Array, ""], Any]:
    r"""Loss and gradient of a whole batch from its parts, one in memory at a time, divided once.

    $$\mathcal{L} = \sum_k S_k \Big/ \sum_k n_k, \qquad
    \nabla \mathcal{L} = \sum_k \nabla S_k \Big/ \sum_k n_k$$

    A part may be empty. A mean of the parts' means would be another number wherever the counts differ.

    Args:
        loss: `loss(params, *part)`, which returns a part's $(S_k, n_k)$ as of `reduction="parts"`, or a
            scalar, whose mean over the parts is taken; $n_k$ is a constant.
        params: any tree of floating-point arrays.
        parts: trees of arrays, or of keys, with an axis of parts in front: `parts[i][k]` is argument `i` of
            part $k$.
        lay_out: applied to each part's gradient, such as a sharding constraint.

    Returns:
        The loss, a scalar, and its gradient, a tree like `params`.

    Reference: "Bugs in LLM Training - Gradient Accumulation Fix", Unsloth 2024, on what means of means do
    (https://unsloth.ai/blog/gradient).

    >>> import jax.numpy as jnp
    >>> def loss(w, x, mask):
    ...     return aggregate(w * x, mask, reduction="parts")
    >>> x = jnp.array([[2.0, 4.0], [9.0, 0.0]], jnp.float32)
    >>> mask = jnp.array([[True, True], [True, False]])
    >>> value, gradient = accumulated_value_and_grad(loss, jnp.float32(2.0), (x, mask))
    >>> print(value, gradient)  # (2 + 4 + 9) / 3
    10.0 5.0
    """

    def sum_and_count(params: Any, *part: Any) -> tuple[jax.Array, jax.Array]:
        value = loss(params, *part)
        if isinstance(value, tuple) and len(value) != 2:
            raise ValueError(f"loss must return (sum, count), or a scalar; got {len(value)} values.")
        total, count = value if isinstance(value, tuple) else (value, 1.0)
        return total, jnp.asarray(count, total.dtype)

    def add(grads: Any, part: Any) -> tuple[Any, tuple[jax.Array, jax.Array]]:
        value, of_part = jax.value_and_grad(sum_and_count, has_aux=True)(params, *part)
        return jax.tree.map(
            lambda total, leaf: total + leaf.astype(total.dtype), grads, lay_out(of_part)
        ), value

    zeros = jax.tree.map(lambda leaf: jnp.zeros_like(leaf, compute_dtype(jnp.asarray(leaf))), params)
    grads, (totals, counts) = lax.scan(add, zeros, parts)
    count = jnp.sum(counts)
    grads = jax.tree.map(
        lambda total, leaf: (total / count.astype(total.dtype)).astype(jnp.asarray(leaf).dtype), grads, params
    )
    return weighted_mean(jnp.sum(totals), count), grads


def _as_length(max_length, mode: str, dtype) -> Any:
    is_used = mode == "seq-mean-token-sum-norm"
    if (max_length is not None) != is_used:
        what = "be given with" if is_used else "be None without"
        raise ValueError(f'max_length must {what} mode="seq-mean-token-sum-norm"; got mode={mode!r}.')
    if max_length is None:
        return None
    length = _checks.as_scalar("max_length", max_length, low=0.0, open_low=True, open_high=True)
    return in_dtype(length, dtype)


def _as_segments(segment_ids, loss: jax.Array) -> jax.Array:
    ids = _checks.as_labels("segment_ids", segment_ids)
    _checks.check_shape("segment_ids", ids, loss.shape, "that of loss")
    # To look at its neighbours, a row is whole.
    return whole_along(lie_as(ids, loss), -1)


def _sequences(loss: jax.Array, where, ids) -> tuple[jax.Array, jax.Array]:
    """The number of tokens in each token's sequence, and that of sequences with a token."""
    is_token = jnp.ones(loss.shape, bool) if where is None else where
    if ids is None:
        length = jnp.sum(is_token, -1, keepdims=True)
        return length, jnp.sum(length > 0)
    is_token = lie_as(is_token, ids)
    edge = jnp.ones_like(is_token[..., :1])
    changes = ids[..., 1:] != ids[..., :-1]
    is_first = jnp.concatenate([edge, changes], -1)
    is_last = jnp.concatenate([changes, edge], -1)
    axis = loss.ndim - 1
    ones = is_token.astype(jnp.int32)
    until = lax.cumsum(ones, axis)
    before = lax.cummax(jnp.where(is_first, until - ones, 0), axis)
    length = lax.cummin(jnp.where(is_last, until, loss.shape[-1]), axis, reverse=True) - before
    return lie_as(length, loss), jnp.sum(is_last & (length > 0))
