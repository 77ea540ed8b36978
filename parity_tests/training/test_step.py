"""Updates: the same in both frameworks, for both objectives, every time, and harmless when not finite."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from jaxloss import linear_final_token_loss, losses, model5, training
from jaxloss.data import sample_batch
from parity_tests.compare import assert_within
from parity_tests.training import tiny
from torch_ref import model5 as torch_model5
from torch_ref import training as torch_training
from torch_ref.training import step as torch_step


@pytest.mark.parametrize("objective", tiny.OBJECTIVES)
def test_step_gives_torchs_loss_gradient_norm_and_weights(objective):
    state, loss, norm = tiny.jax_step(objective)(tiny.jax_state(), *tiny.batch(0), tiny.key())
    torch_state, torch_loss, torch_norm = tiny.torch_step(objective)(
        tiny.torch_state(), *tiny.batch(0), tiny.generator()
    )
    assert_within(loss, torch_loss, 16, "float64", what="loss")
    assert_within(norm, torch_norm, 64, "float64", what="gradient norm")
    expected = torch_model5.to_arrays(torch_state.model)
    for name, array in model5.to_arrays(state.params).items():
        if not name.endswith("attn.c_attn.bias"):
            # Adam divides each gradient by its own size, so rounding in small ones counts in full.
            np.testing.assert_allclose(array, expected[name], atol=1e-9, err_msg=name)


def test_torchs_norm_takes_gradients_without_entries_or_none():
    norm = torch_step._norm
    assert norm([]) == 0
    assert norm([torch.zeros(0), torch.ones(2)]) == pytest.approx(2**0.5)
    assert norm([torch.ones(1), torch.tensor([torch.nan])]).isnan()


@pytest.mark.parametrize("objective", ["all", "final"])
def test_twenty_steps_have_torchs_losses_and_gradient_norms(objective):
    state, ours = tiny.run_jax(tiny.jax_state(), tiny.jax_step(objective), steps=20)
    torch_state, theirs = tiny.run_torch(tiny.torch_state(), tiny.torch_step(objective), steps=20)
    assert int(state.step) == torch_state.step == 20
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.fixture(scope="module")
def dropout_apply():
    return model5.Model5(dataclasses.replace(tiny.CONFIG, dropout=0.1)).apply


def dropout_state(apply):
    return training.init_state(apply, tiny.params(), tiny.optimizer(), batch_size=tiny.BATCH_SIZE)


def test_runs_with_dropout_are_bit_identical_resumed_or_not(dropout_apply):
    step = tiny.jax_step("all")
    first, losses = tiny.run_jax(dropout_state(dropout_apply), step, steps=5)
    second, same_losses = tiny.run_jax(dropout_state(dropout_apply), step, steps=5)
    half, half_losses = tiny.run_jax(dropout_state(dropout_apply), step, steps=2)
    resumed, rest = tiny.run_jax(half, step, steps=5)
    assert losses == same_losses == half_losses + rest
    jax.tree.map(np.testing.assert_array_equal, arrays(first), arrays(second))
    jax.tree.map(np.testing.assert_array_equal, arrays(first), arrays(resumed))


def arrays(state):
    return jax.tree.map(np.array, state)


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
        return tiny.run_torch(state, tiny.torch_step("all"), steps=4)[1]

    torch.manual_seed(1)
    first = run()
    assert torch.equal(torch.rand(3), torch.manual_seed(1) and torch.rand(3))
    assert run() == first


def test_leaving_out_log_softmax_before_nll_loss_breaks_training():
    """The model returns logits: nll_loss on them falls forever, by making them grow."""
    skewed = 1.0 / np.arange(1, tiny.CONFIG.vocab_size + 1) ** 1.5
    rng = np.random.default_rng(0)
    tokens = rng.choice(tiny.CONFIG.vocab_size, 2000, p=skewed / skewed.sum()).astype(np.uint16)
    fast = training.make_optimizer(learning_rate=0.01)

    def batch(step):
        size = {"batch_size": tiny.BATCH_SIZE, "context_length": tiny.CONFIG.context_length}
        return sample_batch(tokens, **size, seed=0, step=step)

    def train_with(train_step):
        state = training.init_state(tiny.apply_fn(), tiny.params(), fast, batch_size=tiny.BATCH_SIZE)
        state, measured = tiny.run_jax(state, train_step, steps=80, batch=batch)
        inputs_BT, targets_BT = batch(1000)
        logits_BTV = tiny.logits(state.params, inputs_BT)
        return measured[-1][0], float(losses.next_token_loss(logits_BTV, targets_BT))

    uniform = np.log(tiny.CONFIG.vocab_size)
    _, right = train_with(tiny.jax_step("all"))
    wrong_loss, wrong = train_with(training.make_train_step(lambda logits, y: losses.nll_loss(logits, y)))
    assert right < uniform - 0.5
    assert wrong_loss < -10
    assert wrong > uniform


@pytest.mark.parametrize("objective", ["all", "final"])
def test_hidden_states_and_head_train_as_all_logits_do(objective):
    whole = tiny.jax_step(f"{objective}, logits")
    state, loss, norm = whole(tiny.jax_state(), *tiny.batch(0), tiny.key())
    short_state, short_loss, short_norm = tiny.jax_step(objective)(
        tiny.jax_state(), *tiny.batch(0), tiny.key()
    )
    assert_within(short_loss, loss, 16, "float64")
    assert_within(short_norm, norm, 64, "float64")
    np.testing.assert_allclose(
        short_state.params["wte"]["embedding"], state.params["wte"]["embedding"], atol=1e-9
    )


@pytest.mark.parametrize("objective", ["all", "final"])
def test_bfloat16_pass_leaves_weights_in_float32_and_errs_no_more_than_torchs(objective):
    _, loss, norm = tiny.jax_step(objective)(tiny.jax_state(), *tiny.batch(0), tiny.key())
    state, bf16_loss, bf16_norm = tiny.jax_step(objective, "bfloat16")(
        tiny.jax_state("float32"), *tiny.batch(0), tiny.key()
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    torch_state, torch_loss, torch_norm = tiny.torch_step(objective, "bfloat16")(
        tiny.torch_state("float32"), *tiny.batch(0), tiny.generator()
    )
    assert {p.dtype for p in torch_state.model.parameters()} == {torch.float32}
    for ours, theirs, truth in ((bf16_loss, torch_loss, loss), (bf16_norm, torch_norm, norm)):
        # Half a unit in the last of bfloat16's eight bits is 2^-9 of a value.
        assert abs(float(ours) - float(truth)) < 2**-8 * float(truth)
        assert abs(theirs.item() - float(truth)) < 2**-7 * float(truth)
    assert float(bf16_loss) != float(loss)


def test_step_keeps_residual_sums_in_memory_and_works_inside_another_jit():
    state, (inputs, targets) = tiny.jax_state(), tiny.batch(0)
    step = tiny.jax_step("all")
    inside = jax.jit(lambda key: step(state, inputs, targets, key)[1])(tiny.key())
    if jax.default_backend() == "cpu":
        program = step.lower(state, inputs, targets, tiny.key()).compile().as_text()
        assert program.count(" opt-barrier(") >= 2 * tiny.CONFIG.num_blocks
    assert_within(inside, step(state, inputs, targets, tiny.key())[1], 16, "float64")


def test_unknown_compute_dtype_is_refused_by_name():
    for make in (training.make_train_step, torch_training.make_train_step):
        with pytest.raises(ValueError, match=r"compute_dtype must be one of .*; got 'bf16'"):
            make(losses.next_token_loss, compute_dtype="bf16")


def test_users_own_loss_trains_the_model():
    step = training.make_train_step(lambda logits, targets: jnp.mean(jax.nn.logsumexp(logits, axis=-1) ** 2))
    _, measured = tiny.run_jax(tiny.jax_state(), step, steps=5)
    assert measured[-1] < measured[0]


def test_users_own_torch_loss_is_a_module():
    class ZLoss(torch.nn.Module):
        def forward(self, y_hat, y):
            return (torch.logsumexp(y_hat, dim=-1) ** 2).mean()

    _, measured = tiny.run_torch(tiny.torch_state(), torch_training.make_train_step(ZLoss()), steps=5)
    assert measured[-1] < measured[0]


def test_step_with_a_loss_that_is_not_finite_leaves_the_state_as_it_was():
    inputs, targets = tiny.batch(0)
    outside = np.full_like(inputs, tiny.CONFIG.vocab_size)
    _assert_refused(tiny.jax_step("all"), outside, targets)


def test_step_with_a_gradient_that_is_not_finite_leaves_the_state_as_it_was():
    # sqrt has the value 0 and an infinite gradient at 0.
    step = training.make_train_step(lambda logits_BTV, targets_BT: jnp.sqrt(0 * logits_BTV.mean()))
    assert _assert_refused(step, *tiny.batch(0)) == 0


def _assert_refused(step, inputs_BT, targets_BT):
    before = jax.tree.map(np.array, tiny.jax_state())
    state, loss, norm = step(tiny.jax_state(), inputs_BT, targets_BT, tiny.key())
    assert not np.isfinite([loss, norm]).all()
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.array, state), before)
    return float(loss)


# The squares of the gradients overflow float32, or vanish in it.
@pytest.mark.parametrize("size", [1e25, 1e-25])
def test_norm_of_a_finite_gradient_is_finite_and_the_step_is_made(size):
    def loss(logits, targets):
        return size * logits[..., 0].mean()

    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(3).astype(np.float32) for name in ("a", "b")}
    x_BT = np.ones((4, 1), np.int32)
    state = training.init_state(
        lambda params, x: x[..., None] * (params["a"] + params["b"]),
        weights,
        optax.sgd(1 / size),
        batch_size=4,
    )
    state, _, norm = training.make_train_step(loss)(state, x_BT, x_BT, tiny.key())
    assert float(norm) == pytest.approx(np.sqrt(2) * size, rel=1e-6)
    assert int(state.step) == 1
    assert_within(state.params["a"], weights["a"] - [1, 0, 0], 4, "float32")

    torch_state = tiny.torch_state("float32")
    step = torch_training.make_train_step(lambda logits, targets: size * logits[..., 0].mean())
    torch_state, _, torch_norm = step(torch_state, *tiny.batch(0), tiny.generator())
    grads = [p.grad.double() for p in torch_state.model.parameters()]
    assert torch_norm.item() == pytest.approx(torch.nn.utils.get_total_norm(grads).item(), rel=1e-6)
    assert torch_state.step == 1


def test_torch_step_that_is_not_finite_leaves_the_state_as_it_was():
    step = torch_training.make_train_step(lambda logits, targets: logits.mean() * torch.nan)
    state = tiny.torch_state()
    before = state.model.wte.weight.detach().clone()
    state, loss, _ = step(state, *tiny.batch(0), tiny.generator())
    assert loss.isnan()
    assert state.step == 0
    assert torch.equal(state.model.wte.weight, before)


def test_step_compiles_once():
    state, traces = tiny.jax_state(), []

    def counted(*arguments, **options):
        traces.append(1)
        return linear_final_token_loss(*arguments, **options)

    step = training.make_train_step(counted, from_hidden=True, logits_to_keep=1)
    for i in range(3):
        state, _, _ = step(state, *tiny.batch(i), tiny.key())
    assert len(traces) == 1
