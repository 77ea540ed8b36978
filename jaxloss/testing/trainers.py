"""Train in either framework from given weights, on given batches.

Shapes: S steps.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxloss.interop import is_tensor, to_numpy, to_torch
from jaxloss.testing import _torch
from jaxloss.testing._jax import fitting
from jaxloss.testing._result import Arrays
from jaxloss.testing.inputs import is_array
from jaxloss.testing.measure import EPS
from jaxloss.testing.steps import clip_gradients


@dataclass(frozen=True)
class Run:
    """What a training run leaves behind.

    Args:
        losses_S: before each update.
        weights: after the last one, by torch's names, in torch's layout.
        gradients: of the first step, the same way, before clipping.
    """

    losses_S: np.ndarray
    weights: Arrays
    gradients: Arrays = field(default_factory=dict)


def move_by_one_eps(params: Any, dtype: str, seed: int = 0) -> Any:
    """Each number of a tree of numpy arrays times 1 + eps or 1 - eps, by chance."""
    rng = np.random.default_rng([seed, 3])

    def move(leaf: np.ndarray) -> np.ndarray:
        signs = rng.choice([-1, 1], leaf.shape).astype(leaf.dtype)
        return leaf * (1 + signs * np.asarray(EPS[dtype], leaf.dtype))

    return jax.tree.map(move, params)


@contextlib.contextmanager
def numerics_of(dtype: str) -> Iterator[None]:
    """float64 for float64 runs only, since optax computes its bias correction in the widest dtype it may.

    And full matmul precision, which accelerators do not use by default.
    """
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        yield


def train_jax(
    loss_and_gradients: Callable[..., Any],
    optimizer: Any,
    starts: Sequence[Any],
    batches: Sequence[Any],
    dtype: str,
    to_arrays: Callable[[Any], Arrays],
) -> list[Run]:
    """Train from each of some parameters.

    Args:
        loss_and_gradients: compiled, of params and a batch.
        optimizer: optax's.
        starts: initial parameters.
        batches: numpy's.
        dtype: of all.
        to_arrays: from a tree like the parameters to torch's names and layout.
    """

    @jax.jit
    def update(gradients: Any, state: Any, params: Any) -> Any:
        updates, state = optimizer.update(gradients, state, params)
        return jax.tree.map(lambda p, u: (p + u).astype(p.dtype), params, updates), state

    def train(params: Any) -> Run:
        # Not compiled: zeros of the same shapes are made for every optimizer.
        state = optimizer.init(params)
        losses: list[jax.Array] = []
        first: Arrays = {}
        for batch in batches:
            loss, gradients = loss_and_gradients(params, *batch)
            if not losses:
                first = to_arrays(gradients)
            params, state = update(gradients, state, params)
            losses.append(loss)
        return Run(np.asarray(losses, np.float64), to_arrays(params), first)

    with numerics_of(dtype), jax.transfer_guard("allow"):
        batches = [jax.tree.map(lambda x: jnp.asarray(fitting(x)) if is_array(x) else x, b) for b in batches]
        return [train(jax.tree.map(jnp.asarray, start)) for start in starts]


def train_torch(
    loss: Callable[..., Any],
    module: Any,
    make_optimizer: Callable[[list[Any]], tuple[Any, Any]],
    batches: Sequence[Any],
    dtype: str,
    *,
    max_norm: float | None = None,
    clip_eps: float = 1e-6,
) -> Run:
    """Train a torch module, which is changed; the arguments are those of `train_jax`."""
    losses: list[float] = []
    first: Arrays = {}
    with _torch.settings(dtype, "cpu", seed=0):
        parameters = list(module.parameters())
        optimizer, scheduler = make_optimizer(parameters)
        for batch in batches:
            given = jax.tree.map(lambda x: to_torch(x) if is_array(x) else x, batch)
            value = loss(module, *given)
            if not is_tensor(value) or value.ndim:
                got = f"shape {list(value.shape)}" if is_tensor(value) else type(value).__name__
                raise TypeError(f"torch_loss must return a scalar tensor; got {got}")
            optimizer.zero_grad()
            value.backward()
            if not losses:
                first = {
                    name: to_numpy(p.detach() * 0 if p.grad is None else p.grad).copy()
                    for name, p in module.named_parameters()
                }
            clip_gradients(parameters, max_norm, clip_eps)
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            losses.append(value.item())
        weights = {name: to_numpy(p).copy() for name, p in module.named_parameters()}
    return Run(np.asarray(losses), weights, first)


def load(module: Any, arrays: Arrays, dtype: str) -> None:
    """Give a torch module's parameters these values, and it and its buffers the dtype."""
    import torch

    module.to(getattr(torch, dtype))
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(to_torch(arrays[name].astype(np.float64)))
