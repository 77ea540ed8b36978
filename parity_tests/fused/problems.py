"""One problem for all tests of the fused head: sizes that no chunk divides, and every option."""

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxloss.fused import linear_cross_entropy
from parity_tests.compare import assert_within
from parity_tests.tolerances import VALUE_EPS_OF_MAX

NUM_TOKENS, WIDTH, NUM_CLASSES = 23, 6, 11

_RNG = np.random.default_rng(20)
_FLOATS = {
    "input": _RNG.standard_normal((NUM_TOKENS, WIDTH)),
    "linear_weight": _RNG.standard_normal((NUM_CLASSES, WIDTH)),
    "linear_bias": _RNG.standard_normal(NUM_CLASSES),
}
_CLASS_WEIGHT = _RNG.uniform(0.2, 2.0, NUM_CLASSES)
_TOKEN_WEIGHT = _RNG.uniform(0.2, 2.0, NUM_TOKENS)
_WHERE = _RNG.random(NUM_TOKENS) > 0.3
_LABELS = _RNG.integers(0, NUM_CLASSES, NUM_TOKENS)
_LABELS[[2, 7]] = -100
_PROBABILITIES = _RNG.dirichlet(np.ones(NUM_CLASSES), NUM_TOKENS)

OPTIONS: dict[str, dict] = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.1},
    "class weights and smoothing": {"weight": _CLASS_WEIGHT, "label_smoothing": 0.2},
    "masks and weights": {"weight": _CLASS_WEIGHT, "sample_weight": _TOKEN_WEIGHT, "where": _WHERE},
    "z-loss, softcap and scale": {
        "z_loss": 0.1, "logit_softcap": 3.0, "logit_scale": 0.7, "where": _WHERE, "weight": _CLASS_WEIGHT,
    },
}  # fmt: skip


def jax_problem(options, target, dtype=np.float64):
    """Differentiable arrays, target and options for JAX."""
    arrays = {name: jnp.asarray(array, dtype) for name, array in _FLOATS.items()}
    kwargs = {k: jnp.asarray(v, dtype) if _is_float_array(v) else v for k, v in options.items()}
    labels, probabilities = jnp.asarray(_LABELS), jnp.asarray(_PROBABILITIES, dtype)
    return arrays, labels if target == "labels" else probabilities, kwargs


def torch_problem(options, target):
    """The same for PyTorch, in float64."""
    tensors = {name: torch.tensor(array, requires_grad=True) for name, array in _FLOATS.items()}
    kwargs = {k: torch.asarray(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    return tensors, torch.asarray(_LABELS if target == "labels" else _PROBABILITIES), kwargs


def _is_float_array(value) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.float64


def loss_of_arrays(implementation, target, reduction="mean", chunk_size=5, **kwargs):
    """The loss of differentiable arrays, and with "none" its product with a fixed cotangent."""

    def loss(arrays):
        losses = linear_cross_entropy(
            arrays["input"],
            arrays["linear_weight"],
            target,
            linear_bias=arrays.get("linear_bias"),
            reduction=reduction,
            implementation=implementation,
            chunk_size=chunk_size,
            **kwargs,
        )
        cotangent = np.random.default_rng(1).uniform(0.5, 2.0, losses.shape)
        return jnp.sum(losses * jnp.asarray(cotangent, losses.dtype))

    return loss


def value_and_gradients(target, reduction="mean", implementation="chunked", chunk_size=5, **kwargs):
    """Of arrays: the loss or losses, and the gradients for a fixed cotangent of either sign."""

    @jax.jit
    def both(arrays):
        options = {"implementation": implementation, "chunk_size": chunk_size, "reduction": reduction}
        losses, pull_back = jax.vjp(
            lambda arrays: linear_cross_entropy(**arrays, target=target, **options, **kwargs), arrays
        )
        return losses, pull_back(jnp.asarray(cotangent(losses.shape), losses.dtype))[0]

    return both


def cotangent(shape):
    return np.random.default_rng(1).standard_normal(shape)


def assert_trees_within(actual, expected, eps_of_max=VALUE_EPS_OF_MAX):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert_within(a, b, eps_of_max)
