"""Weights between the two frameworks, files and Hugging Face's transformers."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.numpy import save_file
from transformers import GPT2Config, GPT2LMHeadModel

import jaxloss.model5 as jax_side
import torch_ref.model5 as torch_side
from jaxloss.model5 import GPT2, Model5
from jaxloss.model5._gpt2_layout import to_hugging_face
from parity_tests.compare import assert_same, assert_within
from parity_tests.model5.pairs import TINY, assert_same_arrays, jax_params, tokens, torch_model, weights
from parity_tests.tolerances import VALUE_EPS_OF_MAX

# Heads of width 64, as in every GPT-2: a lone file does not say how many there are.
GPT2_TINY = dataclasses.replace(
    GPT2, vocab_size=61, context_length=16, embed_dim=128, num_heads=2, num_blocks=2
)
SIDES = {"jax": jax_side, "torch": torch_side}


@pytest.fixture(scope="module", autouse=True)
def no_progress_bars():
    from transformers.utils import logging

    logging.disable_progress_bar()


@pytest.fixture(scope="module")
def hugging_face():
    """A GPT-2 of transformers', with random weights and no special values."""
    options = {"bos_token_id": None, "eos_token_id": None, "attn_implementation": "eager"}
    config = GPT2Config(vocab_size=61, n_positions=16, n_embd=128, n_layer=2, n_head=2, **options)
    model = GPT2LMHeadModel(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


@jax.jit
def gpt2_logits(params):
    return Model5(GPT2_TINY).apply({"params": params}, tokens()[0])


def same_options(config, other):
    return dataclasses.asdict(config) == dataclasses.asdict(other)


def test_arrays_go_from_jax_to_torch_and_back_unchanged():
    params = jax_params("float64")
    arrays = jax_side.to_arrays(params)
    model = torch_side.from_arrays(arrays, TINY)
    assert not model.training
    assert model.wte.weight.dtype == torch.float64
    assert_same(model.h[1].mlp.c_fc.weight, arrays["h.1.mlp.c_fc.weight"].T)
    assert_same_arrays(torch_side.to_arrays(model), arrays)
    jax.tree.map(assert_same, jax_side.from_arrays(torch_side.to_arrays(model), TINY), params)


@pytest.mark.parametrize("side", SIDES)
def test_arrays_share_no_memory_with_the_model(side):
    arrays = {name: array.copy() for name, array in weights().items()}
    model = SIDES[side].from_arrays(arrays, TINY)
    arrays["wte.weight"][:] = 0
    copied = SIDES[side].to_arrays(model)
    assert_same(copied["wte.weight"], weights()["wte.weight"])
    copied["ln_f.bias"][:] = 0
    assert_same(SIDES[side].to_arrays(model)["ln_f.bias"], weights()["ln_f.bias"])


def test_sixteen_bit_weights_are_widened_exactly():
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), jax_params("float32"))
    arrays = jax_side.to_arrays(params)
    assert {array.dtype.name for array in arrays.values()} == {"float32"}
    assert_same_arrays(torch_side.to_arrays(torch_model("float32").bfloat16()), arrays)


@pytest.mark.parametrize("name", ["weights", "weights.safetensors"])
@pytest.mark.parametrize(("writer", "reader"), [("jax", "torch"), ("torch", "jax")])
def test_files_go_between_the_frameworks_with_their_configuration(tmp_path, writer, reader, name):
    config = dataclasses.replace(TINY, dropout=0.25, activation="gelu_tanh", layer_norm_eps=1e-6)
    for dtype in ("float64", "float32"):
        model = (jax_params if writer == "jax" else torch_model)(dtype, config=config)
        SIDES[writer].save_weights(tmp_path / "new" / name, model, config)
        loaded, loaded_config = SIDES[reader].load_weights(tmp_path / "new" / name)
        assert same_options(loaded_config, config)
        assert_same_arrays(SIDES[reader].to_arrays(loaded), SIDES[writer].to_arrays(model))
    assert not list(tmp_path.rglob("*.part"))


def save_hugging_face(model, path, form):
    model.save_pretrained(path, max_shard_size="300KB" if form == "shards" else "1GB")
    if form == "shards":
        assert len(list(path.glob("*.safetensors"))) > 2
    return path / "model.safetensors" if form == "file" else path


@pytest.mark.parametrize("form", ["directory", "shards", "file"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_transformers_checkpoint_gives_its_logits_here(hugging_face, tmp_path, dtype, form):
    hugging_face.to(getattr(torch, dtype))
    path = save_hugging_face(hugging_face, tmp_path, form)
    with torch.no_grad():
        expected = hugging_face(torch.tensor(tokens()[0], dtype=torch.int64)).logits
    params, config = jax_side.load_weights(path)
    assert config == GPT2_TINY
    assert_within(gpt2_logits(params), expected, VALUE_EPS_OF_MAX, dtype)
    model, config = torch_side.load_weights(path)
    assert same_options(config, GPT2_TINY)
    assert_within(model(torch.tensor(tokens()[0])), expected, VALUE_EPS_OF_MAX, dtype)


@pytest.mark.parametrize("side", SIDES)
def test_transformers_loads_what_is_saved_here_and_gives_the_same_logits(tmp_path, side):
    config = dataclasses.replace(GPT2_TINY, logit_scale=None)
    params = jax_params("float64", config=config)
    model = params if side == "jax" else torch_model("float64", config=config)
    SIDES[side].save_weights(tmp_path, *SIDES[side].fold_logit_scale(model, config))
    loaded, report = GPT2LMHeadModel.from_pretrained(tmp_path, dtype="auto", output_loading_info=True)
    assert not any(report.values())
    logits_BTV = loaded(torch.tensor(tokens()[0], dtype=torch.int64)).logits
    assert logits_BTV.dtype == torch.float64
    expected = gpt2_logits(params) * config.logit_factor
    assert_within(logits_BTV, expected, VALUE_EPS_OF_MAX, "float64")


WRAPPINGS = [
    ("", ""),
    ("_orig_mod.", ""),
    ("module.", "._orig_mod"),
    ("module._orig_mod.", "._fsdp_wrapped_module"),
]


def of_wrapped(name, start, block):
    """The name that a wrapper of the whole model, and one of each block, make of GPT-2's."""
    prefix = "" if name == "lm_head.weight" else "transformer."
    return start + prefix + re.sub(r"^h\.\d+", rf"\g<0>{block}", name)


@pytest.mark.parametrize("head", ["lm_head.weight", "both", "wte.weight"])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrapped_and_tied_checkpoints_load_whichever_name_of_the_head_they_keep(tmp_path, head, wrapping):
    arrays = dict(weights())
    arrays["lm_head.weight"] = arrays["wte.weight"].copy()
    if head != "both":
        del arrays["wte.weight" if head == "lm_head.weight" else "lm_head.weight"]
    save_file({of_wrapped(name, *wrapping): a for name, a in arrays.items()}, tmp_path / "model.safetensors")
    # An editor may have put a byte order mark in front.
    (tmp_path / "config.json").write_text(json.dumps(to_hugging_face(TINY)), encoding="utf-8-sig")
    for side in SIDES.values():
        model, config = side.load_weights(tmp_path)
        assert same_options(config, TINY)
        assert_same_arrays(side.to_arrays(model), weights())


def test_names_with_prefix_stored_masks_and_a_tied_head_are_understood():
    arrays = {f"transformer.{name}": array for name, array in weights().items()}
    arrays |= {f"transformer.h.{i}.attn.bias": np.tri(16)[None, None] for i in range(2)}
    arrays |= {f"transformer.h.{i}.attn.masked_bias": np.float32(-1e4) for i in range(2)}
    arrays["lm_head.weight"] = arrays["transformer.wte.weight"]
    for side in SIDES.values():
        assert_same_arrays(side.to_arrays(side.from_arrays(arrays, TINY)), weights())
        with pytest.raises(ValueError, match=r"lm_head\.weight differs from wte\.weight"):
            side.from_arrays(arrays | {"lm_head.weight": arrays["lm_head.weight"] + 1}, TINY)


def test_saved_weights_are_as_readable_as_any_new_file(tmp_path):
    path, other = tmp_path / "model.safetensors", tmp_path / "other"
    other.touch()
    jax_side.save_weights(path, jax_params("float32"), TINY)
    assert path.stat().st_mode == other.stat().st_mode


def test_wrong_arrays_are_named():
    arrays = weights()
    wrong = dict(arrays)
    del wrong["h.1.ln_2.bias"]
    wrong["h.2.ln_2.bias"] = arrays["ln_f.bias"]
    wrong["ln_f.weight"] = np.zeros(31, np.float32)
    message = (
        r"arrays does not hold this model: missing h\.1\.ln_2\.bias; unexpected h\.2\.ln_2\.bias; "
        r"ln_f\.weight must have shape \(32,\); got \(31,\)"
    )
    with pytest.raises(ValueError, match=message):
        jax_side.from_arrays(wrong, TINY)
    with pytest.raises(
        RuntimeError, match=r'(?s)Missing.*"h\.1\.ln_2\.bias".*Unexpected.*mismatch for ln_f\.weight'
    ):
        torch_side.from_arrays(wrong, TINY)
    with pytest.raises(ValueError, match=r"missing h\.0\.attn\.c_attn\.bias, .* and 8 more$"):
        jax_side.from_arrays({n: a for n, a in arrays.items() if not n.startswith("h.0")}, TINY)
    integers = arrays | {"ln_f.bias": np.zeros(32, np.int64)}
    with pytest.raises(ValueError, match=r"ln_f\.bias must be floating point; got int64"):
        jax_side.from_arrays(integers, TINY)
    with pytest.raises(RuntimeError, match="floating point"):
        torch_side.from_arrays(integers, TINY)


def test_weights_that_do_not_fit_the_configuration_are_not_saved(tmp_path):
    deeper = dataclasses.replace(TINY, num_blocks=3)
    with pytest.raises(ValueError, match=r"params does not hold this model: missing h\.2"):
        jax_side.save_weights(tmp_path / "w", jax_params("float32"), deeper)
    with pytest.raises(RuntimeError, match=r"Missing key.* \"h\.2"):
        torch_side.save_weights(tmp_path / "w", torch_model("float32"), deeper)
    with pytest.raises(ValueError, match=r"w\.bin: weights are written to a directory or a \.safetensors"):
        jax_side.save_weights(tmp_path / "w.bin", jax_params("float32"), TINY)
    (tmp_path / "taken").write_text("")
    with pytest.raises(ValueError, match="taken is a file"):
        jax_side.save_weights(tmp_path / "taken", jax_params("float32"), TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_full_disk_is_told_with_the_file_and_leaves_no_half_of_it(tmp_path, monkeypatch):
    def fails(*arguments, **options):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.numpy.save_file", fails)
    with pytest.raises(OSError, match=r"cannot write .*w\.safetensors: I/O error: No space left on device"):
        jax_side.save_weights(tmp_path / "w.safetensors", jax_params("float32"), TINY)
    assert not list(tmp_path.iterdir())


def test_wrong_paths_are_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such file or directory"):
        jax_side.load_weights(tmp_path / "nowhere")
    for name, message in (
        ("w.pt", "is a PyTorch pickle"),
        ("w.txt", r"expected a checkpoint directory or a"),
    ):
        (tmp_path / name).write_bytes(b"text")
        with pytest.raises(ValueError, match=message):
            jax_side.load_weights(tmp_path / name)


def test_a_given_configuration_replaces_that_of_the_checkpoint(tmp_path):
    save_file(weights(), tmp_path / "bare.safetensors")
    with pytest.raises(
        ValueError, match=r"bare\.safetensors does not say how many heads it has.*pass config"
    ):
        jax_side.load_weights(tmp_path / "bare.safetensors")
    for side in SIDES.values():
        model, config = side.load_weights(tmp_path / "bare.safetensors", TINY)
        assert config == TINY
        assert_same_arrays(side.to_arrays(model), weights())
