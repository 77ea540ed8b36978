"""Pairs with faults that new users planted, and what the report must say of each.

Shapes: B batch, C classes, D width.
"""

from functools import partial

import jax
import jax.numpy as jnp
import torch
from jax.lax import stop_gradient
from torch.nn import functional as F

from jaxloss import losses
from jaxloss.testing import Pair, normal
from parity_tests.testing.correct_pairs import LABELS, LOGITS


def _smoothed_over_others(logits_BC, labels_B):
    log_p_BC = jax.nn.log_softmax(logits_BC)
    num_classes = logits_BC.shape[1]
    right_BC = jax.nn.one_hot(labels_B, num_classes, dtype=logits_BC.dtype)
    return -jnp.mean(jnp.sum((0.9 * right_BC + 0.1 / (num_classes - 1) * (1 - right_BC)) * log_p_BC, 1))


def _norm_and_gelu(x_BD):
    centred = x_BD - x_BD.mean(-1, keepdims=True)
    return jax.nn.gelu(centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6))


_torch_norm_and_gelu = torch.nn.Sequential(torch.nn.LayerNorm(8), torch.nn.GELU())

# Each pair, with what the likely cause must contain.
REPORTED: list[tuple[Pair, str]] = [
    (
        Pair(
            "detach in torch",
            lambda x: jnp.sum(x * jnp.tanh(x)),
            lambda x: (x * x.tanh().detach()).sum(),
            [normal(8)],
        ),
        "torch stops a gradient by detach(), JAX does not",
    ),
    (
        Pair(
            "stop_gradient in JAX",
            lambda x: jnp.sum(x * stop_gradient(jnp.tanh(x))),
            lambda x: (x * x.tanh()).sum(),
            [normal(8)],
        ),
        "JAX stops the gradient of what torch's tanh returns",
    ),
    (
        Pair("square input, other axis", lambda x: x.sum(0), lambda x: x.sum(1), [normal(6, 6)]),
        "wrong axis: JAX's sum is over axis 0, torch's over 1",
    ),
    (
        Pair(
            "ignore_index off by one",
            lambda z, t: losses.cross_entropy(z, t, ignore_index=1),
            partial(F.cross_entropy, ignore_index=0),
            [LOGITS, LABELS],
        ),
        "ignored label: JAX's ignore_index is 1, torch's 0",
    ),
    (
        Pair(
            "smoothing over C - 1",
            _smoothed_over_others,
            partial(F.cross_entropy, label_smoothing=0.1),
            [LOGITS, LABELS],
        ),
        "label smoothing: JAX spreads 0.1 over the",
    ),
    (
        Pair("LayerNorm and GELU", _norm_and_gelu, _torch_norm_and_gelu, [normal(5, 8)]),
        "LayerNorm eps: JAX's is 1e-06, torch's 1e-05; and GELU variant",
    ),
    (
        Pair("another key", lambda x: {"l": jnp.sum(x)}, lambda x: {"loss": x.sum()}, [normal(8)]),
        "other names or another number of outputs",
    ),
    (
        Pair("a half", lambda x: jnp.tanh(x) / 2, lambda x: x.tanh(), [normal(4, 6)]),
        "and that is 1/2 or 1/sqrt(4)",
    ),
]
