"""One update, compiled: forward, loss, gradient, AdamW.

Shapes: B batch, T time, K the last positions of it, D width, V vocabulary.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxloss._barriers import jit_with_barriers
from jaxloss._checks import check_choice
from jaxloss.training._restored import on_devices
from jaxloss.training.placement import place_batch
from jaxloss.training.state import TrainState

COMPUTE_DTYPES = ("bfloat16", "float16", "float32", "float64")

Loss = Callable[..., Float[Array, ""]]
TrainStep = Callable[..., tuple[TrainState, Float[Array, ""], Float[Array, ""]]]


def make_train_step(
    loss: Loss,
    *,
    from_hidden: bool = False,
    logits_to_keep: int | None = None,
    compute_dtype: str | None = None,
) -> TrainStep:
    """Make the function that trains a state on one batch.

    Args:
        loss: any scalar function of `(logits_BTV, targets_BT)`: `jaxloss.next_token_loss`, or your own. With
            `from_hidden`, of `(hidden_BTD, head_VD, targets_BT, logit_scale=...)`:
            `jaxloss.linear_next_token_loss` is the same loss, without the logits in memory.
        from_hidden: what the loss takes: the model's hidden states and head instead of its logits. The model
            then has methods `hidden` and `head`, as `Model5` does.
        logits_to_keep: how many positions, counted from the last, the loss looks at; None means all. For a
            loss of the final token, 1 gives the same loss and gradients without the work that only the other
            positions need: the head's, and most of the last block's.
        compute_dtype: dtype of the forward and backward pass: "bfloat16", "float16", "float32" or "float64";
            parameters, gradients and the optimizer's averages keep theirs. None means the parameters' own.

    Returns:
        `train_step(state, inputs_BT, targets_BT, key) -> (state, loss, grad_norm)`. It moves the batch to the
        parameters' devices, consumes the state that it is given, and draws its dropout from
        `fold_in(key, state.step)`. A loss or a gradient that is not finite leaves the state as it was. (Adam
        squares a gradient: where one is beyond 6e20, its float32 average is infinite from then on, and that
        weight stands still. `optax.clip_by_global_norm` before it takes such a gradient for 0.)

    Raises:
        ValueError: `compute_dtype` is none of these.
    """
    batch_loss = _make_batch_loss(loss, from_hidden, logits_to_keep, compute_dtype)

    def update(
        state: TrainState, inputs_BT: Int[Array, "B T"], targets_BT: Int[Array, "B T"], key: jax.Array
    ) -> tuple[TrainState, Float[Array, ""], Float[Array, ""]]:
        step_key = jax.random.fold_in(key, state.step)
        value, grads = jax.value_and_grad(batch_loss)(state.params, state, inputs_BT, targets_BT, step_key)
        grad_norm = _norm(jax.tree.leaves(grads))
        finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)
        # Decided inside the step, because by the time that the host sees the loss, the old weights are gone.
        # By a condition, because selecting leaf by leaf would copy weights and averages first.
        kept = jax.lax.cond(finite, lambda: state.apply_gradients(grads=grads), lambda: state)
        return kept, value, grad_norm

    compiled_update = jit_with_barriers(update, donate_argnames="state")

    def train_step(
        state: TrainState, inputs_BT: Int[Array, "B T"], targets_BT: Int[Array, "B T"], key: jax.Array
    ) -> tuple[TrainState, Float[Array, ""], Float[Array, ""]]:
        state = on_devices(state, batch_size=len(inputs_BT))
        inputs_BT, targets_BT, key = place_batch((inputs_BT, targets_BT, key), state.params)
        return compiled_update(state, inputs_BT, targets_BT, key)

    return train_step


def _norm(leaves: list[jax.Array]) -> Float[Array, ""]:
    """The Euclidean norm of all leaves together, at least float32, also where squares overflow or vanish."""
    dtype = jnp.result_type(jnp.float32, *leaves)
    leaves = [leaf.astype(dtype) for leaf in leaves]
    total = jnp.asarray(sum(jnp.sum(jnp.square(leaf)) for leaf in leaves), dtype)
    info = jnp.finfo(dtype)

    def scaled() -> Float[Array, ""]:
        # A power of two, so that no digit is lost, under which squares of any number fit.
        exponent = int(0.7 * info.maxexp)
        scale = jnp.where(total < 1, 2.0**exponent, 2.0**-exponent).astype(dtype)
        return jnp.sqrt(jnp.asarray(sum(jnp.sum(jnp.square(leaf * scale)) for leaf in leaves), dtype)) / scale

    is_exact = (total > jnp.sqrt(info.tiny)) & (total < jnp.inf)
    return jax.lax.cond(is_exact, lambda: jnp.sqrt(total), scaled)


def _make_batch_loss(
    loss: Loss, from_hidden: bool, logits_to_keep: int | None, compute_dtype: str | None
) -> Callable[..., Float[Array, ""]]:
    """The loss of a batch as a function of the parameters."""
    if compute_dtype is not None:
        check_choice("compute_dtype", compute_dtype, COMPUTE_DTYPES)

    def batch_loss(
        params: Any,
        state: TrainState,
        inputs_BT: Int[Array, "B T"],
        targets_BT: Int[Array, "B T"],
        key: jax.Array,
    ) -> Float[Array, ""]:
        if compute_dtype is not None:
            params = jax.tree.map(lambda leaf: leaf.astype(compute_dtype), params)
        variables = {"params": params}
        options = {} if logits_to_keep is None else {"logits_to_keep": logits_to_keep}
        targets_BK = targets_BT if logits_to_keep is None else targets_BT[:, -logits_to_keep:]
        apply = partial(
            state.apply_fn, variables, inputs_BT, deterministic=False, rngs={"dropout": key}, **options
        )
        if not from_hidden:
            return loss(apply(), targets_BK)
        head_VD, logit_scale = state.apply_fn(variables, method="head")
        return loss(apply(method="hidden"), head_VD, targets_BK, logit_scale=logit_scale)

    return batch_loss
