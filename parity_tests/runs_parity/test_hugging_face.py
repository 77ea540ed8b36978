"""Greedy text is transformers' text, token for token, from a checkpoint of either side."""

import jax
import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from jaxloss import model5
from jaxloss.model5 import GPT2

NUM_TOKENS = 24


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A GPT-2 of transformers', with weights large enough that greedy text varies, and its folder."""
    options = {"bos_token_id": None, "eos_token_id": None}
    config = GPT2Config(vocab_size=61, n_positions=32, n_embd=64, n_layer=2, n_head=1, **options)
    model = GPT2LMHeadModel(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    path = tmp_path_factory.mktemp("gpt2")
    model.save_pretrained(path)
    return model, path


def test_greedy_text_is_that_of_transformers_token_for_token(checkpoint):
    model, path = checkpoint
    prompt = np.random.default_rng(0).integers(61, size=(4, 6), dtype=np.int32)
    ids = torch.tensor(prompt, dtype=torch.int64)
    options = {"do_sample": False, "max_new_tokens": NUM_TOKENS}
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    params, config = model5.load_weights(path)
    assert (config.activation, config.logit_scale) == (GPT2.activation, GPT2.logit_scale)
    text = model5.generate(params, config, prompt, num_tokens=NUM_TOKENS, key=jax.random.key(0), top_k=1)
    np.testing.assert_array_equal(text, expected.numpy())
    # Not the same token over and over, which any model would agree on.
    assert min(len(np.unique(row)) for row in np.asarray(text)[:, 6:]) > 5
