"""Pairs that are right, and hard enough that a careless harness would raise an alarm.

Shapes: B batch, D width.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn import functional as F

from jaxloss import losses
from jaxloss.testing import Pair, grid, integers, log_probabilities, normal, probabilities, signs, uniform

LOGITS, LABELS = normal(12, 5), integers(12, high=5)
LOG_Q, P = log_probabilities(12, 5), probabilities(12, 5)
WEIGHT = np.array([0.5, 1.1, 2.0, 1.7, 0.25])


def ignored(rng):
    """Labels, a quarter of which do not count."""
    labels = LABELS(rng)
    labels[::4] = -100
    return labels


def _attention(params, x_BD):
    q, k, v = jnp.split(x_BD @ params["kernel"] + params["bias"], 3, axis=-1)
    return jax.nn.softmax(q @ k.T / 6**0.5) @ v


class _Attention(torch.nn.Linear):
    def forward(self, x_BD):
        q, k, v = super().forward(x_BD).chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v)


class _ChannelsLast(torch.nn.Conv1d):
    def forward(self, x):
        return super().forward(x.mT).mT


def _apply(module):
    return lambda params, x: module.apply({"params": params}, x)


def _branch(x):
    return x**2 if x.sum() > 0 else -x


def kernel_and_bias(*shape):
    rng = np.random.default_rng(3)
    return {"kernel": rng.standard_normal(shape), "bias": rng.standard_normal(shape[-1])}


_dense = nn.Dense(4)
_dense_params = _dense.init(jax.random.key(0), jnp.zeros((1, 6), jnp.float32))["params"]
_conv = nn.Conv(4, (3,), padding="VALID")
_norm = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False)
_norm_params = {"scale": np.linspace(0.5, 2, 8), "bias": np.linspace(-1, 1, 8)}
_dropout_then_tanh = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Tanh()).eval()
_smoothed = {"label_smoothing": 0.1, "reduction": "sum"}

CORRECT: list[Pair] = [
    Pair("cross entropy", losses.cross_entropy, F.cross_entropy, [LOGITS, LABELS]),
    Pair("near-uniform", jax.nn.log_softmax, lambda x: x.log_softmax(-1), [normal(6, 5, scale=0.02)]),
    Pair("saturated", jax.nn.log_softmax, lambda x: x.log_softmax(-1), [normal(6, 5, scale=1e4)]),
    # Torch returns 0 here; being nearer to the truth than torch is no reason for an alarm.
    Pair(
        "confident logits",
        losses.cross_entropy,
        F.cross_entropy,
        [30 * np.eye(5), np.arange(5)],
        {"dtypes": "float32"},
    ),
    Pair("ignored labels", losses.cross_entropy, F.cross_entropy, [LOGITS, ignored]),
    Pair("class weights", losses.cross_entropy, F.cross_entropy, [LOGITS, LABELS, WEIGHT], {"wrt": (0,)}),
    Pair(
        "smoothed probabilities",
        partial(losses.cross_entropy, **_smoothed),
        partial(F.cross_entropy, **_smoothed),
        [LOGITS, P],
    ),
    Pair("a loss module", losses.nll_loss, torch.nn.NLLLoss(), [LOG_Q, LABELS]),
    Pair("settings as inputs", jnp.sum, torch.sum, [normal(4, 5), -1]),
    Pair("l1 at ties", losses.l1_loss, F.l1_loss, [grid(40), grid(40)]),
    Pair(
        "mse by element",
        partial(losses.mse_loss, reduction="none"),
        torch.nn.MSELoss(reduction="none"),
        [normal(8), normal(8)],
    ),
    Pair(
        "lists of arrays",
        lambda xs: sum(jnp.sum(x**2) for x in xs),
        lambda xs: sum((x**2).sum() for x in xs),
        [[normal(3), normal(2, 2)]],
    ),
    Pair(
        "several outputs",
        lambda x: {"a": jnp.sin(x), "b": jnp.argmax(x)},
        lambda x: {"a": x.sin(), "b": x.argmax()},
        [normal(9)],
    ),
    Pair("values only", jnp.sign, torch.sign, [normal(9)], {"wrt": ()}),
    Pair("flax Dense", _apply(_dense), torch.nn.Linear(6, 4), [normal(3, 6)], {"params": _dense_params}),
    Pair(
        "flax Conv",
        _apply(_conv),
        _ChannelsLast(3, 4, 3),
        [normal(2, 8, 3)],
        {"params": kernel_and_bias(3, 3, 4)},
    ),
    Pair(
        "flax LayerNorm",
        _apply(_norm),
        torch.nn.LayerNorm(8),
        [normal(3, 8, mean=1000.0)],
        {"params": _norm_params},
    ),
    # The gradient of the keys' bias is analytically zero: both sides hold rounding noise there.
    Pair(
        "zero gradients of a bias",
        _attention,
        _Attention(6, 18),
        [normal(5, 6)],
        {"params": kernel_and_bias(6, 18)},
    ),
    Pair(
        "a gradient that is zero",
        lambda x: jnp.sum(jax.nn.softmax(x)),
        lambda x: x.softmax(-1).sum(),
        [normal(5, 8)],
    ),
    Pair("embedding", lambda t, i: t[i], lambda t, i: F.embedding(i, t), [normal(7, 4), integers(5, high=7)]),
    Pair("exact GELU", partial(jax.nn.gelu, approximate=False), torch.nn.GELU(), [normal(50)]),
    Pair("dropout in eval", jnp.tanh, _dropout_then_tanh, [normal(9)]),
    Pair(
        "batch norm in eval",
        lambda x: x / jnp.sqrt(jnp.asarray(1 + 1e-5, x.dtype)),
        torch.nn.BatchNorm1d(4).eval(),
        [normal(6, 4)],
    ),
    Pair("python control flow", _branch, _branch, [uniform(5)], {"jit": False}),
    Pair(
        "bfloat16",
        losses.cross_entropy,
        F.cross_entropy,
        [LOGITS, LABELS],
        {"dtypes": ("bfloat16", "float16")},
    ),
    Pair("infinities in place", jnp.log, torch.log, [np.array([0.0, 1.0, 2.0])], {"allow_nonfinite": True}),
    Pair(
        "hinge",
        lambda x, y: jnp.mean(jnp.where(y > 0, x, jax.nn.relu(1 - x))),
        F.hinge_embedding_loss,
        [normal(20), signs(20)],
        {"wrt": 0},
    ),
    # Cancellation: both lose half of the digits, each in its own way.
    Pair("ill-conditioned", lambda x: jnp.sum(x) - 8e4, lambda x: x.sum() - 8e4, [normal(8, mean=1e4)]),
    Pair("large sum", lambda a, b: a @ b, torch.matmul, [normal(4, 2000), normal(2000, 3)]),
]
