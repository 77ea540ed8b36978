"""One update: forward, loss, gradient, AdamW.

Shapes: B batch, T time, K the last positions of it, D width, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn

from torch_ref.training.placement import place_batch
from torch_ref.training.state import TrainState

COMPUTE_DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
}

Loss = Callable[..., Tensor]
TrainStep = Callable[..., tuple[TrainState, Tensor, Tensor]]


def make_train_step(
    loss: Loss,
    *,
    from_hidden: bool = False,
    logits_to_keep: int | None = None,
    compute_dtype: str | None = None,
) -> TrainStep:
    """Make the function that trains a state on one batch.

    Args:
        loss: any scalar function of `(logits_BTV, targets_BT)`: `next_token_loss`, or your own `nn.Module`.
            With `from_hidden`, of `(hidden_BTD, head_VD, targets_BT, logit_scale=...)`:
            `linear_next_token_loss` is the same loss.
        from_hidden: what the loss takes: the model's hidden states and head instead of its logits. The model
            then has a method `hidden`, `head.weight` and `config.logit_factor`, as `Model5` does.
        logits_to_keep: how many positions, counted from the last, the loss looks at; None means all. For a
            loss of the final token, 1 gives the same loss and gradients without the work that only the other
            positions need: the head's, and most of the last block's.
        compute_dtype: dtype of the forward and backward pass: "bfloat16", "float16", "float32" or "float64";
            parameters, gradients and the optimizer's averages keep theirs. None means the parameters' own.

    Returns:
        `train_step(state, inputs_BT, targets_BT, generator) -> (state, loss, grad_norm)`. It moves the batch
        to the parameters' device, changes the state in place, and draws its dropout from the generator's seed
        and `state.step`. A loss or a gradient that is not finite leaves the state as it was.

    Raises:
        ValueError: `compute_dtype` is none of these.
    """
    if compute_dtype is not None and compute_dtype not in COMPUTE_DTYPES:
        raise ValueError(f"compute_dtype must be one of {', '.join(COMPUTE_DTYPES)}; got {compute_dtype!r}")

    def batch_loss(model: Any, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        targets_BK = targets_BT if logits_to_keep is None else targets_BT[:, -logits_to_keep:]
        options = {} if logits_to_keep is None else {"logits_to_keep": logits_to_keep}
        if not from_hidden:
            return loss(model(inputs_BT, **options), targets_BK)
        head_VD, logit_scale = model.head.weight, model.config.logit_factor
        return loss(model.hidden(inputs_BT, **options), head_VD, targets_BK, logit_scale=logit_scale)

    def train_step(
        state: TrainState, inputs_BT: Tensor, targets_BT: Tensor, generator: Generator
    ) -> tuple[TrainState, Tensor, Tensor]:
        inputs_BT, targets_BT = place_batch((inputs_BT, targets_BT), state.model)
        state.model.train()
        state.optimizer.zero_grad()
        # Dropout modules draw from the global generator; seeding it per step leaves no state to save.
        with torch.random.fork_rng():
            torch.manual_seed(hash((generator.initial_seed(), state.step)) % 2**63)
            if compute_dtype is None:
                value = batch_loss(state.model, inputs_BT, targets_BT)
            else:
                dtype = COMPUTE_DTYPES[compute_dtype]
                cast = {f"model.{name}": p.to(dtype) for name, p in state.model.named_parameters()}
                whole = _BatchLoss(state.model, batch_loss)
                value = torch.func.functional_call(whole, cast, (inputs_BT, targets_BT))
        value.backward()
        grads = [p.grad for p in state.model.parameters() if p.grad is not None]
        grad_norm = _norm(grads)
        if value.isfinite() and grad_norm.isfinite():
            state.optimizer.step()
            state.step += 1
        return state, value.detach(), grad_norm

    return train_step


def _norm(grads: list[Tensor]) -> Tensor:
    """The Euclidean norm of all gradients together, of numbers of which the largest is 1."""
    grads = [grad for grad in grads if grad.numel()]
    if not grads:
        return torch.zeros(())
    largest = torch.stack([grad.abs().max() for grad in grads]).max()
    if largest == 0 or not largest.isfinite():
        return largest
    return largest * torch.nn.utils.get_total_norm([grad / largest for grad in grads])


class _BatchLoss(nn.Module):
    """A model with its loss, so that both run with other parameters than the model's own."""

    def __init__(self, model: nn.Module, batch_loss: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model, self.batch_loss = model, batch_loss

    def forward(self, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """The loss of a batch."""
        return self.batch_loss(self.model, inputs_BT, targets_BT)
