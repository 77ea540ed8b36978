"""The gradient of how training ends, by the parameters of the loss that was trained with."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils import _pytree as pytree

__all__ = ["make_meta_step"]


def make_meta_step(
    family: tuple[Any, Callable],
    inner_optimizer: Any,
    outer_loss: Callable,
    num_inner_steps: int,
    estimator: str = "unroll",
    *,
    apply_fn: Callable,
    truncation: int | None = None,
    num_pairs: int = 8,
    sigma: float = 0.01,
) -> Callable:
    """Make the function that trains a model with a learnt loss, every update in one graph.

    `inner_optimizer` has `init(params)` and `update(grads, state, params) -> (updates, state)`, as optax's
    have, of lists of tensors: those of `torch.optim` change their parameters in place. The model's
    parameters are a list.
    """
    loss = family[1]

    def run(loss_params: Any, model_params: list[Tensor], batches, held_out) -> Tensor:
        params = [param.detach().requires_grad_() for param in model_params]
        state = inner_optimizer.init(params)
        for step in range(num_inner_steps):
            if truncation is not None and step == num_inner_steps - truncation:
                params = [param.detach().requires_grad_() for param in params]
                state = pytree.tree_map(_detached, state)
            inputs, targets = (array[step % len(array)] for array in batches)
            value = loss(loss_params, apply_fn(params, inputs), targets)
            grads = torch.autograd.grad(value, params, create_graph=True)
            updates, state = inner_optimizer.update(grads, state, params)
            params = [param + update for param, update in zip(params, updates, strict=True)]
        inputs, targets = held_out
        return outer_loss(apply_fn(params, inputs), targets)

    def meta_step(
        loss_params: Any, model_params: list[Tensor], batches, held_out, generator: Generator | None = None
    ):
        leaves, tree = pytree.tree_flatten(loss_params)
        if estimator == "es":
            value, grads = _evolution_strategies(
                lambda leaves: run(pytree.tree_unflatten(leaves, tree), model_params, batches, held_out),
                leaves,
                num_pairs,
                sigma,
                generator,
            )
            return value, pytree.tree_unflatten(grads, tree)
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        value = run(pytree.tree_unflatten(leaves, tree), model_params, batches, held_out)
        grads = torch.autograd.grad(value, leaves)
        return value.detach(), pytree.tree_unflatten(list(grads), tree)

    return meta_step


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _evolution_strategies(run: Callable, leaves: list[Tensor], num_pairs: int, sigma: float, generator):
    total, grads = torch.zeros(()), [torch.zeros_like(leaf) for leaf in leaves]
    for _ in range(num_pairs):
        noise = [torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype) for leaf in leaves]
        values = [
            run([leaf + sign * sigma * e for leaf, e in zip(leaves, noise, strict=True)]).detach()
            for sign in (1, -1)
        ]
        total = total + sum(values) / (2 * num_pairs)
        slope = (values[0] - values[1]) / (2 * sigma * num_pairs)
        grads = [grad + slope * e for grad, e in zip(grads, noise, strict=True)]
    return total, grads
