"""The test loss: held-out crops, dropout off, with its standard error.

Shapes: N crops, B batch, T time, D width, V vocabulary.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from torch_ref.training.placement import place_batch
from torch_ref.training.state import TrainState
from torch_ref.training.step import Loss

EvalStep = Callable[..., dict[str, Tensor]]


class Estimate(NamedTuple):
    """A mean and its standard error.

    >>> Estimate.of(torch.tensor([1.0, 2.0, 3.0])).mean
    2.0
    """

    mean: float
    standard_error: float

    @classmethod
    def of(cls, values: Tensor) -> "Estimate":
        """From independent values; a single one leaves the error unknown (NaN)."""
        values = values.double()
        error = values.std().item() / len(values) ** 0.5 if len(values) > 1 else float("nan")
        return cls(values.mean().item(), error)


def make_eval_step(losses: Mapping[str, Loss], *, from_hidden: bool = False) -> EvalStep:
    """Make the function that measures several losses of a model on one batch, in one forward pass.

    Args:
        losses: name -> scalar function of `(logits_BTV, targets_BT)`.
        from_hidden: the losses are functions of `(hidden_BTD, head_VD, targets_BT, logit_scale=...)` instead,
            as for `make_train_step`: no more than one crop's logits are in memory.

    Returns:
        `eval_step(state, inputs_BT, targets_BT) -> {name: loss of each crop}`. It moves the batch to the
        parameters' device.
    """

    @torch.no_grad()
    def eval_step(state: TrainState, inputs_BT: Tensor, targets_BT: Tensor) -> dict[str, Tensor]:
        inputs_BT, targets_BT = place_batch((inputs_BT, targets_BT), state.model)
        was_training = state.model.training
        state.model.eval()
        x_BTV = state.model.hidden(inputs_BT) if from_hidden else state.model(inputs_BT)
        head = {}
        if from_hidden:
            head = {"head_VD": state.model.head.weight, "logit_scale": state.model.config.logit_factor}
        crops = list(zip(x_BTV.split(1), targets_BT.split(1), strict=True))
        measured = {
            name: torch.stack([_measure(loss, x_1TV, targets_1T, **head) for x_1TV, targets_1T in crops])
            for name, loss in losses.items()
        }
        state.model.train(was_training)
        return measured

    return eval_step


def _measure(
    loss: Loss,
    x_1TV: Tensor,
    targets_1T: Tensor,
    head_VD: Tensor | None = None,
    logit_scale: float | None = None,
) -> Tensor:
    if head_VD is None:
        return loss(x_1TV, targets_1T)
    return loss(x_1TV, head_VD, targets_1T, logit_scale=logit_scale)


def evaluate(
    state: TrainState,
    eval_step: EvalStep,
    inputs_NT: np.ndarray,
    targets_NT: np.ndarray,
    *,
    batch_size: int,
) -> dict[str, Estimate]:
    """Measure the losses over many crops, a batch at a time.

    Args:
        state: its model is used, and left as it is.
        eval_step: from `make_eval_step`.
        inputs_NT: token ids of the crops.
        targets_NT: the token that follows each of them.
        batch_size: crops in one forward pass.

    Returns:
        For each loss, its mean over the crops in nats and the standard error of that mean.
    """
    measured = [
        eval_step(state, inputs_NT[start : start + batch_size], targets_NT[start : start + batch_size])
        for start in range(0, len(inputs_NT), batch_size)
    ]
    return {name: Estimate.of(torch.cat([batch[name] for batch in measured])) for name in measured[0]}
