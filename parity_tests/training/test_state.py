"""Training starts from a copy of the caller's weights."""

import dataclasses

import jax
import numpy as np
import pytest
import torch

from jaxloss import losses, model5, training
from jaxloss.runs.settings import TrainConfig
from parity_tests.compare import assert_same
from parity_tests.training import tiny
from torch_ref import training as torch_training


def test_state_starts_at_step_0_with_the_given_weights():
    state, torch_state = tiny.jax_state(), tiny.torch_state()
    assert int(state.step) == torch_state.step == 0
    assert_same(state.params["wte"]["embedding"], torch_state.model.wte.weight)


def test_training_leaves_the_callers_weights_alone():
    before = jax.tree.map(np.array, tiny.params())
    tiny.jax_step("all")(tiny.jax_state(), *tiny.batch(0), tiny.key())
    # A donated buffer would be deleted, and reading it would raise.
    jax.tree.map(np.testing.assert_array_equal, tiny.params(), before)


@pytest.mark.parametrize("restored", ["state", "params", "averages"])
def test_a_state_read_from_a_file_as_numpy_trains_and_is_left_alone(restored):
    state, batch = tiny.jax_state(), tiny.batch(0)
    read = jax.tree.map(np.array, state)
    if restored != "state":
        field = {"params": "params", "averages": "opt_state"}[restored]
        read = state.replace(**{field: getattr(read, field)})
    before = jax.tree.map(np.array, read)
    trained, *measured = tiny.jax_step("all")(read, *batch, tiny.key())
    assert measured == list(tiny.jax_step("all")(tiny.jax_state(), *batch, tiny.key())[1:])
    assert int(trained.step) == 1
    field = "opt_state" if restored == "averages" else "params"
    jax.tree.map(assert_same, getattr(read, field), getattr(before, field))
    if restored == "state":
        eval_step = training.make_eval_step({"all": losses.next_token_loss})
        measured = [training.evaluate(s, eval_step, *batch, batch_size=4) for s in (read, tiny.jax_state())]
        assert measured[0] == measured[1]


def test_training_leaves_the_callers_model_alone():
    model = tiny.torch_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch_training.init_state(model, torch_training.make_optimizer(), batch_size=tiny.BATCH_SIZE)
    tiny.torch_step("all")(state, *tiny.batch(0), tiny.generator())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_torch_copy_keeps_the_head_tied():
    model = tiny.torch_state().model
    assert model.head.weight is model.wte.weight


@pytest.mark.parametrize("settings", [{}, {"schedule": "cosine", "clip_norm": 1.0, "decay": "kernels"}])
def test_states_of_equal_models_and_settings_share_a_compiled_step(settings):
    first, second = (
        training.init_state(
            model5.Model5(dataclasses.replace(tiny.CONFIG)).apply,
            tiny.params(),
            TrainConfig(**settings).optimizer(),
            batch_size=tiny.BATCH_SIZE,
        )
        for _ in range(2)
    )
    assert jax.tree.structure(first) == jax.tree.structure(second)
    other = first.replace(tx=TrainConfig(**settings | {"weight_decay": 0.5}).optimizer())
    assert jax.tree.structure(first) != jax.tree.structure(other)


def test_an_array_may_be_the_learning_rate():
    assert training.make_optimizer(np.float32(0.1)) is training.make_optimizer(np.float32(0.1))
    assert training.make_optimizer(jax.numpy.float32(0.1)).init(tiny.params())
