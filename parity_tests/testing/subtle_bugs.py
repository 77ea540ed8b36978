"""Bugs of gradients alone, and bugs so small that a careless harness takes them for rounding.

Shapes: B batch, C classes, D width.
"""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn import functional as F

from jaxloss import losses
from jaxloss.testing import Pair, grid, integers, normal


def _gradient_only(x):
    """Zero, with the gradient of `x`."""
    return x - jax.lax.stop_gradient(x)


def _layer_norm(x, eps):
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + eps)


@jax.custom_vjp
def _square_without_cotangent(x):
    return jnp.sum(x**2)


_square_without_cotangent.defvjp(lambda x: (jnp.sum(x**2), x), lambda x, cotangent: (2 * x,))


@jax.custom_vjp
def _log_cosh_half_gradient(x):
    return jnp.log(jnp.cosh(x))


_log_cosh_half_gradient.defvjp(
    lambda x: (jnp.log(jnp.cosh(x)), x), lambda x, cotangent: (cotangent * jnp.tanh(x) / 2,)
)


_logits, _labels = normal(12, 5), integers(12, high=5)

# (pair, what the likely cause must contain; None where no known trap fits and detection is enough)
SUBTLE: list[tuple[Pair, str | None]] = [
    (
        Pair(
            "gradient stopped",
            lambda x, y: jnp.mean((x - jax.lax.stop_gradient(y)) ** 2),
            F.mse_loss,
            [normal(8), normal(8)],
        ),
        "stop_gradient",
    ),
    (
        Pair("cotangent ignored", _square_without_cotangent, lambda x: (x**2).sum(), [normal(8)]),
        "ignores the incoming cotangent",
    ),
    (
        Pair(
            "half the gradient",
            _log_cosh_half_gradient,
            lambda x: x.cosh().log(),
            [normal(8)],
        ),
        "off by a factor",
    ),
    # A gradient this small beside the value is still a gradient, not rounding noise.
    (
        Pair(
            "tiny gradient doubled",
            lambda x: 1e10 + jnp.sum(2e-8 * (x - jax.lax.stop_gradient(x)) + 1e-8 * jax.lax.stop_gradient(x)),
            lambda x: 1e10 + 1e-8 * x.sum(),
            [normal(8)],
        ),
        "off by a factor",
    ),
    (
        Pair("kink", lambda x: jnp.maximum(x, 0.0), torch.relu, [grid(30, high=2)]),
        "kink",
    ),
    # Small bugs where a careless harness looks for rounding: in float32 alone, so that float64 does not help.
    (
        Pair(
            "factor where the mean cancels",
            lambda x: 1.0001 * _layer_norm(x, 1e-5),
            torch.nn.LayerNorm(8),
            [normal(5, 8, mean=1000.0)],
            {"dtypes": "float32"},
        ),
        None,
    ),
    (
        Pair(
            "constant where a sum cancels",
            lambda x: jnp.sum(x) - 8e4 + 5e-3,
            lambda x: x.sum() - 8e4,
            [normal(8, mean=1e4)],
            {"dtypes": "float32"},
        ),
        None,
    ),
    (
        Pair(
            "factor where torch loses digits",
            lambda z, t: 1.001 * losses.cross_entropy(z, t),
            F.cross_entropy,
            [lambda rng: 12 * np.eye(5), np.arange(5)],
            {"dtypes": "float32"},
        ),
        None,
    ),
    (
        Pair(
            "gradient at ties",
            lambda x: jnp.sum(jnp.maximum(x, 0.0) * 1.0 + 1e-4 * _gradient_only(jnp.maximum(x - 1.0, 0.0))),
            lambda x: x.relu().sum(),
            [grid(40)],
            {"dtypes": "float32"},
        ),
        None,
    ),
    (
        Pair(
            "one row's gradient",
            lambda z, t: losses.cross_entropy(z.at[3].add(1e-5 * _gradient_only(z[3])), t),
            F.cross_entropy,
            [_logits, _labels],
        ),
        None,
    ),
    (
        Pair(
            "gradient that should be zero",
            lambda x: 1e10 + 1e-5 * jnp.sum(_gradient_only(x)),
            lambda x: 1e10 + 0 * x.sum(),
            [normal(8)],
        ),
        None,
    ),
    (
        Pair(
            "count off by one",
            lambda x: (jnp.sum(x), jnp.asarray(301)),
            lambda x: (x.sum(), torch.tensor(300)),
            [normal(8)],
            {"dtypes": "bfloat16"},
        ),
        None,
    ),
]
