"""Checkpoints that are damaged, incomplete or not a GPT-2: refused on both sides, and named on ours."""

import itertools
import json
import math
import shutil

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.numpy import save_file
from safetensors.torch import save_file as torch_save

import jaxloss.model5 as jax_side
import torch_ref.model5 as torch_side
from jaxloss.model5._gpt2_layout import from_hugging_face, to_hugging_face
from parity_tests.model5.pairs import TINY, assert_same_arrays, jax_params, weights


def truncate(path):
    weights_file = path / "model.safetensors"
    weights_file.write_bytes(weights_file.read_bytes()[:-100])


def edit_config(**changes):
    def edit(path):
        config = json.loads((path / "config.json").read_text()) | changes
        (path / "config.json").write_text(json.dumps(config))

    return edit


def write_index(**weight_map):
    def write(path):
        (path / "model.safetensors").rename(path / "shard.safetensors")
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return write


def save_other_model(path):
    (path / "config.json").unlink()
    save_file({"bert.weight": np.zeros((2, 2), np.float32)}, path / "model.safetensors")


WRONG_DIRECTORIES = {
    "truncated": (truncate, r"model\.safetensors is truncated or not a safetensors file"),
    "empty file": (lambda path: (path / "model.safetensors").write_bytes(b""), "is truncated or not"),
    "git lfs pointer": (
        lambda path: (path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"),
        "is a Git LFS pointer, not the weights: run git lfs pull",
    ),
    "no weights": (
        lambda path: (path / "model.safetensors").unlink(),
        r"holds neither model\.safetensors nor",
    ),
    "pickle": (
        lambda path: (path / "model.safetensors").rename(path / "pytorch_model.bin"),
        r"pytorch_model\.bin is a PyTorch pickle, and reading one can run any code",
    ),
    "other sizes": (edit_config(n_embd=64), r"c_attn\.bias must have shape \(192,\); got \(96,\)"),
    "other depth": (edit_config(n_layer=1), r"does not hold this model: unexpected h\.1\."),
    "other model": (edit_config(model_type="bert"), r"config\.json: model_type must be 'gpt2'.*got 'bert'"),
    "other option": (
        edit_config(scale_attn_by_inverse_layer_idx=True),
        "scale_attn_by_inverse_layer_idx must",
    ),
    "other hidden width": (edit_config(n_inner=100), r"n_inner must be 4 \* n_embd; got 100"),
    "other activation": (
        edit_config(activation_function="relu"),
        "activation_function must be one of gelu, ",
    ),
    "two dropout rates": (edit_config(attn_pdrop=0.0), r"differ \(0\.1, 0\.0, 0\.1\): pass config"),
    "invalid size": (edit_config(n_head=5), r"config\.json: embed_dim must be a multiple of num_heads"),
    "invalid JSON": (lambda path: (path / "config.json").write_text("{"), r"config\.json is not valid JSON"),
    "JSON in another encoding": (
        lambda path: (path / "config.json").write_bytes(b'{"\xff": 1}'),
        r"config\.json is not valid JSON: 'utf-8' codec can't decode",
    ),
    "JSON nested too deep": (
        lambda path: (path / "config.json").write_text("[" * 100_000),
        r"config\.json is not valid JSON: ",
    ),
    "more blocks than arrays": (edit_config(n_layer=10**8), "arrays are too few for 100000000 blocks"),
    "float8": (
        lambda path: torch_save(
            {"ln_f.bias": torch.zeros(32, dtype=torch.float8_e5m2)}, path / "model.safetensors"
        ),
        r"model\.safetensors cannot be read \(.*float8_e5m2'\): convert it to float32",
    ),
    "an array twice": (
        lambda path: save_file(
            weights() | {"module.ln_f.bias": weights()["ln_f.bias"]}, path / "model.safetensors"
        ),
        r"holds ln_f\.bias twice, once of them as module\.ln_f\.bias",
    ),
    "JSON of another kind": (lambda path: (path / "config.json").write_text("[]"), "must be a JSON object"),
    "lacking size": (
        lambda path: (path / "config.json").write_text("{}"),
        r"config\.json lacks vocab_size, ",
    ),
    "missing shard": (write_index(a="other.safetensors"), r"the shard 'other\.safetensors' is not in this"),
    "shard elsewhere": (write_index(a="../shard.safetensors"), r"the shard '\.\./shard\.safetensors' is not"),
    "incomplete shard": (write_index(a="shard.safetensors"), r"index\.json: the shards lack a$"),
    "not a GPT-2": (save_other_model, r"no GPT-2 checkpoint, it has no matrix wte\.weight"),
}


# Torch takes the arrays from all files there are, and hidden widths from the arrays.
HARMLESS_IN_TORCH = {"missing shard", "shard elsewhere", "incomplete shard", "other hidden width"}
# Making that many modules takes for ever.
NOT_TRIED_IN_TORCH = {"more blocks than arrays"}
ERRORS_OF_TORCH = (ValueError, RuntimeError, KeyError, AttributeError, FileNotFoundError, SafetensorError)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "w"
    jax_side.save_weights(path, jax_params("float32"), TINY)
    return path


@pytest.mark.parametrize("damage", WRONG_DIRECTORIES)
def test_wrong_directories_are_refused_on_both_sides_and_named_on_ours(saved, tmp_path, damage):
    path = tmp_path / "w"
    shutil.copytree(saved, path)
    do_damage, message = WRONG_DIRECTORIES[damage]
    do_damage(path)
    with pytest.raises(ValueError, match=message) as raised:
        jax_side.load_weights(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
    if damage in HARMLESS_IN_TORCH:
        assert_same_arrays(torch_side.to_arrays(torch_side.load_weights(path)[0]), weights())
    elif damage not in NOT_TRIED_IN_TORCH:
        with pytest.raises(ERRORS_OF_TORCH):
            torch_side.load_weights(path)


def test_an_option_of_any_type_is_understood_or_refused_by_name():
    options = to_hugging_face(TINY)
    values = [None, "a", [1], {"a": 1}, True, math.nan, math.inf, -1, 0, 0.5, 10**30]
    messages = []
    for name, value in itertools.product(options, values):
        try:
            from_hugging_face(options | {name: value}, "config.json")
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert all(message.startswith("config.json: ") for message in messages)
