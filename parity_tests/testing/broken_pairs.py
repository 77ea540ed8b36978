"""Pairs with one planted bug each, and what the report must say of it.

Shapes: B batch, T time, C classes, D width.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.lax import stop_gradient
from torch.nn import functional as F

from jaxloss import losses
from jaxloss.testing import Pair, grid, normal, uniform
from parity_tests.testing.correct_pairs import LABELS, LOG_Q, LOGITS, WEIGHT, P, ignored, kernel_and_bias


def _log_likelihood(logits_BC, labels_B):
    return jnp.take_along_axis(jax.nn.log_softmax(logits_BC), labels_B[:, None], axis=1)[:, 0]


def _cross_entropy(logits_BC, labels_B):
    return -jnp.mean(_log_likelihood(logits_BC, labels_B))


def _unscaled_attention(x_TD):
    visible_TT = jnp.tril(jnp.ones((len(x_TD), len(x_TD)), bool))
    scores_TT = jnp.where(visible_TT, x_TD @ x_TD.T, -jnp.inf)
    return jax.nn.softmax(scores_TT) @ x_TD


def _attention(x_TD):
    return F.scaled_dot_product_attention(x_TD, x_TD, x_TD, is_causal=True)


def _layer_norm(x, eps):
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + eps)


def _one_pass_norm(x):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt((x**2).mean(-1, keepdims=True) - mean**2 + 1e-5)


_batchmean = partial(F.kl_div, reduction="batchmean")
_mlp = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.ReLU(), torch.nn.Linear(6, 6))
_mlp_params = {"0": kernel_and_bias(6, 6), "2": kernel_and_bias(6, 6)}


def _run_mlp(params, x):
    x = jax.nn.relu(x @ params["0"]["kernel"] + params["0"]["bias"])
    return x @ params["2"]["kernel"] + params["2"]["bias"]


def _params_not_transposed(params):
    layers = [{f"{i}.weight": p["kernel"], f"{i}.bias": p["bias"]} for i, p in params.items()]
    return layers[0] | layers[1]


def _gradient_only(x):
    """Zero, with the gradient of `x`."""
    return x - stop_gradient(x)


def _with_gradient(function, gradient):
    """The function, with a gradient of its own: `gradient(x, cotangent)`."""
    wrapped = jax.custom_vjp(function)
    wrapped.defvjp(lambda x: (function(x), x), lambda x, cotangent: (gradient(x, cotangent),))
    return wrapped


_square_without_cotangent = _with_gradient(lambda x: jnp.sum(x**2), lambda x, cotangent: 2 * x)
_log_cosh_half_gradient = _with_gradient(
    lambda x: jnp.log(jnp.cosh(x)), lambda x, cotangent: cotangent * jnp.tanh(x) / 2
)


def _bug(cause, name, jax_fn, torch_fn, inputs, **options):
    return Pair(name, jax_fn, torch_fn, inputs, options), cause


def _label_bug(cause, name, jax_fn, torch_fn=F.cross_entropy, labels=LABELS):
    return _bug(cause, name, jax_fn, torch_fn, [LOGITS, labels])


_DENOMINATOR = "wrong reduction denominator"

# Each pair, with what the likely cause must contain; None where no known trap fits and detection is enough.
BUGS: list[tuple[Pair, str | None]] = [
    # As ports from PyTorch have them.
    _bug(
        _DENOMINATOR, "mse over rows", lambda x, y: jnp.sum((x - y) ** 2) / 8, F.mse_loss, [normal(8, 10)] * 2
    ),
    _label_bug(_DENOMINATOR, "sum for mean", lambda z, t: -jnp.sum(_log_likelihood(z, t))),
    _bug(
        _DENOMINATOR, "kl over elements", lambda q, p: jnp.mean(p * (jnp.log(p) - q)), _batchmean, [LOG_Q, P]
    ),
    _bug(
        _DENOMINATOR,
        "weighted mean over N",
        lambda z, t, w: -jnp.mean(w[t] * _log_likelihood(z, t)),
        F.cross_entropy,
        [LOGITS, LABELS, WEIGHT],
        wrt=(0,),
    ),
    _label_bug(
        _DENOMINATOR,
        "ignored rows in the mean",
        lambda z, t: -jnp.mean(jnp.where(t < 0, 0.0, _log_likelihood(z, jnp.maximum(t, 0)))),
        labels=ignored,
    ),
    _bug(_DENOMINATOR, "standard deviation", lambda x: x / x.std(), lambda x: x / x.std(0), [normal(9)]),
    _bug(
        "swapped KL arguments",
        "kl reversed",
        lambda q, p: jnp.sum(jnp.exp(q) * (q - jnp.log(p))) / 12,
        _batchmean,
        [LOG_Q, P],
    ),
    _bug(
        "swapped",
        "kl reversed on logits",
        lambda a, b: jnp.sum(jax.nn.softmax(a) * (jax.nn.log_softmax(a) - jax.nn.log_softmax(b))),
        lambda a, b: F.kl_div(a.log_softmax(-1), b.log_softmax(-1), reduction="sum", log_target=True),
        [LOGITS, LOGITS],
    ),
    _bug("transposed kernel", "kernel", lambda x, w: x @ w, F.linear, [normal(7, 6), normal(6, 6)]),
    _bug(
        "reshaped where it should",
        "kernel reshaped",
        lambda x, w: x @ w.reshape(6, 4),
        F.linear,
        [normal(7, 6), normal(4, 6)],
    ),
    _bug(
        "transposed kernel: JAX uses params, all of them, transposed",
        "kernels of a module",
        _run_mlp,
        _mlp,
        [normal(5, 6)],
        params=_mlp_params,
        params_to_torch=_params_not_transposed,
    ),
    _bug(
        "LayerNorm eps: JAX's is 1e-06, torch's 1e-05",
        "flax's LayerNorm eps",
        lambda x: _layer_norm(x, 1e-6),
        torch.nn.LayerNorm(8),
        [normal(5, 8)],
    ),
    _bug(
        "epsilon: JAX's is 1e-05, torch's 1e-06",
        "eps by hand",
        lambda x: x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5),
        lambda x: x * torch.rsqrt((x**2).mean(-1, keepdim=True) + 1e-6),
        [normal(5, 8)],
    ),
    _bug("GELU variant", "jax.nn.gelu's default", jax.nn.gelu, torch.nn.GELU(), [normal(5, 8)]),
    _bug("missing scale", "attention not scaled", _unscaled_attention, _attention, [normal(6, 8)]),
    _bug(
        "missing scale",
        "logits not scaled",
        lambda x, e, t: _cross_entropy(x @ e.T, t),
        lambda x, e, t: F.cross_entropy(x @ e.T / 8**0.5, t),
        [normal(12, 8), normal(5, 8), LABELS],
    ),
    _label_bug("bits", "bits", lambda z, t: _cross_entropy(z, t) / jnp.log(2.0).astype(z.dtype)),
    _label_bug("opposite sign", "log-likelihood", lambda z, t: -_cross_entropy(z, t)),
    _bug(
        "wrong axis: JAX's log_softmax is over axis 0",
        "softmax over the batch",
        lambda x: jax.nn.log_softmax(x, axis=0),
        lambda x: F.log_softmax(x, dim=-1),
        [normal(5, 8)],
    ),
    _label_bug(
        "label_smoothing",
        "smoothing forgotten",
        _cross_entropy,
        partial(F.cross_entropy, label_smoothing=0.1),
    ),
    _label_bug("labels shifted by one", "labels shifted", lambda z, t: _cross_entropy(z, jnp.roll(t, -1))),
    _bug(
        "precision", "one-pass variance", _one_pass_norm, torch.nn.LayerNorm(64), [normal(5, 64, mean=1000.0)]
    ),
    _bug(
        "computes in float32", "float32 inside", lambda x: jnp.exp(jnp.float32(x)), torch.exp, [normal(5, 8)]
    ),
    _bug(
        "the two agree in float32, so the formula is right, but JAX loses digits in bfloat16",
        "float8 inside",
        lambda x: jnp.exp(x if x.dtype == "float32" else x.astype("float8_e5m2").astype(x.dtype)),
        torch.exp,
        [normal(5, 8)],
        dtypes=("float32", "bfloat16"),
    ),
    _bug(
        "extra sigmoid",
        "sigmoid twice",
        lambda z, y: losses.binary_cross_entropy_with_logits(jax.nn.sigmoid(z), y),
        F.binary_cross_entropy_with_logits,
        [normal(9), uniform(9)],
    ),
    _label_bug(
        "missing log_softmax",
        "log-softmax left out",
        lambda z, t: -jnp.mean(jnp.take_along_axis(z, t[:, None], axis=1)),
    ),
    _label_bug("extra softmax", "softmax twice", lambda z, t: _cross_entropy(jax.nn.softmax(z), t)),
    _bug("delta=1.0", "huber's delta", losses.huber_loss, partial(F.huber_loss, delta=0.5), [normal(20)] * 2),
    _bug("torch reduces to a scalar", "not reduced", lambda x, y: (x - y) ** 2, F.mse_loss, [normal(8)] * 2),
    _bug(None, "another threshold", lambda x: x > 0.5, lambda x: x > 0, [normal(9)], wrt=()),
    _bug(None, "mask forgotten", lambda x: jax.nn.softmax(x @ x.T * 8**-0.5) @ x, _attention, [normal(6, 8)]),
    # Of the gradient alone.
    _bug(
        "stop_gradient",
        "gradient stopped",
        lambda x, y: jnp.mean((x - stop_gradient(y)) ** 2),
        F.mse_loss,
        [normal(8)] * 2,
    ),
    _bug(
        "incoming cotangent",
        "cotangent ignored",
        _square_without_cotangent,
        lambda x: (x**2).sum(),
        [normal(8)],
    ),
    _bug(
        "off by a factor", "half the gradient", _log_cosh_half_gradient, lambda x: x.cosh().log(), [normal(8)]
    ),
    # A gradient this small beside the value is still a gradient, not rounding noise.
    _bug(
        "off by a factor",
        "tiny gradient doubled",
        lambda x: 1e10 + jnp.sum(2e-8 * _gradient_only(x) + 1e-8 * stop_gradient(x)),
        lambda x: 1e10 + 1e-8 * x.sum(),
        [normal(8)],
    ),
    _bug("kink", "kink", lambda x: jnp.maximum(x, 0.0), torch.relu, [grid(30, high=2)]),
    _label_bug(
        None,
        "one row's gradient",
        lambda z, t: losses.cross_entropy(z.at[3].add(1e-5 * _gradient_only(z[3])), t),
    ),
    _bug(
        None,
        "gradient that should be zero",
        lambda x: 1e10 + 1e-5 * jnp.sum(_gradient_only(x)),
        lambda x: 1e10 + 0 * x.sum(),
        [normal(8)],
    ),
    # So small that a careless harness takes them for rounding. In a narrow dtype alone: float64 would tell.
    _bug(
        None,
        "factor where the mean cancels",
        lambda x: 1.0001 * _layer_norm(x, 1e-5),
        torch.nn.LayerNorm(8),
        [normal(5, 8, mean=1000.0)],
        dtypes="float32",
    ),
    _bug(
        None,
        "constant where a sum cancels",
        lambda x: jnp.sum(x) - 8e4 + 5e-3,
        lambda x: x.sum() - 8e4,
        [normal(8, mean=1e4)],
        dtypes="float32",
    ),
    _bug(
        None,
        "factor where torch loses digits",
        lambda z, t: 1.001 * losses.cross_entropy(z, t),
        F.cross_entropy,
        [12 * np.eye(5), np.arange(5)],
        dtypes="float32",
    ),
    _bug(
        None,
        "gradient at ties",
        lambda x: jnp.sum(jnp.maximum(x, 0.0) + 1e-4 * _gradient_only(jnp.maximum(x - 1.0, 0.0))),
        lambda x: x.relu().sum(),
        [grid(40)],
        dtypes="float32",
    ),
    _bug(
        None,
        "count off by one",
        lambda x: (jnp.sum(x), jnp.asarray(301)),
        lambda x: (x.sum(), torch.tensor(300)),
        [normal(8)],
        dtypes="bfloat16",
    ),
]
