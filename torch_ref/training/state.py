"""What a training step changes: the step count, the parameters and the optimizer's averages."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from torch_ref.training.placement import place_params


@dataclass
class TrainState:
    """A model in training.

    Args:
        step: number of updates made.
        model: the `nn.Module` that holds the parameters.
        optimizer: bound to those parameters.
    """

    step: int
    model: Any
    optimizer: torch.optim.Optimizer


def init_state(
    model: nn.Module, optimizer: Callable[..., torch.optim.Optimizer], *, batch_size: int
) -> TrainState:
    """Start training from a given model, which is copied to the device that will train it.

    Args:
        model: the module that holds the parameters.
        optimizer: from `make_optimizer`, or any other function from parameters to their optimizer.
        batch_size: crops in a training batch.

    Returns:
        The state, at step 0.
    """
    model = place_params(model, batch_size=batch_size)
    return TrainState(0, model, optimizer(model.parameters()))
