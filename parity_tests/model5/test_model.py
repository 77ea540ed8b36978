"""Model 5 and each of its layers against `torch_ref`, and what must hold on both sides."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

import jaxloss.model5 as jax_side
import torch_ref.model5 as torch_side
from jaxloss.model5 import GPT2, MODEL5, Model5, Model5Config
from parity_tests.compare import assert_same, assert_within
from parity_tests.model5.pairs import (
    DTYPES,
    OBJECTIVES,
    TINY,
    assert_results_agree,
    jax_params,
    jax_results,
    tokens,
    torch_gradients,
    torch_model,
    torch_results,
)
from parity_tests.quick_compilation import jit
from parity_tests.tolerances import GRADIENT_EPS_OF_MAX, VALUE_EPS_OF_MAX

LAYERS = {
    "attn": (jax_side.Attention(TINY), lambda block: block.attn, lambda params: params["attn"]),
    "mlp": (jax_side.MLP(TINY), lambda block: block.mlp, lambda params: params["mlp"]),
    "block": (jax_side.Block(TINY), lambda block: block, lambda params: params),
}
TANH = dataclasses.replace(TINY, activation="gelu_tanh", logit_scale=1.0)


@partial(jax.jit, static_argnames="method")
def forward(params, x, method="__call__"):
    return Model5(TINY).apply({"params": params}, x, method=method)


def random_input(dtype, shape=(3, 16, 32), seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layer", LAYERS)
def test_layer_value_and_gradients_match_torch(layer, dtype):
    jax_layer, of_block, of_params = LAYERS[layer]
    x_BTD, cotangent_BTD = random_input(dtype), random_input(dtype, seed=2)

    params = of_params(jax_params(dtype)["h_0"])
    y_BTD, pull_back = jax.vjp(jax.jit(lambda p, x: jax_layer.apply({"params": p}, x)), params, x_BTD)
    params_gradient, x_gradient = pull_back(jnp.asarray(cotangent_BTD))

    torch_layer = of_block(torch_model(dtype).h[0])
    torch_x = torch.tensor(x_BTD, requires_grad=True)
    torch_y = torch_layer(torch_x)
    torch_y.backward(torch.tensor(cotangent_BTD))

    assert_within(y_BTD, torch_y, VALUE_EPS_OF_MAX)
    assert_within(x_gradient, torch_x.grad, GRADIENT_EPS_OF_MAX)
    expected = torch_gradients(torch_layer)
    actual = jax_side.to_arrays(params_gradient)
    assert actual.keys() == expected.keys()
    for name in expected:
        assert_within(actual[name], expected[name], GRADIENT_EPS_OF_MAX, what=name)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_model_value_and_gradients_match_torch(dtype, objective):
    actual = jax_results(jax_params(dtype), objective=objective)
    expected = torch_results(torch_model(dtype), objective=objective)
    assert actual["logits"].dtype == dtype
    assert_results_agree(actual, expected, dtype)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_float32_is_as_close_to_the_float64_truth_on_both_sides(objective):
    truth = torch_results(torch_model("float64"), objective=objective)
    for results in (
        jax_results(jax_params("float32"), objective=objective),
        torch_results(torch_model("float32"), objective=objective),
    ):
        assert_results_agree(results, truth, "float32")


def test_model_with_the_options_of_gpt2_checkpoints_matches_torch():
    actual = jax_results(jax_params("float64", config=TANH), config=TANH)
    assert_results_agree(actual, torch_results(torch_model("float64", TANH)), "float64")


def test_torch_attention_written_out_for_masks_is_scaled_dot_product_attention():
    attention = torch_model("float64").h[0].attn
    q, k, v = torch.tensor(random_input("float64", (3, 2, 4, 16, 8))).unbind(0)
    attention.attn_dropout.mask = torch.ones(2, 4, 16, 16, dtype=torch.bool)
    visible = torch.ones(16, 16, dtype=torch.bool).tril()
    actual = attention.train()._attend_with_mask(q, k, v, visible) * (1 - TINY.dropout)
    assert_within(actual, F.scaled_dot_product_attention(q, k, v, is_causal=True), VALUE_EPS_OF_MAX)


def test_logits_depend_on_no_later_position():
    inputs, _ = tokens()
    cotangent_BTV = random_input("float64", (*inputs.shape, TINY.vocab_size))
    params = jax_params("float64")

    def jax_outputs(wpe):
        logits = Model5(TINY).apply({"params": params | {"wpe": {"embedding": wpe}}}, inputs)
        return (logits * cotangent_BTV).sum((0, 2))

    model = torch_model("float64")

    def torch_outputs(wpe):
        logits = torch.func.functional_call(model, {"wpe.weight": wpe}, (torch.tensor(inputs),))
        return (logits * torch.tensor(cotangent_BTV)).sum((0, 2))

    jacobians = (
        jit(jax.jacrev(jax_outputs))(params["wpe"]["embedding"]),
        torch.autograd.functional.jacobian(torch_outputs, model.wpe.weight.detach()),
    )
    for jacobian_TSD in map(np.asarray, jacobians):
        depends_TS = (jacobian_TSD != 0).any(-1)
        assert_same(depends_TS, np.tri(TINY.context_length, dtype=bool))


def test_float64_parameters_are_computed_with_in_float64_throughout():
    jaxpr = jax.make_jaxpr(lambda p: Model5(TINY).apply({"params": p}, tokens()[0]))(jax_params("float64"))
    assert "f32[" not in str(jaxpr)


def test_bfloat16_parameters_give_bfloat16_logits_near_the_float32_ones():
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), jax_params("float32"))
    actual = forward(rounded, tokens()[0])
    assert actual.dtype == jnp.bfloat16
    expected = torch_side.from_arrays(jax_side.to_arrays(rounded), TINY)(torch.tensor(tokens()[0]))
    assert_within(actual, expected, 8, "bfloat16")


def test_hidden_then_logits_is_the_whole_model():
    params, model = jax_params("float64"), torch_model("float64")
    inputs = tokens()[0]
    x_BTD, torch_x_BTD = forward(params, inputs, method="hidden"), model.hidden(torch.tensor(inputs))
    assert_within(x_BTD, torch_x_BTD, VALUE_EPS_OF_MAX)
    assert_within(forward(params, x_BTD, method="logits"), forward(params, inputs), VALUE_EPS_OF_MAX)
    assert_same(model.logits(torch_x_BTD), model(torch.tensor(inputs)))


def test_full_size_has_the_parameters_of_the_article():
    assert jax_side.num_params(MODEL5) == torch_side.num_params(MODEL5) == 123_849_984
    assert jax_side.num_params(GPT2) == 124_439_808
    assert jax_side.num_params(TINY) == sum(
        a.size for a in jax_side.to_arrays(jax_params("float32")).values()
    )


def initial_weights(seed):
    config = Model5Config(vocab_size=2003, context_length=96, embed_dim=64, num_heads=4, num_blocks=2)
    return (
        jax_side.to_arrays(jax_side.init_params(config, jax.random.key(seed))),
        torch_side.to_arrays(torch_side.init_params(config, torch.Generator().manual_seed(seed))),
        torch_side.to_arrays(torch_side.Model5(config)),
    )


def test_initial_weights_have_the_distribution_of_the_article():
    for arrays in initial_weights(0):
        for name, array in arrays.items():
            assert array.dtype == np.float32
            if name.endswith("bias"):
                assert_same(array, np.zeros_like(array))
            elif "ln_" in name:
                assert_same(array, np.ones_like(array))
            else:
                std = math.sqrt(2 / (96 + 64)) if name == "wpe.weight" else 0.02
                # Six standard errors of a mean and of a standard deviation.
                assert abs(array.mean()) < 6 * std / math.sqrt(array.size)
                assert abs(array.std() / std - 1) < 6 / math.sqrt(2 * array.size)
                # A truncated normal, Flax's default, has nothing beyond 2.28 standard deviations.
                assert abs(array).max() > 3 * std


def test_initial_weights_come_from_the_key_and_differ_between_layers():
    first, again, other = (initial_weights(seed)[:2] for seed in (0, 0, 1))
    for side in range(2):
        assert_same(first[side]["h.1.mlp.c_fc.weight"], again[side]["h.1.mlp.c_fc.weight"])
        assert not np.any(first[side]["h.1.mlp.c_fc.weight"] == other[side]["h.1.mlp.c_fc.weight"])
        assert not np.any(first[side]["h.1.mlp.c_fc.weight"] == first[side]["h.0.mlp.c_fc.weight"])


def test_torch_initialisation_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    torch_side.init_params(TINY, torch.Generator().manual_seed(0))
    assert_same(torch.get_rng_state(), before)


def test_torch_head_stays_tied_through_what_moves_parameters():
    model = torch_side.init_params(TINY, torch.Generator().manual_seed(0)).double().to("cpu")
    assert model.head.weight is model.wte.weight
    assert torch_model("float32").head.weight.is_leaf


def test_token_outside_the_vocabulary_never_gives_a_finite_loss():
    inputs, _ = tokens()
    for bad in (TINY.vocab_size, -1):
        wrong = inputs.copy()
        wrong[0, 5] = bad
        logits_BTV = forward(jax_params("float64"), wrong)
        assert jnp.isnan(logits_BTV[0, 5:]).all()
        assert jnp.isfinite(logits_BTV[1:]).all()
        with pytest.raises(IndexError):
            torch_model("float32")(torch.tensor(wrong))


def test_token_beyond_the_integers_of_jax_is_not_wrapped_into_the_vocabulary():
    wrong = tokens()[0].astype(np.int64)
    wrong[0, 5], wrong[1, 7] = 2**32 + 5, 5 - 2**32
    with jax.enable_x64(False):
        logits_BTV = jax.jit(lambda p: Model5(TINY).apply({"params": p}, wrong))(jax_params("float32"))
    assert_same(np.isnan(logits_BTV).all((1, 2)), [True, True, False])
    with pytest.raises(IndexError):
        torch_model("float32")(torch.tensor(wrong))


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (np.zeros((2, 17), np.int32), ValueError, r"T between 1 and context_length=16; got shape \(2, 17\)"),
        (np.zeros((2, 0), np.int32), ValueError, r"got shape \(2, 0\)"),
        (np.zeros(5, np.int32), ValueError, r"must be \[B, T\]"),
        (np.zeros((2, 5), np.float32), TypeError, "integer dtype; got .*float32"),
        (np.zeros((2, 5), bool), TypeError, "integer dtype; got .*bool"),
    ],
)
def test_wrong_ids_are_named_on_both_sides(ids, error, message):
    with pytest.raises(error, match=message):
        Model5(TINY).apply({"params": jax_params("float32")}, ids)
    with pytest.raises(error, match=message):
        torch_model("float32")(torch.tensor(ids))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device, and torch sees no CUDA")
def test_torch_refuses_tensors_on_different_devices_in_its_own_words():
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        torch_model("float32").to("cuda")(torch.zeros(1, 4, dtype=torch.int64))
