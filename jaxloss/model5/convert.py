"""Weights of Model 5 as plain arrays, and on disk as Hugging Face's GPT-2.

The arrays have GPT-2's names and layout (`h.0.attn.c_attn.weight`, kernels [in, out]), so that weights go to
PyTorch by `torch_ref.model5.from_arrays(jaxloss.model5.to_arrays(params), config)`, and back the same way.
"""

import dataclasses
import os
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxloss.model5._gpt2_files import read_weights, write_weights
from jaxloss.model5._gpt2_layout import array_name, clean_arrays, param_shapes
from jaxloss.model5.config import Model5Config
from jaxloss.model5.model import Params


def to_arrays(params: Params) -> dict[str, np.ndarray]:
    """Copy parameters, or anything of the same structure such as their gradients, to named numpy arrays.

    Args:
        params: nested dict as from `init_params`.

    Returns:
        GPT-2's names without the `transformer.` prefix; 16-bit floats come widened to float32.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    # Copies: a view would be of memory that a training step can be given to reuse.
    return clean_arrays({array_name(path): np.array(leaf) for path, leaf in leaves}, None)


def from_arrays(arrays: Mapping[str, np.ndarray], config: Model5Config) -> Params:
    """Make parameters from named arrays: the inverse of `to_arrays`.

    Args:
        arrays: GPT-2's names and layout, with or without the `transformer.` prefix and those of torch's
            wrappers (`module.`, `_orig_mod.`); stored causal masks are ignored, and so is an `lm_head.weight`
            that equals `wte.weight`. Alone, it stands for both.
        config: sizes that the arrays must have.

    Raises:
        ValueError: an array is missing, unexpected or of the wrong shape, or the head is not tied.
    """
    cleaned = clean_arrays(arrays, config)
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jnp.array(cleaned[array_name(path)]), param_shapes(config)
    )


def save_weights(path: str | os.PathLike[str], params: Params, config: Model5Config) -> None:
    """Save parameters so that `load_weights`, `torch_ref` and Hugging Face's transformers can read them.

    GPT-2 has no `logit_scale`: transformers computes the logits without that factor, unless
    `fold_logit_scale` makes it 1 first.

    Args:
        path: a directory, which gets `config.json` and `model.safetensors`, or a file ending in
            `.safetensors`, which carries the configuration in its metadata. What is there is replaced.
        params: nested dict as from `init_params`.
        config: the model's sizes and options.

    Raises:
        ValueError: `params` does not fit `config`, or `path` is of another kind.
    """
    write_weights(path, clean_arrays(to_arrays(params), config, "params"), config)


def fold_logit_scale(params: Params, config: Model5Config) -> tuple[Params, Model5Config]:
    """The same model with a `logit_scale` of 1, so that transformers computes its logits too.

    The factor goes into the last norm, which nothing but the head comes after. Logits agree to rounding.

    Args:
        params: nested dict as from `init_params`.
        config: the model's sizes and options.

    >>> from jaxloss.model5 import init_params
    >>> config = Model5Config(vocab_size=11, context_length=4, embed_dim=16, num_heads=2, num_blocks=1)
    >>> params, folded = fold_logit_scale(init_params(config, jax.random.key(0)), config)
    >>> folded.logit_factor, float(params["ln_f"]["scale"][0])
    (1.0, 0.25)
    """
    last_norm = jax.tree.map(lambda leaf: leaf * config.logit_factor, params["ln_f"])
    return {**params, "ln_f": last_norm}, dataclasses.replace(config, logit_scale=1.0)


def load_weights(
    path: str | os.PathLike[str], config: Model5Config | None = None
) -> tuple[Params, Model5Config]:
    """Load what `save_weights` saved, or a GPT-2 checkpoint of Hugging Face's.

    Args:
        path: a directory with `config.json` and `model.safetensors` (or shards and their index), or a
            `.safetensors` file.
        config: sizes and options to use instead of the checkpoint's own. A lone file that carries none is
            taken as a GPT-2: tanh GELU, logits not scaled, heads of width 64.

    Returns:
        The parameters, in the dtype of the file (16-bit floats widened to float32), and their configuration.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: it is not a whole GPT-2 checkpoint; the message names the file and what is wrong.
    """
    arrays, config = read_weights(path, config)
    return from_arrays(arrays, config), config
