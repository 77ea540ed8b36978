"""Families of losses, as their papers write them: parameters to begin with, and a loss that they shape."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from torch_ref.fused.linear_loss import make_linear_loss
from torch_ref.losses._masking import kept, reduce_rows
from torch_ref.losses.compose import make_hybrid_loss

__all__ = ["Family", "gce", "make_linear_family", "mixture", "mlp", "taylor"]


class Family(NamedTuple):
    """A loss with parameters; `loss(params, y_hat, y)` is one of the family's losses."""

    params: Any
    loss: Callable


def gce(q: float | Tensor = 0.0) -> Family:
    """`(1 - p^q) / q`; near q = 0 the first terms of its power series in q."""

    def loss(params, logits: Tensor, labels: Tensor) -> Tensor:
        nll, q = F.cross_entropy(logits, labels, reduction="none"), params["q"]
        if abs(q) < 1e-5:
            return nll - q * nll**2 / 2 + q**2 * nll**3 / 6
        return -torch.expm1(-q * nll) / q

    return Family({"q": torch.tensor(float(q))}, partial(_of_rows, loss))


def taylor(order: int = 3, *, kind: str = "classes") -> Family:
    """Minus the sum of `theta_ab (x - theta_x)^a (y - theta_y)^b / (a! b!)`, term by term."""
    terms = [(a, b) for b in range(1, order + 1) for a in range(order - b + 1)]
    coefficients = torch.zeros(len(terms))
    for i, (a, b) in enumerate(terms):
        if kind == "classes" and a == 1:
            coefficients[i] = (-1) ** (b - 1) * math.factorial(b - 1)
        elif kind == "real":
            coefficients[i] = {(1, 1): 2.0, (0, 2): -2.0}.get((a, b), 0.0)

    def loss(params, x: Tensor, y: Tensor) -> Tensor:
        dx, dy = x - params["centre"][0], y - params["centre"][1]
        scaled = zip(terms, params["coefficients"], strict=True)
        return -sum(c * dx**a * dy**b / (math.factorial(a) * math.factorial(b)) for (a, b), c in scaled)

    centre = torch.tensor([0.0, 1.0 if kind == "classes" else 0.0])
    return _of_pairs(kind, loss, {"centre": centre, "coefficients": coefficients})


def mlp(generator: Generator, hidden_sizes: Sequence[int] = (40, 40), *, kind: str = "classes") -> Family:
    """`torch.nn.functional.linear` and `silu` in turn, then `softplus`."""
    params, fan_in = [], 2
    for size in [*hidden_sizes, 1]:
        weight = torch.randn(size, fan_in, generator=generator) / math.sqrt(fan_in)
        params.append({"bias": torch.zeros(size), "weight": weight})
        fan_in = size

    def loss(params, x: Tensor, y: Tensor) -> Tensor:
        units = torch.stack([x, y], -1)
        for layer in params[:-1]:
            units = F.silu(F.linear(units, layer["weight"], layer["bias"]))
        return F.softplus(F.linear(units, params[-1]["weight"], params[-1]["bias"]))[..., 0]

    return _of_pairs(kind, loss, params)


def mixture(losses: Mapping[str, Callable]) -> Family:
    """`make_hybrid_loss` with the exponentials of the parameters for its weights."""

    def loss(params, y_hat, y, **options):
        weights = {name: torch.exp(params[name]) for name in losses}
        return make_hybrid_loss(losses, weights)(y_hat, y, **options)

    return Family({name: torch.zeros(()) for name in losses}, loss)


def make_linear_family(family: tuple[Any, Callable]) -> Family:
    """The loss of the logits of hidden states and head."""
    params, loss = family

    def linear(params, y_hat, y: Tensor, **options):
        fn = partial(loss, params, reduction="none")
        return make_linear_loss(fn)(*y_hat, y, **options)

    return Family(params, linear)


def _of_rows(
    row_losses: Callable,
    params,
    y_hat: Tensor,
    y: Tensor,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    where: Tensor | None = None,
    sample_weight: Tensor | None = None,
    axis: int = -1,
) -> Tensor:
    """The rows that take part, by `row_losses(params, logits, labels)`, reduced."""
    valid = y != ignore_index
    valid = valid if where is None else valid & where
    losses = row_losses(params, y_hat.movedim(axis, -1)[valid], y[valid])
    return reduce_rows(losses, valid, reduction, *kept(valid, sample_weight))


def _of_pairs(kind: str, of_pairs: Callable, params: Any) -> Family:
    """The losses of one target and one prediction, summed over the classes, if any."""

    def of_classes(params, logits: Tensor, labels: Tensor) -> Tensor:
        one_hot = F.one_hot(labels, logits.shape[-1]).to(logits)
        return of_pairs(params, one_hot, torch.softmax(logits, -1)).sum(-1)

    def of_reals(params, y_hat: Tensor, y: Tensor, *, reduction: str = "mean", where=None) -> Tensor:
        where = torch.ones(y_hat.shape, dtype=torch.bool) if where is None else where
        return reduce_rows(of_pairs(params, y[where], y_hat[where]), where, reduction, None)

    return Family(params, partial(_of_rows, of_classes) if kind == "classes" else of_reals)
