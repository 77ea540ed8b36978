"""Weights of Model 5 as plain arrays, and on disk as Hugging Face's GPT-2.

The arrays have GPT-2's names and layout (`h.0.attn.c_attn.weight`, kernels [in, out]), so that weights go to
PyTorch by `torch_ref.model5.from_arrays(jaxloss.model5.to_arrays(params), config)`, and back the same way.
"""

import os
import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxloss.model5._gpt2_files import read_weights, write_weights
from jaxloss.model5._gpt2_layout import clean_arrays
from jaxloss.model5.config import Model5Config
from jaxloss.model5.model import Params

_LEAF_NAMES = {"embedding": "weight", "kernel": "weight", "scale": "weight", "bias": "bias"}
_BLOCK_IN_FLAX, _BLOCK_IN_GPT2 = re.compile(r"^h_(\d+)"), re.compile(r"^h\.(\d+)")
_KERNELS = ("c_attn", "c_proj", "c_fc")


def to_arrays(params: Params) -> dict[str, np.ndarray]:
    """Copy parameters, or anything of the same structure such as their gradients, to named numpy arrays.

    Args:
        params: nested dict as from `init_params`.

    Returns:
        GPT-2's names without the `transformer.` prefix; 16-bit floats come widened to float32.
    """
    arrays = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        *modules, leaf_name = (str(entry.key) for entry in path)
        name = ".".join([*modules, _LEAF_NAMES[leaf_name]])
        # A copy: a view would be of memory that a training step can be given to reuse.
        arrays[_BLOCK_IN_FLAX.sub(r"h.\1", name)] = np.array(leaf)
    return clean_arrays(arrays, None)


def from_arrays(arrays: Mapping[str, np.ndarray], config: Model5Config) -> Params:
    """Make parameters from named arrays: the inverse of `to_arrays`.

    Args:
        arrays: GPT-2's names and layout, with or without the `transformer.` prefix; stored causal masks are
            ignored, and so is an `lm_head.weight` that equals `wte.weight`.
        config: sizes that the arrays must have.

    Raises:
        ValueError: an array is missing, unexpected or of the wrong shape, or the head is not tied.
    """
    params: Params = {}
    for name, array in clean_arrays(arrays, config).items():
        *modules, kind = _BLOCK_IN_GPT2.sub(r"h_\1", name).split(".")
        node = params
        for module in modules:
            node = node.setdefault(module, {})
        node[_leaf_name(modules[-1], kind)] = jnp.array(array)
    return params


def save_weights(path: str | os.PathLike[str], params: Params, config: Model5Config) -> None:
    """Save parameters so that `load_weights`, `torch_ref` and Hugging Face's transformers can read them.

    GPT-2 has no `logit_scale`: transformers computes the logits without that factor.

    Args:
        path: a directory, which gets `config.json` and `model.safetensors`, or a file ending in
            `.safetensors`, which carries the configuration in its metadata. What is there is replaced.
        params: nested dict as from `init_params`.
        config: the model's sizes and options.

    Raises:
        ValueError: `params` does not fit `config`, or `path` is of another kind.
    """
    write_weights(path, clean_arrays(to_arrays(params), config, "params"), config)


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


def _leaf_name(module: str, kind: str) -> str:
    if kind == "bias":
        return "bias"
    if module in ("wte", "wpe"):
        return "embedding"
    return "kernel" if module in _KERNELS else "scale"
