"""Ports of transformers' GPT-2 and of a Llama with one mistake each: which layer, and why.

The torch side is transformers' own module, randomly initialised; JAX's weights come from `map_weights`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from jaxloss.model5 import Model5, Model5Config, from_arrays
from jaxloss.testing import compare_layers, integers, map_weights
from parity_tests.testing.ports.llama import Llama, LlamaLike

NO_CACHE = {"use_cache": False}
NO_TOKENS = {"bos_token_id": None, "eos_token_id": None}
IDS = integers(2, 6, high=23)
GPT2 = {
    **{"vocab_size": 23, "context_length": 8, "embed_dim": 16, "num_heads": 2, "num_blocks": 1},
    **{"activation": "gelu_tanh", "logit_scale": 1.0},
}


def _random(model):
    """No two parameters alike: norms that are all ones cannot be told apart."""
    with torch.no_grad():
        for x in model.parameters():
            x.add_(0.2 * torch.randn_like(x))
    return model.eval()


@pytest.fixture(scope="module")
def gpt2():
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    sizes = {"vocab_size": 23, "n_positions": 8, "n_embd": 16, "n_layer": 1, "n_head": 2}
    return _random(GPT2LMHeadModel(GPT2Config(**sizes, **NO_TOKENS)))


@pytest.fixture(scope="module")
def gpt2_params(gpt2):
    arrays = {name: x.detach().numpy() for name, x in gpt2.named_parameters()}
    return jax.tree.map(np.asarray, from_arrays(arrays, Model5Config(**GPT2)))


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(0)
    sizes = {"vocab_size": 23, "hidden_size": 16, "intermediate_size": 24, "max_position_embeddings": 16}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
    return _random(LlamaForCausalLM(LlamaConfig(**sizes, **heads, **NO_TOKENS)))


@pytest.fixture(scope="module")
def llama_map(llama):
    shapes = jax.eval_shape(LlamaLike().init, jax.random.key(0), jnp.zeros((1, 3), jnp.int32))["params"]
    return map_weights(llama, shapes, IDS, jax_model=LlamaLike(), torch_kwargs=NO_CACHE)


def test_right_ports_agree(gpt2, gpt2_params, llama, llama_map):
    ports = [(Model5(Model5Config(**GPT2)), gpt2, gpt2_params), (LlamaLike(), llama, llama_map.params)]
    for model, module, params in ports:
        options = {"params": params, "torch_kwargs": NO_CACHE, "gradients": module is llama}
        report = compare_layers(model, module, IDS, **options)
        assert report.passed, report.text()


def test_llama_is_mapped_without_a_name_written_by_hand(llama_map):
    assert llama_map.is_checked, llama_map.text()
    assert llama_map.is_complete, llama_map.text()
    # By their names alone, these two would have changed places.
    assert llama_map.sources["block_0/attn_norm/scale"].names == ("model.layers.0.input_layernorm.weight",)
    line = '"block_0/attn/wq/kernel": lambda w: w["model.layers.0.self_attn.q_proj.weight"].T,'
    assert line in llama_map.text()


def test_gpt2_is_mapped_to_model5(gpt2, gpt2_params):
    model = Model5(Model5Config(**GPT2))
    mapped = map_weights(gpt2, gpt2_params, IDS, jax_model=model, torch_kwargs=NO_CACHE)
    assert mapped.is_checked
    assert mapped.is_complete
    jax.tree.map(np.testing.assert_array_equal, mapped.params, gpt2_params)


# The mistake -> the layer, and part of the cause; None where no known trap says it.
WRONG_LLAMAS = {
    "eps": ({"eps": 1e-5}, "block_0/attn_norm", "RMSNorm eps: JAX's is 1e-05, torch's 1e-06"),
    "LayerNorm": ({"subtracts_mean": True}, "block_0/attn_norm", "LayerNorm for RMSNorm"),
    "1 + scale": ({"one_plus_scale": True}, "block_0/attn_norm", "JAX multiplies by 1 + weight"),
    "base": ({"rotary_base": 1e6}, "block_0/attn", "rotary base: JAX's is 1e+06, torch's 10000"),
    "neighbours": ({"is_interleaved": True}, "block_0/attn", "rotary interleaving"),
    "direction": ({"turns_back": True}, "block_0/attn", "rotary: JAX turns the other way"),
    "tiled heads": ({"tiles_heads": True}, "block_0/attn", "key heads: JAX tiles the 2 of them"),
    "no mask": ({"is_causal": False}, "block_0/attn", "mask: JAX's attention sees every position"),
    "no scale": ({"score_scale": 1.0}, "block_0/attn", "attention scores are scaled by 1, torch's by 0.5"),
    "axis": ({"softmax_axis": -2}, "block_0/attn", "wrong axis"),
    "bfloat16": ({"narrow": "bfloat16"}, "block_0/attn", "precision: JAX computes in bfloat16"),
    "activation": ({"activation": "gelu"}, "block_0/mlp", "the tanh approximation of GELU, torch's silu"),
    "gate": ({"swaps_gate": True}, "block_0/mlp", "swapped: model.layers.0.mlp.gate_proj and"),
    "residual": (
        {"adds_attention_input": False},
        "block_0",
        "missing residual: JAX does not add its own input",
    ),
    "no norm": (
        {"norms_before_mlp": False},
        "block_0",
        "hands block_0/mlp what model.layers.0.post_attention_layernorm is handed",
    ),
    "embedding": ({"embedding_scale": 4.0}, "", "scale: JAX is 4 times torch, and that is sqrt(16)"),
}


@pytest.mark.parametrize(("wrong", "layer", "cause"), WRONG_LLAMAS.values(), ids=WRONG_LLAMAS)
def test_mistake_in_a_llama_is_found(llama, llama_map, wrong, layer, cause):
    options = {"params": llama_map.params, "torch_kwargs": NO_CACHE, "gradients": False}
    report = compare_layers(LlamaLike(Llama(**wrong)), llama, IDS, **options)
    assert not report.passed
    assert report.faults[0].layer == layer, report.text()
    assert cause in (report.faults[0].cause or ""), report.text()


def test_positions_that_begin_at_one_are_right_where_only_distances_count(llama, llama_map):
    options = {"params": llama_map.params, "torch_kwargs": NO_CACHE, "gradients": False}
    assert compare_layers(LlamaLike(Llama(first_position=1)), llama, IDS, **options).passed


def test_gradient_stopped_in_a_llama_is_found(llama, llama_map):
    options = {"params": llama_map.params, "torch_kwargs": NO_CACHE}
    report = compare_layers(LlamaLike(Llama(stops_gradient=True)), llama, IDS, **options)
    assert report.faults[0].layer == "block_0/attn"
    assert "is 0 in JAX: a stop_gradient" in report.faults[0].cause


def _exchanged(params, first, second):
    block = {**params["h_0"], first: params["h_0"][second], second: params["h_0"][first]}
    return {**params, "h_0": block}


def _transposed(params):
    attn = params["h_0"]["attn"]
    c_proj = {**attn["c_proj"], "kernel": attn["c_proj"]["kernel"].T}
    return {**params, "h_0": {**params["h_0"], "attn": {**attn, "c_proj": c_proj}}}


# The options, what is done to the parameters, the arguments -> the layers, and part of the first one's cause.
WRONG_GPT2S = {
    "eps": (
        {"layer_norm_eps": 1e-6},
        None,
        {},
        ["h_0/ln_1", "h_0/ln_2", "ln_f"],
        "LayerNorm eps: JAX's is 1e-06",
    ),
    "GELU": ({"activation": "gelu"}, None, {}, ["h_0/mlp"], "GELU variant: JAX's is the exact (erf) GELU"),
    "eps and GELU": (
        {"layer_norm_eps": 1e-6, "activation": "gelu"},
        None,
        {},
        ["h_0/ln_1", "h_0/ln_2", "h_0/mlp", "ln_f"],
        "LayerNorm eps: JAX's is 1e-06, torch's 1e-05",
    ),
    "logit scale": (
        {"logit_scale": None},
        None,
        {},
        [""],
        "scale: JAX is 0.25 times torch, and that is 1/sqrt(16)",
    ),
    "kernel": ({}, _transposed, {}, ["h_0/attn/c_proj"], "transposed"),
    "norms": (
        {},
        lambda p: _exchanged(p, "ln_1", "ln_2"),
        {},
        ["h_0/ln_1", "h_0/ln_2"],
        "is torch's transformer.h.0.ln_2",
    ),
    "dropout": (
        {},
        None,
        {"jax_kwargs": {"deterministic": False, "rngs": {"dropout": jax.random.key(0)}}},
        ["drop", "h_0/attn", "h_0/attn/resid_dropout", "h_0/mlp/dropout"],
        "dropout is on in JAX",
    ),
}


@pytest.mark.parametrize(
    ("wrong", "change", "arguments", "layers", "cause"), WRONG_GPT2S.values(), ids=WRONG_GPT2S
)
def test_mistake_in_a_gpt2_is_found(gpt2, gpt2_params, wrong, change, arguments, layers, cause):
    model = Model5(Model5Config(**{**GPT2, **wrong}))
    params = change(gpt2_params) if change else gpt2_params
    options = {"params": params, "torch_kwargs": NO_CACHE, "gradients": False, **arguments}
    report = compare_layers(model, gpt2, IDS, **options)
    assert not report.passed
    assert [fault.layer for fault in report.faults] == layers, report.text()
    assert cause in (report.faults[0].cause or ""), report.text()
