"""What a training step changes: the step count, the parameters and the optimizer's averages."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState as TrainState
from jax.sharding import Mesh

from jaxloss.training.placement import make_mesh, place_params


def init_state(
    apply_fn: Callable[..., Any],
    params: Any,
    optimizer: optax.GradientTransformation,
    *,
    batch_size: int,
    mesh: Mesh | None = None,
) -> TrainState:
    """Start training from given parameters, which are copied to the devices that will train them.

    Args:
        apply_fn: the `apply` of a Linen model, or any function of the parameters and the inputs: an NNX
            model's merges its graph definition with them.
        params: its parameters.
        optimizer: from `make_optimizer`, or any other.
        batch_size: crops in a training batch; the devices share them.
        mesh: from `make_mesh`; None means all devices that divide the batch, each holding everything.

    Returns:
        Flax's TrainState, at step 0.
    """
    mesh = make_mesh(batch_size=batch_size) if mesh is None else mesh
    place = partial(place_params, batch_size=batch_size, mesh=mesh)
    params = place(params)
    # A step count that starts as a Python int changes its type after one step, which compiles the step twice.
    step, opt_state = place((jnp.int32(0), optimizer.init(params)))
    apply_fn = _shared(apply_fn)
    return TrainState(step=step, apply_fn=apply_fn, params=params, tx=optimizer, opt_state=opt_state)


def _shared(apply_fn: Callable[..., Any]) -> Callable[..., Any]:
    """Of equal Linen models one `apply`: it is part of a compiled step's key, by its identity."""
    module = getattr(apply_fn, "__self__", None)
    if not isinstance(module, nn.Module) or apply_fn != module.apply:
        return apply_fn
    try:
        return _apply_of(module)
    except TypeError:  # one of its fields has no hash
        return apply_fn


@lru_cache
def _apply_of(module: nn.Module) -> Callable[..., Any]:
    return module.apply
