"""One training run in both frameworks: the same weights, batches and dropout masks, step for step.

Shapes: S steps, B batch, T time.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

import jaxloss.model5 as jax_model5
import torch_ref.model5 as torch_model5
from jaxloss.losses import next_token_loss
from jaxloss.model5 import Model5Config
from jaxloss.testing import EPS, Run, error_in_eps, inject_masks, move_by_one_eps, trainers
from jaxloss.testing.steps import as_factory
from jaxloss.testing.trainers import numerics_of
from torch_ref import training as torch_training
from torch_ref.losses import next_token_loss as torch_next_token_loss

CONFIG = Model5Config(vocab_size=61, context_length=16, embed_dim=32, num_heads=4, num_blocks=2)
BATCH_SIZE = 4
NUM_STEPS = 200

# The largest relative difference allowed in (the loss curve, the final weights) after `NUM_STEPS` of AdamW.
ALLOWED = {"float64": (1e-13, 1e-11), "float32": (5e-6, 1e-4)}


def loss_error(run: Run, other: Run) -> float:
    """The largest relative difference between two loss curves."""
    return float(np.max(np.abs(run.losses_S - other.losses_S) / np.abs(other.losses_S)))


def weight_error(run: Run, other: Run) -> float:
    """The largest difference between two sets of weights, relative to the largest weight of each array."""
    return max(
        error_in_eps(run.weights[name], array, "float64") * EPS["float64"]
        for name, array in other.weights.items()
    )


@cache
def initial_weights() -> dict[str, np.ndarray]:
    """Weights that float32 holds exactly, so that both dtypes start from the same numbers."""
    # Torch's: it draws them without compiling anything.
    generator = torch.Generator().manual_seed(0)
    return torch_model5.to_arrays(torch_model5.init_params(CONFIG, generator))


@cache
def batches() -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets [S, B, T] of a language in which most tokens follow from the one before."""
    rng = np.random.default_rng(1)
    follows = rng.permutation(CONFIG.vocab_size)
    stream = np.empty((NUM_STEPS, BATCH_SIZE, CONFIG.context_length + 1), np.int32)
    stream[..., 0] = rng.integers(CONFIG.vocab_size, size=stream.shape[:2])
    for t in range(CONFIG.context_length):
        random = rng.integers(CONFIG.vocab_size, size=stream.shape[:2])
        stream[..., t + 1] = np.where(rng.random(stream.shape[:2]) < 0.8, follows[stream[..., t]], random)
    return stream[..., :-1], stream[..., 1:]


@cache
def masks() -> Any:
    """The dropout masks of every step, [S, ...], from `fold_in(key, step)` as `make_train_step` does."""

    def of_step(step: jax.Array) -> Any:
        options = {"rngs": {"dropout": jax.random.fold_in(key(), step)}, "mutable": ["dropout_masks"]}
        variables = {"params": jax_params("float32")}
        _, collections = apply(variables, batches()[0][0], deterministic=False, **options)
        return collections["dropout_masks"]

    with jax.enable_x64(False):
        return jax.tree.map(np.asarray, jax.jit(jax.vmap(of_step))(jnp.arange(NUM_STEPS)))


def key() -> jax.Array:
    """The dropout key of the run."""
    return jax.random.key(2)


apply = jax_model5.Model5(CONFIG).apply


def jax_params(dtype: str, *, moved: bool = False) -> Any:
    """The initial parameters, or each of them moved by one eps up or down."""
    arrays = {name: array.astype(dtype) for name, array in initial_weights().items()}
    return jax_model5.from_arrays(move_by_one_eps(arrays, dtype) if moved else arrays, CONFIG)


@jax.jit
def loss_and_gradients(params: Any, inputs_BT: Any, targets_BT: Any, step: Any) -> Any:
    """Loss and gradients with the dropout of a step."""

    def loss(params: Any) -> jax.Array:
        rngs = {"dropout": jax.random.fold_in(key(), step)}
        logits_BTV = apply({"params": params}, inputs_BT, deterministic=False, rngs=rngs)
        return next_token_loss(logits_BTV, targets_BT)

    return jax.value_and_grad(loss)(params)


def train_jax(
    optimizer: optax.GradientTransformation, dtype: str, num_steps: int, *, moved: bool = False
) -> Run:
    """Train in JAX with any optimizer; only the optimizer is compiled anew."""
    with numerics_of(dtype):
        params = jax_params(dtype, moved=moved)
    given = [(*ids, np.int32(step)) for step, ids in enumerate(zip(*batches(), strict=True))][:num_steps]
    return trainers.train_jax(loss_and_gradients, optimizer, [params], given, dtype, jax_arrays)[0]


def torch_model(dtype: str) -> torch_model5.Model5:
    """The same initial weights in torch, in training mode."""
    arrays = {name: array.astype(dtype) for name, array in initial_weights().items()}
    return torch_model5.from_arrays(arrays, CONFIG).train()


def train_torch(
    make_optimizer: Callable[..., torch.optim.Optimizer],
    dtype: str,
    num_steps: int,
    *,
    clip: float | None = None,
    model: torch_model5.Model5 | None = None,
) -> Run:
    """Train in PyTorch with the masks that JAX draws."""

    def loss(model: torch_model5.Model5, inputs_BT: Any, targets_BT: Any, masks: Any) -> torch.Tensor:
        with inject_masks(model, masks):
            return torch_next_token_loss(model(inputs_BT), targets_BT)

    model = torch_model(dtype) if model is None else model
    given = [
        (*ids, jax.tree.map(lambda mask, step=step: mask[step], masks()))
        for step, ids in enumerate(zip(*batches(), strict=True))
    ][:num_steps]
    run = trainers.train_torch(loss, model, as_factory(make_optimizer), given, dtype, max_norm=clip)
    return Run(run.losses_S, _torch_arrays(model))


def clip_as_torch(max_norm: float) -> optax.GradientTransformation:
    """Gradient clipping as torch has it: with 1e-6 added to the norm, which optax leaves out."""

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        scale = jnp.minimum(
            1.0, max_norm / (jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(updates))) + 1e-6)
        )
        return jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


Optimizers = tuple[optax.GradientTransformation, Callable[..., torch.optim.Optimizer], float | None]

adamw = partial(optax.adamw, b1=0.9, b2=0.999, eps=1e-8)


# optax's and torch's; both clip where there is a number.
OPTIMIZERS: dict[str, Optimizers] = {
    "SGD": (optax.sgd(0.1), lambda p: torch.optim.SGD(p, lr=0.1), None),
    "SGD with momentum": (
        optax.sgd(0.1, momentum=0.9),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        None,
    ),
    "SGD with Nesterov momentum": (
        optax.sgd(0.1, momentum=0.9, nesterov=True),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
        None,
    ),
    "Adam": (optax.adam(1e-3), lambda p: torch.optim.Adam(p, lr=1e-3), None),
    "AdamW with clipped gradients": (
        optax.chain(clip_as_torch(0.1), adamw(1e-3, weight_decay=0.01)),
        torch_training.make_optimizer(),
        0.1,
    ),
}


def jax_arrays(params: Any) -> dict[str, np.ndarray]:
    """Parameters named and laid out as Hugging Face's GPT-2, without the keys' part of the attention bias.

    That part shifts all scores of a query alike, which the softmax undoes, so its gradient is zero but for
    rounding, and Adam divides that noise by its own size.
    """
    return _without_key_bias(jax_model5.to_arrays(params))


def _torch_arrays(model: torch_model5.Model5) -> dict[str, np.ndarray]:
    if model.head.weight is not model.wte.weight:
        model.head.weight = model.wte.weight
    return _without_key_bias(torch_model5.to_arrays(model))


def _without_key_bias(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    def kept(array: np.ndarray) -> np.ndarray:
        queries, _, values = np.split(array, 3)
        return np.concatenate([queries, values])

    return {
        name: kept(array) if name.endswith("attn.c_attn.bias") else array for name, array in arrays.items()
    }
