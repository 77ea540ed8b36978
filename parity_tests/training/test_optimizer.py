"""AdamW is torch's AdamW, weight decay included."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from jaxloss import training
from jaxloss.runs.settings import TrainConfig
from parity_tests.compare import assert_within
from torch_ref import training as torch_training


def _jax_path(optimizer, weights, grads):
    params = jnp.asarray(weights)
    state = optimizer.init(params)
    for grad in grads:
        updates, state = optimizer.update(jnp.asarray(grad), state, params)
        params = optax.apply_updates(params, updates)
    return params


def _torch_path(make, weights, grads):
    parameter = torch.nn.Parameter(torch.tensor(weights))
    optimizer = make([parameter])
    for grad in grads:
        parameter.grad = torch.tensor(grad)
        optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize("settings", [{}, {"learning_rate": 0.1, "weight_decay": 0.3}])
def test_updates_are_torchs(settings):
    rng = np.random.default_rng(0)
    weights, grads = rng.normal(size=40), rng.normal(size=(20, 40)) * np.logspace(-12, 2, 40)
    moved = _jax_path(training.make_optimizer(**settings), weights, grads)
    expected = _torch_path(torch_training.make_optimizer(**settings), weights, grads)
    assert_within(moved, expected, 16, "float64")


def test_weight_decay_is_a_hundredth_in_both():
    """Without a gradient, a weight shrinks by learning rate times weight decay; optax's default is 1e-4."""
    weights, grads = np.ones(3), np.zeros((1, 3))
    for moved in (
        _jax_path(training.make_optimizer(), weights, grads),
        _torch_path(torch_training.make_optimizer(), weights, grads),
    ):
        np.testing.assert_allclose(moved, 1 - 1e-3 * 0.01, rtol=1e-15)


def test_defaults_are_the_config_defaults():
    config = TrainConfig()
    for make in (training.make_optimizer, torch_training.make_optimizer):
        parameters = inspect.signature(make).parameters
        assert parameters["learning_rate"].default == config.learning_rate == 1e-3
        assert parameters["weight_decay"].default == config.weight_decay == 0.01


def test_optimizer_works_in_float32_under_jit():
    optimizer = training.make_optimizer()
    params = jnp.ones(3, jnp.float32)
    updates, _ = jax.jit(optimizer.update)(params, optimizer.init(params), params)
    assert updates.dtype == jnp.float32


def test_kernels_alone_decay_if_asked():
    params = {"wte": {"embedding": np.ones((2, 2))}, "ln": {"scale": np.ones(2)}}
    params["mlp"] = {"kernel": np.ones((2, 2)), "bias": np.ones(2)}
    nothing = jax.tree.map(np.zeros_like, params)
    optimizer = training.make_optimizer(0.1, 0.5, decay="kernels")
    updates, _ = optimizer.update(nothing, optimizer.init(params), params)
    np.testing.assert_allclose(updates["mlp"].pop("kernel"), -0.05)
    assert not any(leaf.any() for leaf in jax.tree.leaves(updates))
