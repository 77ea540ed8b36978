"""The loop: twenty steps as torch makes them, the same bits every time, resumed bits too, stopped by NaN."""

import dataclasses

import jax
import numpy as np
import pytest
import torch

from jaxloss import losses, model5, training
from jaxloss.data import sample_batch
from jaxloss.runs.measures import Estimate
from jaxloss.runs.stopping import NonFiniteLossError
from parity_tests.training import tiny
from torch_ref import training as torch_training

STEPS = 20


def run_jax(state, step, *, steps=STEPS, **options):
    return list(training.train(state, step, tiny.batch, tiny.key(), steps=steps, **options))


def run_torch(state, step, *, steps=STEPS, **options):
    return list(torch_training.train(state, step, tiny.batch, tiny.generator(), steps=steps, **options))


@pytest.mark.parametrize("objective", ["all", "final"])
def test_twenty_steps_have_torchs_losses(objective):
    ours = run_jax(tiny.jax_state(), tiny.jax_step(objective))
    theirs = run_torch(tiny.torch_state(), tiny.torch_step(objective))
    assert [progress.step for progress in ours] == list(range(STEPS + 1))
    assert [progress.step for progress in theirs] == list(range(STEPS + 1))
    for key in ("loss", "grad_norm"):
        np.testing.assert_allclose(
            [getattr(progress, key) for progress in ours[1:]],
            [getattr(progress, key) for progress in theirs[1:]],
            rtol=1e-12,
        )


@pytest.fixture(scope="module")
def dropout_apply():
    return model5.Model5(dataclasses.replace(tiny.CONFIG, dropout=0.1)).apply


def dropout_state(apply):
    return training.init_state(apply, tiny.params(), tiny.optimizer(), batch_size=tiny.BATCH_SIZE)


def weights(state):
    return jax.tree.map(np.array, state)


def test_two_runs_with_dropout_are_bit_identical(dropout_apply):
    first = run_jax(dropout_state(dropout_apply), tiny.jax_step("all"), steps=5)
    second = run_jax(dropout_state(dropout_apply), tiny.jax_step("all"), steps=5)
    assert [progress.loss for progress in first] == [progress.loss for progress in second]
    jax.tree.map(np.testing.assert_array_equal, weights(first[-1].state), weights(second[-1].state))


def test_resumed_run_with_dropout_is_bit_identical(dropout_apply):
    whole = run_jax(dropout_state(dropout_apply), tiny.jax_step("all"), steps=5)
    half = run_jax(dropout_state(dropout_apply), tiny.jax_step("all"), steps=2)
    rest = run_jax(half[-1].state, tiny.jax_step("all"), steps=5)
    assert [progress.loss for progress in rest[1:]] == [progress.loss for progress in whole[3:]]
    jax.tree.map(np.testing.assert_array_equal, weights(rest[-1].state), weights(whole[-1].state))


def test_dropout_changes_with_step_and_key(dropout_apply):
    found = set()
    for key in (jax.random.key(1), jax.random.key(2)):
        for step in (0, 1):
            state = dropout_state(dropout_apply)
            state = state.replace(step=state.step + step)
            found.add(float(tiny.jax_step("all")(state, *tiny.batch(0), key)[1]))
    assert len(found) == 4


def test_torch_run_with_dropout_is_bit_identical_and_leaves_the_global_generator_alone():
    def run():
        state = tiny.torch_state()
        for module in state.model.modules():
            if hasattr(module, "rate"):
                module.rate = 0.1
        return [progress.loss for progress in run_torch(state, tiny.torch_step("all"), steps=4)]

    torch.manual_seed(1)
    first = run()
    assert torch.equal(torch.rand(3), torch.manual_seed(1) and torch.rand(3))
    assert run() == first


def test_evaluates_before_after_and_every_so_many_steps():
    for run, state, step in (
        (run_jax, tiny.jax_state(), tiny.jax_step("all")),
        (run_torch, tiny.torch_state(), tiny.torch_step("all")),
    ):
        measured = {"all": Estimate(1.0, 0.1)}
        made = run(state, step, steps=7, evaluate=lambda state: measured, eval_every=3)  # noqa: B023
        assert [progress.step for progress in made if progress.test == measured] == [0, 3, 6, 7]


def test_nan_stops_the_run_naming_the_step_with_the_last_good_weights():
    def sample(step):
        inputs, targets = tiny.batch(step)
        return (np.full_like(inputs, tiny.CONFIG.vocab_size) if step == 3 else inputs), targets

    run = training.train(tiny.jax_state(), tiny.jax_step("all"), sample, tiny.key(), steps=STEPS)
    with pytest.raises(NonFiniteLossError, match="the loss is nan at step 4") as caught:
        list(run)
    assert caught.value.step == 4
    before = run_jax(tiny.jax_state(), tiny.jax_step("all"), steps=3)[-1].state
    jax.tree.map(np.testing.assert_array_equal, weights(caught.value.state), weights(before))


def test_torch_nan_stops_the_run_naming_the_step():
    broken = torch_training.make_train_step(lambda logits, targets: logits.mean() * torch.nan)
    with pytest.raises(NonFiniteLossError, match="the loss is nan at step 1") as caught:
        run_torch(tiny.torch_state(), broken)
    assert caught.value.state.step == 0


def test_leaving_out_log_softmax_before_nll_loss_breaks_training():
    """The model returns logits: nll_loss on them falls forever, by making them grow."""

    skewed = 1.0 / np.arange(1, tiny.CONFIG.vocab_size + 1) ** 1.5
    rng = np.random.default_rng(0)
    tokens = rng.choice(tiny.CONFIG.vocab_size, 2000, p=skewed / skewed.sum()).astype(np.uint16)
    fast = training.make_optimizer(learning_rate=0.01)

    def sample(step):
        size = {"batch_size": tiny.BATCH_SIZE, "context_length": tiny.CONFIG.context_length}
        return sample_batch(tokens, **size, seed=0, step=step)

    def train_with(step):
        state = training.init_state(tiny.apply_fn(), tiny.params(), fast, batch_size=tiny.BATCH_SIZE)
        *_, last = training.train(state, step, sample, tiny.key(), steps=80)
        inputs_BT, targets_BT = sample(1000)
        logits_BTV = tiny.logits(last.state.params, inputs_BT)
        return last.loss, float(losses.next_token_loss(logits_BTV, targets_BT))

    uniform = np.log(tiny.CONFIG.vocab_size)
    _, right = train_with(tiny.jax_step("all"))
    wrong_loss, wrong = train_with(training.make_train_step(lambda logits, y: losses.nll_loss(logits, y)))
    assert right < uniform - 0.5
    assert wrong_loss < -10
    assert wrong > uniform


def test_step_takes_time():
    assert all(
        progress.seconds > 0 for progress in run_jax(tiny.jax_state(), tiny.jax_step("all"), steps=2)[1:]
    )
