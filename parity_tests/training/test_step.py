"""One update: the same in both frameworks, for both objectives, and harmless when it is not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxloss import linear_final_token_loss, losses, model5, training
from parity_tests.compare import assert_within
from parity_tests.training import tiny
from torch_ref import model5 as torch_model5
from torch_ref import training as torch_training


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
    alone = next(
        cell.cell_contents for cell in step.__closure__ if isinstance(cell.cell_contents, jax.stages.Wrapped)
    )
    program = alone.lower(state, inputs, targets, tiny.key()).compile().as_text()
    if jax.default_backend() == "cpu":
        assert program.count(" opt-barrier(") >= 2 * tiny.CONFIG.num_blocks
    assert_within(inside, step(state, inputs, targets, tiny.key())[1], 16, "float64")


def test_unknown_compute_dtype_is_refused_by_name():
    for make in (training.make_train_step, torch_training.make_train_step):
        with pytest.raises(ValueError, match=r"compute_dtype must be one of .*; got 'bf16'"):
            make(losses.next_token_loss, compute_dtype="bf16")


def test_users_own_loss_trains_the_model():
    def loss(logits_BTV, targets_BT):
        return jnp.mean(jax.nn.logsumexp(logits_BTV, axis=-1) ** 2)

    step, state, values = training.make_train_step(loss), tiny.jax_state(), []
    for i in range(5):
        state, value, _ = step(state, *tiny.batch(i), tiny.key())
        values.append(float(value))
    assert values[-1] < values[0]


def test_users_own_torch_loss_is_a_module():
    class ZLoss(torch.nn.Module):
        def forward(self, y_hat, y):
            return (torch.logsumexp(y_hat, dim=-1) ** 2).mean()

    step, state, values = torch_training.make_train_step(ZLoss()), tiny.torch_state(), []
    for i in range(5):
        state, value, _ = step(state, *tiny.batch(i), tiny.generator())
        values.append(value.item())
    assert values[-1] < values[0]


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
