"""The optimizer, with every setting spelled out."""

from collections.abc import Callable
from functools import partial

import torch


def make_optimizer(
    learning_rate: float = 1e-3, weight_decay: float = 0.01
) -> Callable[..., torch.optim.Optimizer]:
    """AdamW with its settings, waiting for the parameters that `init_state` gives it.

    Args:
        learning_rate: step size.
        weight_decay: decoupled, times the learning rate, on every parameter.

    Returns:
        A function from parameters to their optimizer, which `init_state` takes.
    """
    return partial(
        torch.optim.AdamW, lr=learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=weight_decay
    )
