"""One update: forward, loss, gradient, AdamW.

Shapes: B batch, T time, V vocabulary.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from torch_ref.training.placement import place_batch
from torch_ref.training.state import TrainState

Loss = Callable[..., Tensor]
TrainStep = Callable[..., tuple[TrainState, Tensor, Tensor]]


def make_train_step(loss: Loss, *, logits_to_keep: int | None = None) -> TrainStep:
    """Make the function that trains a state on one batch.

    Args:
        loss: any scalar function of `(logits_BTV, targets_BT)`: `next_token_loss`, or your own `nn.Module`.
        logits_to_keep: how many positions, counted from the last, the loss looks at; None means all. For
            `final_token_loss`, 1 gives the same loss and gradients without the head's work for the others.

    Returns:
        `train_step(state, inputs_BT, targets_BT, generator) -> (state, loss, grad_norm)`. It moves the batch
        to the parameters' device, changes the state in place, and draws its dropout from the generator's seed
        and `state.step`. A loss or a gradient that is not finite leaves the state as it was.
    """

    def train_step(
        state: TrainState, inputs_BT: Tensor, targets_BT: Tensor, generator: Generator
    ) -> tuple[TrainState, Tensor, Tensor]:
        inputs_BT, targets_BT = place_batch((inputs_BT, targets_BT), state.model)
        state.model.train()
        state.optimizer.zero_grad()
        # Dropout modules draw from the global generator; seeding it per step leaves no state to save.
        with torch.random.fork_rng():
            torch.manual_seed(hash((generator.initial_seed(), state.step)) % 2**63)
            if logits_to_keep is None:
                value = loss(state.model(inputs_BT), targets_BT)
            else:
                x_BTD = state.model.hidden(inputs_BT)[:, -logits_to_keep:]
                value = loss(state.model.logits(x_BTD), targets_BT[:, -logits_to_keep:])
        value.backward()
        grads = [p.grad for p in state.model.parameters() if p.grad is not None]
        grad_norm = torch.nn.utils.get_total_norm(grads)
        if value.isfinite() and grad_norm.isfinite():
            state.optimizer.step()
            state.step += 1
        return state, value.detach(), grad_norm

    return train_step
