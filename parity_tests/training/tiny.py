"""A Model 5 small enough to train in a test, in both frameworks, from the same weights."""

from functools import cache, partial

import jax
import numpy as np
import torch

import jaxloss
from jaxloss import model5, training
from jaxloss.data import sample_batch
from jaxloss.model5 import Model5Config
from torch_ref import fused as torch_fused
from torch_ref import losses as torch_losses
from torch_ref import model5 as torch_model5
from torch_ref import training as torch_training

CONFIG = Model5Config(
    vocab_size=31, context_length=8, embed_dim=16, num_heads=2, num_blocks=1, dropout=0.0, logit_scale=1.0
)
BATCH_SIZE = 4
TOKENS = np.random.default_rng(0).integers(0, CONFIG.vocab_size, 500).astype(np.uint16)
OBJECTIVES = {  # name of the loss, what the step has to know
    "all": ("linear_next_token_loss", {"from_hidden": True}),
    "final": ("linear_final_token_loss", {"from_hidden": True, "logits_to_keep": 1}),
    "all, logits": ("next_token_loss", {}),
    "final, logits": ("final_token_loss", {}),
}


def batch(step: int, seed: int = 0):
    """The batch of a step."""
    return sample_batch(
        TOKENS, batch_size=BATCH_SIZE, context_length=CONFIG.context_length, seed=seed, step=step
    )


@cache
def params(dtype: str = "float64"):
    """Initial parameters."""
    drawn = model5.init_params(CONFIG, jax.random.key(0))
    return jax.tree.map(lambda leaf: leaf.astype(dtype), drawn)


def torch_model(dtype: str = "float64"):
    """A torch model with the same parameters."""
    return torch_model5.from_arrays(model5.to_arrays(params(dtype)), CONFIG)


@cache
def jax_step(objective: str, compute_dtype: str | None = None):
    """The compiled step, made once for all tests."""
    name, options = OBJECTIVES[objective]
    # So few tokens would go through the reference otherwise.
    chunked = {"implementation": "chunked", "chunk_size": 8} if options else {}
    loss = partial(getattr(jaxloss, name), **chunked)
    return training.make_train_step(loss, compute_dtype=compute_dtype, **options)


@cache
def apply_fn():
    """One bound method, so that all states share the compiled step."""
    return model5.Model5(CONFIG).apply


@jax.jit
def logits(params, inputs_BT):
    """The model's logits without dropout: a program, where `apply` alone would compile every operation."""
    return apply_fn()({"params": params}, inputs_BT)


@cache
def optimizer():
    """One optimizer, likewise."""
    return training.make_optimizer()


def jax_state(dtype: str = "float64"):
    """A fresh state."""
    return training.init_state(apply_fn(), params(dtype), optimizer(), batch_size=BATCH_SIZE)


def torch_step(objective: str, compute_dtype: str | None = None):
    """The torch step."""
    name, options = OBJECTIVES[objective]
    module = torch_fused if options else torch_losses
    return torch_training.make_train_step(getattr(module, name), compute_dtype=compute_dtype, **options)


def torch_state(dtype: str = "float64"):
    """A fresh torch state."""
    return torch_training.init_state(
        torch_model(dtype), torch_training.make_optimizer(), batch_size=BATCH_SIZE
    )


def run_jax(state, train_step, *, steps, batch=batch):
    """Train to step `steps`: the state then, and each step's loss and gradient norm."""
    measured = []
    for step in range(int(state.step), steps):
        state, loss, norm = train_step(state, *batch(step), key())
        measured.append((float(loss), float(norm)))
    return state, measured


def run_torch(state, train_step, *, steps):
    """The same in torch."""
    measured = []
    for step in range(state.step, steps):
        state, loss, norm = train_step(state, *batch(step), generator())
        measured.append((loss.item(), norm.item()))
    return state, measured


def key():
    """Dropout's key."""
    return jax.random.key(7)


def generator():
    """Dropout's generator."""
    return torch.Generator().manual_seed(7)
