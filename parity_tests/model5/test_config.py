"""The configuration: what it refuses, and that both sides have the same one."""

import dataclasses
import math

import numpy as np
import pytest

import jaxloss.model5 as jax_side
import torch_ref.model5 as torch_side
from jaxloss.model5 import Model5Config


def test_both_sides_have_the_same_configurations():
    for name in ("MODEL5", "GPT2"):
        ours, theirs = getattr(jax_side, name), getattr(torch_side, name)
        assert dataclasses.asdict(ours) == dataclasses.asdict(theirs)
        assert (ours.head_dim, ours.logit_factor) == (theirs.head_dim, theirs.logit_factor)


def test_the_defaults_are_model_5_at_its_full_size():
    assert Model5Config(50257, 256, 768, 12, 12, 0.1, "gelu", None, 1e-5) == jax_side.MODEL5
    assert jax_side.MODEL5.head_dim == 64
    assert jax_side.MODEL5.logit_factor == pytest.approx(1 / math.sqrt(768))
    assert jax_side.GPT2.logit_factor == 1


def test_integers_and_floats_of_numpy_are_accepted():
    config = Model5Config(vocab_size=np.int64(61), dropout=np.float32(0.25), logit_scale=2)
    assert hash(config) == hash(Model5Config(vocab_size=61, dropout=0.25, logit_scale=2.0))


@pytest.mark.parametrize(
    ("field", "value", "error", "message"),
    [
        ("vocab_size", 0, ValueError, r"vocab_size must be in \[1, 2147483647\]; got 0"),
        ("context_length", -3, ValueError, r"context_length must be in \[1, .*; got -3"),
        ("embed_dim", 10**30, ValueError, r"embed_dim must be in \[1, 2147483647\]"),
        ("num_blocks", 1.5, TypeError, r"num_blocks must be an int; got 1\.5"),
        ("num_heads", True, TypeError, "num_heads must be an int; got True"),
        ("embed_dim", "8", TypeError, "embed_dim must be an int; got '8'"),
        ("embed_dim", 100, ValueError, "multiple of num_heads; got embed_dim=100 and num_heads=12"),
        ("dropout", 1.0, ValueError, r"dropout must be in \[0, 1\); got 1\.0"),
        ("dropout", -0.1, ValueError, r"dropout must be in \[0, 1\); got -0\.1"),
        ("dropout", float("nan"), ValueError, r"dropout must be in \[0, 1\); got nan"),
        ("dropout", None, TypeError, "dropout must be a number; got None"),
        ("activation", "relu", ValueError, "activation must be one of 'gelu', 'gelu_tanh'; got 'relu'"),
        ("logit_scale", 0.0, ValueError, r"logit_scale must be in \(0, inf\); got 0\.0"),
        ("logit_scale", float("inf"), ValueError, r"logit_scale must be in \(0, inf\); got inf"),
        ("layer_norm_eps", 0.0, ValueError, r"layer_norm_eps must be in \(0, inf\); got 0\.0"),
    ],
)
def test_wrong_fields_are_named(field, value, error, message):
    with pytest.raises(error, match=message):
        Model5Config(**{field: value})
    with pytest.raises(error, match=message):
        dataclasses.replace(Model5Config(), **{field: value})
