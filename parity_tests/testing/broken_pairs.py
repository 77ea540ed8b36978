"""Pairs with one planted bug each, as ports from PyTorch have them, and what the report must say of it.

Shapes: B batch, T time, C classes, D width.
"""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn import functional as F

from jaxloss.testing import Pair, integers, log_probabilities, normal, probabilities, uniform


def _labels_with_ignored(rng):
    labels = rng.integers(0, 5, 12, dtype=np.int32)
    labels[::4] = -100
    return labels


def _log_likelihood(logits_BC, labels_B):
    return jnp.take_along_axis(jax.nn.log_softmax(logits_BC), labels_B[:, None], axis=1)[:, 0]


def _attention(x_TD, scale):
    visible_TT = jnp.tril(jnp.ones((len(x_TD), len(x_TD)), bool))
    scores_TT = jnp.where(visible_TT, x_TD @ x_TD.T * scale, -jnp.inf)
    return jax.nn.softmax(scores_TT) @ x_TD


def _layer_norm(x, eps):
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + eps)


def _one_pass_norm(x):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt((x**2).mean(-1, keepdims=True) - mean**2 + 1e-5)


_mlp = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.ReLU(), torch.nn.Linear(6, 6))
_mlp_params = {
    str(i): {"kernel": np.random.default_rng(i).standard_normal((6, 6)), "bias": np.zeros(6)} for i in (0, 2)
}


def _run_mlp(params, x):
    x = jax.nn.relu(x @ params["0"]["kernel"] + params["0"]["bias"])
    return x @ params["2"]["kernel"] + params["2"]["bias"]


def _params_not_transposed(params):
    return {
        f"{i}.{name}": params[i][leaf]
        for i in params
        for name, leaf in (("weight", "kernel"), ("bias", "bias"))
    }


_logits, _labels = normal(12, 5), integers(12, high=5)
_log_q, _p = log_probabilities(12, 5), probabilities(12, 5)
_class_weight = np.array([0.5, 1.1, 2.0, 1.7, 0.25])

# (pair, what the likely cause must contain; None where no known trap fits and detection is enough)
BROKEN: list[tuple[Pair, str | None]] = [
    (
        Pair(
            "mse over rows",
            lambda x, y: jnp.sum((x - y) ** 2) / 8,
            F.mse_loss,
            [normal(8, 10), normal(8, 10)],
        ),
        "wrong reduction denominator",
    ),
    (
        Pair(
            "sum for mean", lambda z, t: -jnp.sum(_log_likelihood(z, t)), F.cross_entropy, [_logits, _labels]
        ),
        "wrong reduction denominator",
    ),
    (
        Pair(
            "kl over elements",
            lambda q, p: jnp.mean(p * (jnp.log(p) - q)),
            lambda q, p: F.kl_div(q, p, reduction="batchmean"),
            [_log_q, _p],
        ),
        "wrong reduction denominator",
    ),
    (
        Pair(
            "weighted mean over N",
            lambda z, t, w: -jnp.mean(w[t] * _log_likelihood(z, t)),
            lambda z, t, w: F.cross_entropy(z, t, w),
            [_logits, _labels, _class_weight],
            {"wrt": (0,)},
        ),
        "wrong reduction denominator",
    ),
    (
        Pair(
            "ignored rows in the mean",
            lambda z, t: -jnp.mean(jnp.where(t < 0, 0.0, _log_likelihood(z, jnp.maximum(t, 0)))),
            F.cross_entropy,
            [_logits, _labels_with_ignored],
        ),
        "wrong reduction denominator",
    ),
    (
        Pair("standard deviation", lambda x: x / x.std(), lambda x: x / x.std(), [normal(9)]),
        "wrong reduction denominator",
    ),
    (
        Pair(
            "kl reversed",
            lambda q, p: jnp.sum(jnp.exp(q) * (q - jnp.log(p))) / 12,
            lambda q, p: F.kl_div(q, p, reduction="batchmean"),
            [_log_q, _p],
        ),
        "swapped KL arguments",
    ),
    (
        Pair(
            "kl reversed on logits",
            lambda a, b: jnp.sum(jax.nn.softmax(a) * (jax.nn.log_softmax(a) - jax.nn.log_softmax(b))),
            lambda a, b: F.kl_div(a.log_softmax(-1), b.log_softmax(-1), reduction="sum", log_target=True),
            [normal(12, 5), normal(12, 5)],
        ),
        "swapped",
    ),
    (Pair("kernel", lambda x, w: x @ w, F.linear, [normal(7, 6), normal(6, 6)]), "transposed kernel"),
    (
        Pair("kernel reshaped", lambda x, w: x @ w.reshape(6, 4), F.linear, [normal(7, 6), normal(4, 6)]),
        "reshaped where it should be transposed",
    ),
    (
        Pair(
            "kernels of a module",
            _run_mlp,
            _mlp,
            [normal(5, 6)],
            {"params": _mlp_params, "params_to_torch": _params_not_transposed},
        ),
        "transposed kernel",
    ),
    (
        Pair("flax's LayerNorm eps", lambda x: _layer_norm(x, 1e-6), torch.nn.LayerNorm(8), [normal(5, 8)]),
        "LayerNorm eps: JAX's is 1e-06, torch's 1e-05",
    ),
    (
        Pair(
            "eps by hand",
            lambda x: x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5),
            lambda x: x * torch.rsqrt((x**2).mean(-1, keepdim=True) + 1e-6),
            [normal(5, 8)],
        ),
        "epsilon: JAX's is 1e-05, torch's 1e-06",
    ),
    (Pair("jax.nn.gelu's default", jax.nn.gelu, torch.nn.GELU(), [normal(5, 8)]), "GELU variant"),
    (
        Pair(
            "attention not scaled",
            lambda x: _attention(x, 1.0),
            lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
            [normal(6, 8)],
        ),
        "missing scale",
    ),
    (
        Pair(
            "logits not scaled",
            lambda x, e, t: -jnp.mean(_log_likelihood(x @ e.T, t)),
            lambda x, e, t: F.cross_entropy(x @ e.T / 8**0.5, t),
            [normal(12, 8), normal(5, 8), _labels],
        ),
        "missing scale",
    ),
    (
        Pair(
            "bits",
            lambda z, t: -jnp.mean(_log_likelihood(z, t)) / jnp.log(2.0).astype(z.dtype),
            F.cross_entropy,
            [_logits, _labels],
            {"dtypes": "float64"},
        ),
        "bits",
    ),
    (
        Pair(
            "log-likelihood",
            lambda z, t: jnp.mean(_log_likelihood(z, t)),
            F.cross_entropy,
            [_logits, _labels],
        ),
        "opposite sign",
    ),
    (
        Pair(
            "softmax over the batch",
            lambda x: jax.nn.log_softmax(x, axis=0),
            lambda x: F.log_softmax(x, dim=-1),
            [normal(5, 8)],
        ),
        "wrong axis",
    ),
    (
        Pair(
            "smoothing forgotten",
            lambda z, t: -jnp.mean(_log_likelihood(z, t)),
            lambda z, t: F.cross_entropy(z, t, label_smoothing=0.1),
            [_logits, _labels],
        ),
        "label_smoothing",
    ),
    (
        Pair(
            "labels shifted",
            lambda z, t: -jnp.mean(_log_likelihood(z, jnp.roll(t, -1))),
            F.cross_entropy,
            [_logits, _labels],
        ),
        "shifted",
    ),
    (
        Pair("one-pass variance", _one_pass_norm, torch.nn.LayerNorm(64), [normal(5, 64, mean=1000.0)]),
        "precision",
    ),
    (
        Pair("float32 inside", lambda x: jnp.exp(x.astype(jnp.float32)), torch.exp, [normal(5, 8)]),
        "computes in float32",
    ),
    (
        Pair(
            "sigmoid twice",
            lambda z, y: (
                -jnp.mean(
                    y * jax.nn.log_sigmoid(jax.nn.sigmoid(z))
                    + (1 - y) * jax.nn.log_sigmoid(-jax.nn.sigmoid(z))
                )
            ),
            F.binary_cross_entropy_with_logits,
            [normal(9), uniform(9)],
        ),
        "extra sigmoid",
    ),
    (
        Pair(
            "log-softmax left out",
            lambda z, t: -jnp.mean(jnp.take_along_axis(z, t[:, None], axis=1)),
            F.cross_entropy,
            [_logits, _labels],
        ),
        "missing log_softmax",
    ),
    (
        Pair(
            "softmax twice",
            lambda z, t: -jnp.mean(_log_likelihood(jax.nn.softmax(z), t)),
            F.cross_entropy,
            [_logits, _labels],
        ),
        "extra softmax",
    ),
    (
        Pair(
            "huber's delta",
            lambda x, y: jnp.mean(jnp.where(jnp.abs(x - y) < 1, (x - y) ** 2 / 2, jnp.abs(x - y) - 0.5)),
            lambda x, y: F.huber_loss(x, y, delta=0.5),
            [normal(20), normal(20)],
        ),
        "delta=1.0",
    ),
    (
        Pair("not reduced", lambda x, y: (x - y) ** 2, F.mse_loss, [normal(8), normal(8)]),
        "reduction: torch reduces to a scalar and JAX does not",
    ),
    (Pair("another threshold", lambda x: x > 0.5, lambda x: x > 0, [normal(9)], {"wrt": ()}), None),
    (
        Pair(
            "mask forgotten",
            lambda x: jax.nn.softmax(x @ x.T / jnp.sqrt(jnp.asarray(8, x.dtype))) @ x,
            lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
            [normal(6, 8)],
        ),
        None,
    ),
]
