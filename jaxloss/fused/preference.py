"""Preference losses from hidden states and a head, without the logits in memory.

Shapes: B answers, P = B / 2 pairs of them, T tokens of an answer, C tokens of a chunk, V vocabulary.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxloss import _checks
from jaxloss._mesh import whole_along
from jaxloss._reduction import REDUCTIONS, compute_dtype
from jaxloss.fused._arguments import check_head, token_labels
from jaxloss.fused._cross_entropy import token_cross_entropy
from jaxloss.fused._token_loss import kept
from jaxloss.fused.api import linear_log_prob
from jaxloss.fused.linear_loss import make_linear_loss
from jaxloss.losses.preference import sequence_logps

__all__ = ["linear_sequence_logps", "make_linear_preference_loss"]

# A chunk holds whole pairs, one at least, and as many as have this many tokens.
_CHUNK_TOKENS = 512


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


def make_linear_preference_loss(loss: Callable) -> Callable:
    r"""Make a loss of pairs of answers one of hidden states and head, whose logits are never whole in memory.

    $$\ell_p = f\big(\log \pi(y_{w,p}),\, \log \pi(y_{l,p}),\, \ldots\big)$$

    Equal to `loss` of `linear_sequence_logps`, at three matrix products for its four: while the logits of a
    pair are at hand, so are its loss and their gradient. In memory are the logits of one pair of answers, or
    of as many as have 512 tokens; where one pair is too large, `linear_sequence_logps` takes less.

    Args:
        loss: `loss(chosen_logps, rejected_logps, *arrays, reduction="none", **options)`, from
            log-probabilities `[P]` and arrays `[P]` to the losses of pairs `[P]`, none of which depends on
            another: `dpo_loss`, `cpo_loss`, `orpo_loss`, `simpo_loss`, or your own. It may close over
            arrays, as a function of `make_linear_loss` may.

    Returns:
        `linear_loss(input, linear_weight, target, *arrays, average=False, reduction="mean", linear_bias=None,
        ignore_index=None, where=None, logit_softcap=None, logit_scale=None, implementation="auto",
        axis_name=None, **options)`, with `input` `[2 P, T, D]`, `target` and `where` `[2 P, T]`: the chosen
        answers, then the rejected ones. The named arguments are those of `linear_sequence_logps`;
        `reduction` is over pairs; options are those of `loss`, of which numbers may change without a new
        compilation.

    Raises:
        TypeError, ValueError: also for variants of `dpo_loss` that sort the batch, "aot" and "aot_unpaired".

    Reference: Hsu et al. 2024, "Liger Kernel" (https://arxiv.org/abs/2410.10989), for chunks of whole pairs.

    >>> import jax.numpy as jnp
    >>> from jaxloss import dpo_loss
    >>> loss = make_linear_preference_loss(dpo_loss)
    >>> hidden, head = jnp.ones((2, 3, 8), jnp.float32), jnp.zeros((50, 8), jnp.float32)
    >>> labels, reference = jnp.array([[-100, 1, 4], [-100, 5, 9]]), jnp.zeros(1, jnp.float32)
    >>> print(loss(hidden, head, labels, reference, reference, beta=0.1))  # ln 2
    0.6931472
    """
    if not callable(loss):
        raise TypeError(f"loss must be a function of log-probabilities; got {loss!r}.")
    return partial(_linear_preference_loss, loss)


def _linear_preference_loss(
    loss: Callable,
    /,
    input,
    linear_weight,
    target,
    *arrays,
    average: bool = False,
    reduction: str = "mean",
    linear_bias=None,
    ignore_index: int | None = None,
    where=None,
    logit_softcap=None,
    logit_scale=None,
    implementation: str = "auto",
    axis_name: str | None = None,
    **options: Any,
):
    _checks.check_choice("reduction", reduction, REDUCTIONS)
    _checks.check_flag("average", average)
    input, linear_weight, linear_bias = check_head(input, linear_weight, linear_bias, axis_name=axis_name)
    if input.ndim != 3 or input.shape[0] % 2 or input.shape[1] == 0 or linear_weight.ndim != 2:
        raise ValueError(
            "input must have shape [2 P, T > 0, D], chosen answers, then rejected ones, and linear_weight "
            f"[V, D]; got {_checks.describe(input)} and {_checks.describe(linear_weight)}."
        )
    where = _checks.as_mask("where", where, input.shape[:2], "that of target")
    target, where = token_labels(
        target, input.shape[:2], linear_weight.shape[0], ignore_index, where, axis_name
    )
    num_pairs, length = input.shape[0] // 2, input.shape[1]
    dtype = compute_dtype(input, linear_weight, linear_bias)
    arrays = _arrays_of_pairs(loss, num_pairs, arrays)
    named = {k: v for k, v in options.items() if isinstance(v, (str, bool, np.bool_)) or callable(v)}
    numbers = {k: v for k, v in options.items() if k not in named and v is not None}
    # A loss may look at a number that turns something off.
    named |= {k: v for k, v in numbers.items() if not isinstance(v, jax.Array) and not np.any(v)}
    _check_pairs(loss, num_pairs, dtype, arrays, options)

    def by_pairs(array: jax.Array) -> jax.Array:
        """From `[2 P, T, ...]` to `[2 T, P, ...]`: a chunk is the same rows of every answer's."""
        array = whole_along(array, 0, 1).reshape(2, num_pairs, *array.shape[1:])
        array = jnp.moveaxis(array, 1, 2)
        return array.reshape(2 * length, num_pairs, *array.shape[3:])

    losses = _make_losses(loss, length, average, named)(
        by_pairs(kept(where, input)),
        linear_weight,
        by_pairs(target),
        by_pairs(where),
        *(jnp.broadcast_to(whole_along(a), (2 * length, num_pairs)) for a in arrays),
        linear_bias=linear_bias,
        reduction="none" if reduction == "none" else "sum",
        logit_softcap=logit_softcap,
        logit_scale=logit_scale,
        implementation=implementation,
        chunk_size=2 * length * _pairs_of_chunk(num_pairs, length),
        axis_name=axis_name,
        **{name: value for name, value in numbers.items() if name not in named},
    )
    if reduction == "none":
        return losses[0]
    if reduction == "parts":
        return losses, jnp.asarray(num_pairs, losses.dtype)
    return losses / num_pairs if reduction == "mean" else losses


def _arrays_of_pairs(loss: Callable, num_pairs: int, arrays: tuple) -> tuple:
    """The loss's own arrays, each a number or one for each pair."""
    try:
        names = list(inspect.signature(loss).parameters)[2:]
    except (TypeError, ValueError):
        names = []
    for i, array in enumerate(arrays):
        name = names[i] if i < len(names) else f"argument {i + 4}"
        _checks.check_is_array(name, array, "an array with an entry for each pair")
        if jnp.shape(array) not in ((), (num_pairs,)):
            raise ValueError(
                f"{name} must have shape [{num_pairs}], an entry for each pair of answers; got "
                f"{_checks.describe(jnp.asarray(array))}."
            )
    return tuple(map(jnp.asarray, arrays))


def _check_pairs(loss: Callable, num_pairs: int, dtype, arrays: tuple, options: dict[str, Any]) -> None:
    """Let the loss check its own arguments, options as given."""
    loss_type = {**getattr(loss, "keywords", {}), **options}.get("loss_type")
    if isinstance(loss_type, str) and loss_type.startswith("aot"):
        raise ValueError(
            f"loss_type must be a variant whose pairs do not depend on one another; got {loss_type!r}: pass "
            "linear_sequence_logps of the batch to dpo_loss."
        )
    for name, value in options.items():
        if not isinstance(value, str) and not callable(value) and value is not None and jnp.ndim(value):
            raise ValueError(f"{name} must be a number; got {_checks.describe(value)}.")
    logps = jax.ShapeDtypeStruct((num_pairs,), dtype)
    losses = jax.eval_shape(partial(loss, reduction="none", **options), logps, logps, *arrays)
    if getattr(losses, "shape", None) != (num_pairs,):
        raise ValueError(f"loss must return one value for each pair, [{num_pairs}]; got {losses}.")


def _pairs_of_chunk(num_pairs: int, length: int) -> int:
    fitting = range(1, min(num_pairs, _CHUNK_TOKENS // max(1, 2 * length)) + 1)
    return max((n for n in fitting if num_pairs % n == 0), default=1)


def _make_losses(loss: Callable, length: int, average: bool, named: dict[str, Any]) -> Callable:
    """The loss of tokens whose values are those of their pairs, each in the pair's first row."""

    def losses_of_pairs(logits, target, takes_part, *arrays, axis_name=None, **options):
        def of_answers(array: jax.Array) -> jax.Array:
            return jnp.moveaxis(array.reshape(2, length, -1), 1, 2)

        token_logps = -token_cross_entropy(logits, target, axis_name=axis_name)
        logps = sequence_logps(of_answers(token_logps), where=of_answers(takes_part), average=average)
        of_pairs = [array.reshape(2 * length, -1)[0] for array in arrays]
        losses = loss(*logps, *of_pairs, reduction="none", **named, **options)
        rows = jnp.zeros((2 * length, losses.shape[0]), losses.dtype)
        return rows.at[0].set(losses).reshape(-1)

    return make_linear_loss(losses_of_pairs, splits_classes=True)
