"""The test loss: dropout off, every crop once, the frameworks agreeing."""

import dataclasses

import jax
import numpy as np
import pytest
import torch

import jaxloss
from jaxloss import losses, model5, training
from parity_tests.compare import assert_within
from parity_tests.training import tiny
from torch_ref import fused as torch_fused
from torch_ref import losses as torch_losses
from torch_ref import training as torch_training

CROPS = tuple(
    np.concatenate(arrays) for arrays in zip(*(tiny.batch(i, seed=1) for i in range(3)), strict=True)
)
NAMES = {"all": "next_token_loss", "final": "final_token_loss"}


@pytest.fixture(scope="module")
def eval_step():
    return training.make_eval_step({name: getattr(losses, loss) for name, loss in NAMES.items()})


@pytest.fixture(scope="module")
def torch_eval_step():
    return torch_training.make_eval_step({name: getattr(torch_losses, loss) for name, loss in NAMES.items()})


@pytest.mark.parametrize("num_crops", [12, 10, 3])
def test_losses_and_errors_are_torchs_whatever_the_last_batch_holds(eval_step, torch_eval_step, num_crops):
    crops = [array[:num_crops] for array in CROPS]
    ours = training.evaluate(tiny.jax_state(), eval_step, *crops, batch_size=4)
    theirs = torch_training.evaluate(tiny.torch_state(), torch_eval_step, *crops, batch_size=4)
    for name in NAMES:
        assert_within(np.array(ours[name]), np.array(theirs[name]), 64, "float64", what=name)


def test_hidden_states_and_head_measure_what_logits_do(eval_step):
    linear = {name: f"linear_{loss}" for name, loss in NAMES.items()}
    fused = training.make_eval_step(
        {n: getattr(jaxloss, loss) for n, loss in linear.items()}, from_hidden=True
    )
    torch_step = torch_training.make_eval_step(
        {name: getattr(torch_fused, loss) for name, loss in linear.items()}, from_hidden=True
    )
    inputs, targets = CROPS[0], CROPS[1].copy()
    targets[::2, 1:4] = -100  # a crop's mean is over the positions that count
    expected = training.evaluate(tiny.jax_state(), eval_step, inputs, targets, batch_size=4)
    ours = training.evaluate(tiny.jax_state(), fused, inputs, targets, batch_size=4)
    theirs = torch_training.evaluate(tiny.torch_state(), torch_step, inputs, targets, batch_size=4)
    for name in NAMES:
        assert_within(np.array(ours[name]), np.array(expected[name]), 64, "float64", what=name)
        assert_within(np.array(theirs[name]), np.array(expected[name]), 64, "float64", what=name)


def test_loss_is_that_of_all_crops_at_once(eval_step):
    measured = training.evaluate(tiny.jax_state(), eval_step, *CROPS, batch_size=4)
    logits = tiny.logits(tiny.params(), CROPS[0])
    assert measured["all"].mean == pytest.approx(float(losses.next_token_loss(logits, CROPS[1])), rel=1e-12)
    each = losses.final_token_loss(logits, CROPS[1], reduction="none")
    assert measured["final"].mean == pytest.approx(float(each.mean()), rel=1e-12)
    assert measured["final"].standard_error == pytest.approx(float(each.std(ddof=1)) / 12**0.5, rel=1e-12)


def test_estimate_is_the_mean_and_its_standard_error():
    values = np.random.default_rng(0).normal(size=100)
    for estimate_of, array in ((training.Estimate.of, np.array), (torch_training.Estimate.of, torch.tensor)):
        expected = values.mean(), values.std(ddof=1) / 10
        assert estimate_of(array(values)) == pytest.approx(expected, rel=1e-14)
        assert np.isnan(estimate_of(array([1.0])).standard_error)


def test_untrained_model_is_as_uncertain_as_a_uniform_one(eval_step):
    config = dataclasses.replace(tiny.CONFIG, logit_scale=None)
    state = training.init_state(
        model5.Model5(config).apply, tiny.params(), tiny.optimizer(), batch_size=tiny.BATCH_SIZE
    )
    measured = training.evaluate(state, eval_step, *CROPS, batch_size=4)
    assert measured["all"].mean == pytest.approx(np.log(config.vocab_size), abs=0.02)


def test_dropout_is_off(eval_step):
    config = dataclasses.replace(tiny.CONFIG, dropout=0.5)
    state = training.init_state(
        model5.Model5(config).apply, tiny.params(), tiny.optimizer(), batch_size=tiny.BATCH_SIZE
    )
    with_dropout = training.evaluate(state, eval_step, *CROPS, batch_size=4)
    without = training.evaluate(tiny.jax_state(), eval_step, *CROPS, batch_size=4)
    assert with_dropout == without


def test_torch_dropout_is_off_and_the_mode_comes_back(torch_eval_step):
    state = tiny.torch_state()
    for module in state.model.modules():
        if hasattr(module, "rate"):
            module.rate = 0.5
    state.model.train()
    measured = torch_training.evaluate(state, torch_eval_step, *CROPS, batch_size=4)
    assert state.model.training
    assert measured == torch_training.evaluate(tiny.torch_state(), torch_eval_step, *CROPS, batch_size=4)
    assert all(parameter.grad is None for parameter in state.model.parameters())


def test_evaluation_leaves_the_state_usable(eval_step):
    state = tiny.jax_state()
    training.evaluate(state, eval_step, *CROPS, batch_size=4)
    assert np.isfinite(float(jax.tree.leaves(state.params)[0].sum()))
    assert torch.is_grad_enabled()
