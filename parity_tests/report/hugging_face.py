"""Model 5 with the options of GPT-2 against `transformers`: logits, every gradient, and greedy text."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import jaxloss.model5
from jaxloss.model5 import GPT2, to_arrays
from jaxloss.testing import Pair, integers
from parity_tests.report.pairs import varied_params

CONFIG = replace(GPT2, vocab_size=61, context_length=32, embed_dim=64, num_heads=4, num_blocks=2)
NUM_TOKENS = 24


def hugging_face_pairs() -> list[Pair]:
    """The logits, from random weights, so that nothing is downloaded."""

    def logits(params: Any, ids_BT: jax.Array) -> jax.Array:
        return jaxloss.model5.Model5(CONFIG).apply({"params": params}, ids_BT)

    options = {"params": varied_params(CONFIG), "params_to_torch": _named_as_theirs}
    ids = integers(3, CONFIG.context_length, high=CONFIG.vocab_size)
    return [Pair("GPT2LMHeadModel", logits, _Logits(_config()).eval(), [ids], options)]


def greedy_texts() -> tuple[np.ndarray, np.ndarray]:
    """The new tokens of four texts under greedy decoding, ours and those of transformers."""
    # Weights large enough that greedy text varies.
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, "float32"), varied_params(CONFIG, scale=0.2))
    model = GPT2LMHeadModel(_config()).eval()
    given = {name: torch.tensor(array) for name, array in _named_as_theirs(params).items()}
    model.load_state_dict(given | {"lm_head.weight": given["transformer.wte.weight"]})
    prompt = np.random.default_rng(0).integers(CONFIG.vocab_size, size=(4, 6), dtype=np.int32)
    ids = torch.tensor(prompt, dtype=torch.int64)
    expected = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NUM_TOKENS
    )
    with jax.default_matmul_precision("highest"):
        text = jaxloss.model5.generate(
            params, CONFIG, prompt, num_tokens=NUM_TOKENS, key=jax.random.key(0), temperature=0.0
        )
    length = prompt.shape[1]
    return np.asarray(text)[:, length:], expected.numpy()[:, length:]


class _Logits(GPT2LMHeadModel):
    """Theirs, returning the logits alone."""

    def forward(self, ids_BT: Any) -> Any:
        return super().forward(ids_BT).logits


def _config() -> GPT2Config:
    return GPT2Config(
        vocab_size=CONFIG.vocab_size,
        n_positions=CONFIG.context_length,
        n_embd=CONFIG.embed_dim,
        n_layer=CONFIG.num_blocks,
        n_head=CONFIG.num_heads,
        bos_token_id=None,
        eos_token_id=None,
    )


def _named_as_theirs(params: Any) -> dict[str, np.ndarray]:
    return {f"transformer.{name}": array for name, array in to_arrays(params).items()}
