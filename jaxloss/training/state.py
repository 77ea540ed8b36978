"""What a training step changes: the step count, the parameters and the optimizer's averages."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState as TrainState

from jaxloss.training.placement import place_params


def init_state(
    apply_fn: Callable[..., Any], params: Any, optimizer: optax.GradientTransformation, *, batch_size: int
) -> TrainState:
    """Start training from given parameters, which are copied to the devices that will train them.

    Args:
        apply_fn: the `apply` of a Linen model, or any function of the parameters and the inputs: an NNX
            model's merges its graph definition with them.
        params: its parameters.
        optimizer: from `make_optimizer`, or any other.
        batch_size: crops in a training batch; the devices share them.

    Returns:
        Flax's TrainState, at step 0.
    """
    params = place_params(params, batch_size=batch_size)
    # A step count that starts as a Python int changes its type after one step, which compiles the step twice.
    step, opt_state = place_params((jnp.int32(0), optimizer.init(params)), batch_size=batch_size)
    return TrainState(step=step, apply_fn=apply_fn, params=params, tx=optimizer, opt_state=opt_state)
