"""The same small Model 5 in both frameworks, with inputs, losses, gradients and dropout masks to compare."""

from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn import functional as F

import jaxloss.model5 as jax_side
import torch_ref.model5 as torch_side
from jaxloss import testing
from jaxloss.losses import final_token_loss, next_token_loss
from jaxloss.model5 import Model5Config
from jaxloss.model5._gpt2_layout import array_shapes
from parity_tests.compare import assert_same, error_in_eps, to_numpy
from parity_tests.quick_compilation import jit
from parity_tests.tolerances import GRADIENT_EPS_OF_MAX, VALUE_EPS_OF_MAX

TINY = Model5Config(vocab_size=61, context_length=16, embed_dim=32, num_heads=4, num_blocks=2)

DTYPES = ["float64", "float32"]

Arrays = dict[str, np.ndarray]

OBJECTIVES: dict[str, tuple[Callable, Callable]] = {
    "next": (next_token_loss, lambda logits, target: F.cross_entropy(logits.mT, target)),
    "final": (final_token_loss, lambda logits, target: F.cross_entropy(logits[:, -1], target[:, -1])),
}


@cache
def weights(config: Model5Config = TINY) -> Arrays:
    """Weights that float32 holds exactly, with no special values: biases and LayerNorm scales vary too."""
    rng = np.random.default_rng(5)
    return {
        name: (0.1 * rng.standard_normal(shape) + (name.endswith("weight") and "ln_" in name)).astype(
            np.float32
        )
        for name, shape in array_shapes(config).items()
    }


def jax_params(dtype: str, arrays: Arrays | None = None, config: Model5Config = TINY):
    arrays = weights(config) if arrays is None else arrays
    return jax_side.from_arrays({name: array.astype(dtype) for name, array in arrays.items()}, config)


def torch_model(dtype: str, config: Model5Config = TINY) -> torch_side.Model5:
    arrays = {name: array.astype(dtype) for name, array in weights(config).items()}
    return torch_side.from_arrays(arrays, config)


def tokens(config: Model5Config = TINY, batch: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets [B, context_length]."""
    rng = np.random.default_rng(7)
    stream = rng.integers(config.vocab_size, size=(batch, config.context_length + 1), dtype=np.int32)
    return stream[:, :-1], stream[:, 1:]


def draw_masks():
    """The dropout masks of one key for the batch of `tokens`."""
    variables = {"params": jax_params("float32")}
    return testing.draw_masks(jax_side.Model5(TINY).apply, variables, tokens()[0], key=jax.random.key(3))


@cache
def _drawn_masks():
    return draw_masks()


def shared_masks():
    """One draw of masks for all tests, in containers of each test's own."""
    return jax.tree.map(lambda mask: mask, _drawn_masks())


def set_masks(model: torch_side.Model5, masks) -> None:
    """Put masks drawn by JAX into the torch model: both must drop out in the same places, and no others."""
    given = {
        ".".join(entry.key for entry in path[:-1]).replace("h_", "h."): torch.tensor(np.asarray(mask))
        for path, mask in jax.tree_util.tree_flatten_with_path(masks)[0]
    }
    places = {
        name: module for name, module in model.named_modules() if isinstance(module, torch_side.Dropout)
    }
    assert given.keys() == places.keys()
    for name, module in places.items():
        module.mask = given[name]


def jax_results(params, masks=None, *, config: Model5Config = TINY, objective: str = "next") -> Arrays:
    """Logits, loss and the gradient of every parameter; dropout is on when there are masks."""
    # float64 has digits to spare, and is there for what the narrower dtypes' rounding would hide.
    compiled = _compiled_quickly if params["wte"]["embedding"].dtype == "float64" else _compiled
    return _as_arrays(*compiled(params, masks, objective == "final", config))


def _jax_gradients(params, masks, is_final, config: Model5Config):
    inputs, targets = tokens(config)

    def loss_and_logits(params):
        variables = {"params": params} if masks is None else {"params": params, "dropout_masks": masks}
        logits_BTV = jax_side.Model5(config).apply(variables, inputs, deterministic=masks is None)
        # Chosen at run time, to compile once for both.
        losses = {name: loss(logits_BTV, targets) for name, (loss, _) in OBJECTIVES.items()}
        return jnp.where(is_final, losses["final"], losses["next"]), logits_BTV

    return jax.value_and_grad(loss_and_logits, has_aux=True)(params)


_compiled = jax.jit(_jax_gradients, static_argnames="config")
_compiled_quickly = jit(_jax_gradients, static_argnames="config")


def _as_arrays(value_and_logits, gradients) -> Arrays:
    loss, logits_BTV = value_and_logits
    return {"loss": loss, "logits": logits_BTV, **jax_side.to_arrays(gradients)}


def torch_results(model: torch_side.Model5, *, objective: str = "next") -> Arrays:
    """Logits, loss and the gradient of every parameter, in the mode that the model is in."""
    inputs, targets = (torch.tensor(ids, dtype=torch.int64) for ids in tokens(model.config))
    model.zero_grad()
    logits_BTV = model(inputs)
    loss = OBJECTIVES[objective][1](logits_BTV, targets)
    loss.backward()
    return {"loss": loss, "logits": logits_BTV, **torch_gradients(model)}


def torch_gradients(module: torch.nn.Module) -> Arrays:
    """Gradients under the names and in the layout of `to_arrays`."""
    gradients = {}
    for name, parameter in module.named_parameters():
        owner = module.get_submodule(name.rpartition(".")[0])
        is_kernel = isinstance(owner, torch.nn.Linear) and name.endswith("weight")
        gradients[name] = to_numpy(parameter.grad.T if is_kernel else parameter.grad)
    return gradients


def worst_errors(actual: Arrays, expected: Arrays, dtype: str) -> tuple[float, float]:
    """The largest errors, in eps of max, of logits and loss, and of any gradient."""
    assert actual.keys() == expected.keys()
    errors = {name: error_in_eps(actual[name], expected[name], dtype) for name in expected}
    value_error = max(errors.pop("loss"), errors.pop("logits"))
    return value_error, max(errors.values())


def assert_results_agree(actual: Arrays, expected: Arrays, dtype: str) -> None:
    """Logits, loss and every gradient are within the tolerances."""
    value_error, gradient_error = worst_errors(actual, expected, dtype)
    assert value_error <= VALUE_EPS_OF_MAX
    assert gradient_error <= GRADIENT_EPS_OF_MAX


def assert_same_arrays(actual, expected):
    assert actual.keys() == expected.keys()
    for name in expected:
        assert_same(actual[name], expected[name], name)
