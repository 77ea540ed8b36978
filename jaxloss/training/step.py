"""One update, compiled: forward, loss, gradient, AdamW.

Shapes: B batch, T time, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxloss.training.placement import place_batch
from jaxloss.training.state import TrainState

Loss = Callable[..., Float[Array, ""]]
TrainStep = Callable[..., tuple[TrainState, Float[Array, ""], Float[Array, ""]]]


def make_train_step(loss: Loss, *, logits_to_keep: int | None = None) -> TrainStep:
    """Make the function that trains a state on one batch.

    Args:
        loss: any scalar function of `(logits_BTV, targets_BT)`: `jaxloss.next_token_loss`, or your own.
        logits_to_keep: how many positions, counted from the last, the loss looks at; None means all. For
            `final_token_loss`, 1 gives the same loss and gradients without the head's work for the others.

    Returns:
        `train_step(state, inputs_BT, targets_BT, key) -> (state, loss, grad_norm)`. It moves the batch to the
        parameters' devices, consumes the state that it is given, and draws its dropout from
        `fold_in(key, state.step)`. A loss or a gradient that is not finite leaves the state as it was.
    """

    def batch_loss(
        params: Any,
        state: TrainState,
        inputs_BT: Int[Array, "B T"],
        targets_BT: Int[Array, "B T"],
        key: jax.Array,
    ) -> Float[Array, ""]:
        variables, rngs = {"params": params}, {"dropout": key}
        if logits_to_keep is None:
            logits_BTV = state.apply_fn(variables, inputs_BT, deterministic=False, rngs=rngs)
            return loss(logits_BTV, targets_BT)
        x_BTD = state.apply_fn(variables, inputs_BT, deterministic=False, rngs=rngs, method="hidden")
        logits_BTV = state.apply_fn(variables, x_BTD[:, -logits_to_keep:], method="logits")
        return loss(logits_BTV, targets_BT[:, -logits_to_keep:])

    @jax.jit(donate_argnames="state")
    def update(
        state: TrainState, inputs_BT: Int[Array, "B T"], targets_BT: Int[Array, "B T"], key: jax.Array
    ) -> tuple[TrainState, Float[Array, ""], Float[Array, ""]]:
        step_key = jax.random.fold_in(key, state.step)
        value, grads = jax.value_and_grad(batch_loss)(state.params, state, inputs_BT, targets_BT, step_key)
        grad_norm = jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(grads)))
        finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)
        # Selected inside the step, because by the time that the host sees the loss, the old weights are gone.
        kept = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), state.apply_gradients(grads=grads), state
        )
        return kept, value, grad_norm

    def train_step(
        state: TrainState, inputs_BT: Int[Array, "B T"], targets_BT: Int[Array, "B T"], key: jax.Array
    ) -> tuple[TrainState, Float[Array, ""], Float[Array, ""]]:
        inputs_BT, targets_BT, key = place_batch((inputs_BT, targets_BT, key), state.params)
        return update(state, inputs_BT, targets_BT, key)

    return train_step
