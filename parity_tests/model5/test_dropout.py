"""Dropout of both sides: what it does to values and gradients, when it acts, whence its masks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

import jaxloss.model5 as jax_side
import torch_ref.model5 as torch_side
from jaxloss.model5 import Model5
from parity_tests.compare import assert_same, assert_within
from parity_tests.model5.pairs import TINY, jax_params, set_masks, shared_masks, tokens, torch_model

MASK = np.array([True, False, True, True])
VARIABLES = {"dropout_masks": {"mask": MASK}}


def torch_dropout(rate, mask):
    module = torch_side.Dropout(rate)
    module.mask = torch.tensor(mask)
    return module


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_dropout_with_a_given_mask_matches_torch_in_value_and_gradient(dtype):
    x, cotangent = np.random.default_rng(0).standard_normal((2, 4)).astype(dtype)
    y, pull_back = jax.vjp(lambda x: jax_side.Dropout(0.1).apply(VARIABLES, x, deterministic=False), x)
    torch_x = torch.tensor(x, requires_grad=True)
    torch_y = torch_dropout(0.1, MASK)(torch_x)
    torch_y.backward(torch.tensor(cotangent))
    assert_within(y, torch_y, 1)
    assert_within(pull_back(jnp.asarray(cotangent))[0], torch_x.grad, 1)


def test_dropped_nan_and_infinity_reach_neither_value_nor_gradient():
    x = np.array([1.0, np.nan, 2.0, 3.0])
    for bad in (np.nan, np.inf):
        x[1] = bad
        y, pull_back = jax.vjp(lambda x: jax_side.Dropout(0.5).apply(VARIABLES, x, deterministic=False), x)
        torch_x = torch.tensor(x, requires_grad=True)
        torch_y = torch_dropout(0.5, MASK)(torch_x)
        torch_y.sum().backward()
        for value, gradient in ((y, pull_back(jnp.ones(4))[0]), (torch_y, torch_x.grad)):
            assert_same(value, [2.0, 0.0, 4.0, 6.0])
            assert_same(gradient, [2.0, 0.0, 2.0, 2.0])


def test_dropout_keeps_its_share_and_the_mean():
    ones = np.ones((400, 300), np.float32)
    dropped = (
        jax_side.Dropout(0.3).apply({}, ones, deterministic=False, rngs={"dropout": jax.random.key(0)}),
        torch_side.Dropout(0.3)(torch.tensor(ones)),
    )
    for values in map(np.asarray, dropped):
        assert set(np.unique(values)) == {0.0, np.float32(1 / 0.7)}
        # Six standard deviations of a share among 120,000 draws.
        assert abs((values == 0).mean() - 0.3) < 6 * (0.3 * 0.7 / values.size) ** 0.5


def test_dropout_is_the_identity_when_deterministic_or_at_rate_zero():
    x = np.array([1.0, np.nan, -0.0])
    assert_same(jax_side.Dropout(0.5).apply({}, x, deterministic=True), x)
    assert_same(jax_side.Dropout(0.0).apply({}, x, deterministic=False), x)
    assert_same(torch_side.Dropout(0.5).eval()(torch.tensor(x)), x)
    assert_same(torch_side.Dropout(0.0)(torch.tensor(x)), x)


def train(variables, key=None, config=TINY, **options):
    rngs = {} if key is None else {"dropout": key}
    return Model5(config).apply(variables, tokens(config)[0], deterministic=False, rngs=rngs, **options)


def test_masks_written_by_a_key_replay_bit_for_bit():
    variables = {"params": jax_params("float32")}
    step = jax.jit(lambda key: train(variables, key, mutable=["dropout_masks"]))
    logits, written = step(jax.random.key(3))
    replay = jax.jit(lambda masks: train(variables | masks))
    assert_same(replay(written), logits)
    assert not np.array_equal(step(jax.random.key(4))[0], logits)


def test_a_four_block_model_has_thirteen_masks_and_the_same_places_as_torch():
    config = dataclasses.replace(TINY, num_blocks=4)
    variables = {"params": jax_params("float32", config=config)}
    key = jax.random.key(0)
    shapes = jax.eval_shape(lambda: train(variables, key, config, mutable=["dropout_masks"]))[1]
    masks = jax.tree.leaves(shapes["dropout_masks"])
    assert len(masks) == 13
    assert {mask.shape for mask in masks} == {(3, 16, 32), (3, 4, 16, 16)}
    assert sum(isinstance(m, torch_side.Dropout) for m in torch_model("float32", config).modules()) == 13


def test_a_key_means_the_same_masks_with_and_without_x64():
    def apply():
        rngs = {"dropout": jax.random.key(1)}
        return jax_side.Dropout(0.1).apply({}, np.ones(64, np.float32), deterministic=False, rngs=rngs)

    with jax.enable_x64(False):
        narrow = np.asarray(apply())
    assert_same(apply(), narrow)


def test_missing_key_and_misfit_masks_are_named():
    def trace(variables):
        jax.eval_shape(lambda: train(variables))

    variables = {"params": jax_params("float32")}
    with pytest.raises(ValueError, match=r"deterministic=False needs a key for drop: pass rngs="):
        trace(variables)
    masks = shared_masks()
    del masks["h_1"]["mlp"]["dropout"]
    with pytest.raises(ValueError, match=r"needs a key for h_1/mlp/dropout"):
        trace(variables | {"dropout_masks": masks})
    masks = shared_masks()
    masks["drop"]["mask"] = masks["drop"]["mask"][:1]
    with pytest.raises(ValueError, match=r"mask of drop must be bool \(3, 16, 32\); got bool \(1, 16, 32\)"):
        trace(variables | {"dropout_masks": masks})

    model = torch_model("float32").train()
    set_masks(model, shared_masks())
    model.drop.mask = model.drop.mask[:1]
    with pytest.raises(ValueError, match=r"must be bool \(3, 16, 32\); got torch.bool \(1, 16, 32\)"):
        model(torch.tensor(tokens()[0]))


class AttentionWithTheBug(torch_side.Attention):
    """As it is often written: `dropout_p` fixed, whatever the module's mode."""

    def forward(self, x_BTD):
        q, k, v = (
            y.view(*x_BTD.shape[:2], self.config.num_heads, -1).transpose(1, 2)
            for y in self.c_attn(x_BTD).split(self.config.embed_dim, dim=-1)
        )
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.config.dropout, is_causal=True)
        return self.resid_dropout(self.c_proj(y.transpose(1, 2).reshape(x_BTD.shape)))


def test_torch_attention_stops_dropping_out_in_eval_and_one_with_fixed_dropout_p_does_not():
    right = torch_model("float64").h[0].attn
    wrong = AttentionWithTheBug(TINY).double()
    wrong.load_state_dict(right.state_dict())
    x_BTD = torch.randn(2, 16, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for attention in (right, wrong):
            attention.train()
            assert not torch.equal(attention(x_BTD), attention(x_BTD))
            attention.eval()
        assert torch.equal(right(x_BTD), right(x_BTD))
        assert not torch.equal(wrong(x_BTD), wrong(x_BTD))

    # The Flax side has no mode to forget: without a key it cannot drop out at all.
    params = jax_params("float64")["h_0"]["attn"]
    y_BTD = jax_side.Attention(TINY).apply({"params": params}, x_BTD.numpy(), deterministic=True)
    assert_within(y_BTD, right(x_BTD), 16)
    with pytest.raises(ValueError, match="needs a key"):
        jax_side.Attention(TINY).apply({"params": params}, x_BTD.numpy(), deterministic=False)
