"""Two hundred steps of training end in the same place in both frameworks, and no known mistake does."""

from functools import cache

import jax
import numpy as np
import pytest
import torch

from jaxloss import training
from jaxloss.losses import next_token_loss
from jaxloss.testing import Run, compare_runs
from parity_tests import quick_compilation
from parity_tests.runs_parity import paired
from parity_tests.runs_parity.paired import ALLOWED
from torch_ref import training as torch_training

# Enough for every mistake below to show.
FEW_STEPS = 40


@pytest.fixture
def compiled_quickly():
    """For float64, whose tolerances are far above its rounding."""
    with quick_compilation.everywhere():
        yield


@cache
def torch_adamw(dtype: str, num_steps: int) -> Run:
    return paired.train_torch(torch_training.make_optimizer(), dtype, num_steps)


def train_with_make_train_step() -> tuple[Run, Run]:
    """Two float32 runs of `make_train_step`, from the initial weights and from ones moved by one eps."""
    train_step, optimizer = training.make_train_step(next_token_loss), training.make_optimizer()
    runs = []
    for moved in (False, True):
        params = paired.jax_params("float32", moved=moved)
        state = training.init_state(paired.apply, params, optimizer, batch_size=paired.BATCH_SIZE)
        losses = []
        for inputs_BT, targets_BT in zip(*paired.batches(), strict=True):
            state, loss, _ = train_step(state, inputs_BT, targets_BT, paired.key())
            losses.append(loss)
        runs.append(Run(np.asarray(losses, np.float64), paired.jax_arrays(state.params)))
    return runs[0], runs[1]


def assert_same_run(run: Run, moved: Run, expected: Run, dtype: str) -> None:
    report = compare_runs(run, expected, [moved], dtype)
    assert report.passed, report.text()
    assert len(report.comparisons) == 2 + len(expected.weights)
    assert run.losses_S[-10:].mean() < run.losses_S[0] - 0.2
    assert paired.loss_error(run, expected) <= ALLOWED[dtype][0]
    assert paired.weight_error(run, expected) <= ALLOWED[dtype][1]


def test_two_hundred_steps_of_adamw_in_float32_give_torchs_losses_and_weights():
    with paired.numerics_of("float32"):
        assert_same_run(*train_with_make_train_step(), torch_adamw("float32", paired.NUM_STEPS), "float32")


@pytest.mark.usefixtures("compiled_quickly")
def test_two_hundred_steps_of_adamw_in_float64_give_torchs_losses_and_weights():
    optimizer = training.make_optimizer()
    runs = [paired.train_jax(optimizer, "float64", paired.NUM_STEPS, moved=moved) for moved in (False, True)]
    assert_same_run(*runs, torch_adamw("float64", paired.NUM_STEPS), "float64")


@pytest.mark.usefixtures("compiled_quickly")
@pytest.mark.parametrize("name", paired.OPTIMIZERS)
def test_optimizer_gives_torchs_losses_and_weights(name):
    optimizer, make_torch, clip = paired.OPTIMIZERS[name]
    run = paired.train_jax(optimizer, "float64", FEW_STEPS)
    expected = paired.train_torch(make_torch, "float64", FEW_STEPS, clip=clip)
    assert paired.loss_error(run, expected) <= ALLOWED["float64"][0]
    assert paired.weight_error(run, expected) <= ALLOWED["float64"][1]


def test_fake_tying_is_seen():
    model = paired.torch_model("float64")
    model.head.weight = torch.nn.Parameter(model.wte.weight)
    run = paired.train_torch(torch_training.make_optimizer(), "float64", FEW_STEPS, model=model)
    expected = torch_adamw("float64", FEW_STEPS)
    assert paired.loss_error(run, expected) > 1e4 * ALLOWED["float64"][0]


def test_another_dropout_key_is_seen(monkeypatch):
    expected = torch_adamw("float64", FEW_STEPS)
    shifted = jax.tree.map(lambda mask: np.roll(mask, 1, axis=0), paired.masks())
    monkeypatch.setattr(paired, "masks", lambda: shifted)
    run = paired.train_torch(torch_training.make_optimizer(), "float64", FEW_STEPS)
    assert paired.loss_error(run, expected) > 1e4 * ALLOWED["float64"][0]
