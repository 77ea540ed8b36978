"""Masks that JAX draws go into the torch model by name, all of them or none."""

import jax
import numpy as np
import pytest
import torch

import torch_ref.model5 as torch_side
from jaxloss.model5 import Model5, Model5Config, from_arrays
from jaxloss.testing import draw_masks, inject_masks

CONFIG = Model5Config(vocab_size=11, context_length=4, embed_dim=8, num_heads=2, num_blocks=1)
IDS = np.zeros((2, 4), np.int32)


def params(config):
    """From torch, which need not compile for it; no mask depends on them."""
    return from_arrays(torch_side.to_arrays(torch_side.Model5(config)), config)


@pytest.fixture(scope="module")
def masks():
    return draw_masks(Model5(CONFIG).apply, {"params": params(CONFIG)}, IDS, key=jax.random.key(1))


@pytest.fixture
def module():
    return torch_side.Model5(CONFIG).train()


def places(module):
    return {name: m for name, m in module.named_modules() if isinstance(m, torch_side.Dropout)}


def test_every_dropout_gets_its_own_mask_and_loses_it_afterwards(module, masks):
    with inject_masks(module, masks):
        np.testing.assert_array_equal(
            module.h[0].attn.attn_dropout.mask, masks["h_0"]["attn"]["attn_dropout"]["mask"]
        )
        np.testing.assert_array_equal(module.drop.mask, masks["drop"]["mask"])
        assert all(place.mask is not None for place in places(module).values())
        first, second = module(torch.tensor(IDS)), module(torch.tensor(IDS))
    assert torch.equal(first, second)
    assert all(place.mask is None for place in places(module).values())


def test_missing_and_extra_masks_are_named(module, masks):
    with pytest.raises(ValueError, match=r"without a mask: drop; masks without a place: none"):
        inject_masks(module, {"h_0": masks["h_0"]}).__enter__()
    with pytest.raises(ValueError, match=r"masks without a place: h\.1"):
        inject_masks(module, {**masks, "h_1": {"mask": np.ones(3, bool)}}).__enter__()


def test_module_in_evaluation_mode_is_refused(module, masks):
    with pytest.raises(ValueError, match="evaluation mode and would not drop anything in drop"):
        inject_masks(module.eval(), masks).__enter__()


def test_model_without_dropout_has_no_masks_to_draw():
    config = Model5Config(
        vocab_size=11, context_length=4, embed_dim=8, num_heads=2, num_blocks=1, dropout=0.0
    )
    with pytest.raises(ValueError, match="wrote no dropout_masks"):
        draw_masks(Model5(config).apply, {"params": params(config)}, IDS, key=jax.random.key(1))
