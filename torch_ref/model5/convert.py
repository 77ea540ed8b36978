"""Weights of Model 5 as plain arrays, and on disk as Hugging Face's GPT-2.

The arrays have GPT-2's names and layout, whose kernels are [in, out]: the transpose of `nn.Linear.weight`.
"""

import os
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from jaxloss.model5._gpt2_files import read_weights, write_weights
from jaxloss.model5._gpt2_layout import clean_arrays
from torch_ref.model5.config import Model5Config
from torch_ref.model5.model import Model5


def to_arrays(model: Model5) -> dict[str, np.ndarray]:
    """Copy a model's parameters to named numpy arrays.

    Args:
        model: a Model 5 whose head is tied.

    Returns:
        GPT-2's names without the `transformer.` prefix; 16-bit floats come widened to float32.

    Raises:
        ValueError: `head.weight` is a parameter of its own.
    """
    if model.head.weight is not model.wte.weight:
        raise ValueError("head.weight must be the very Parameter wte.weight; got another one")
    arrays = {}
    for name, parameter in model.named_parameters():
        value = parameter.detach().cpu()
        value = value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
        # A copy, as the tensor's own memory changes with the next optimizer step.
        arrays[name] = (value.T if _is_linear_weight(model, name) else value).numpy().copy()
    return arrays


def from_arrays(arrays: Mapping[str, np.ndarray], config: Model5Config) -> Model5:
    """Make a model from named arrays: the inverse of `to_arrays`.

    Args:
        arrays: GPT-2's names and layout, with or without the `transformer.` prefix; stored causal masks are
            ignored, and so is an `lm_head.weight` that equals `wte.weight`.
        config: sizes that the arrays must have.

    Returns:
        The model, in the arrays' dtype, in evaluation mode.

    Raises:
        ValueError: an array is missing, unexpected or of the wrong shape, or the head is not tied.
    """
    with torch.device("meta"):
        model = Model5(config)
    state = {}
    for name, array in clean_arrays(arrays, config).items():
        value = torch.tensor(array)
        state[name] = value.T.contiguous() if _is_linear_weight(model, name) else value
    model.load_state_dict(state | {"head.weight": state["wte.weight"]}, assign=True)
    # Assigning made one Parameter for each name.
    model.head.weight = model.wte.weight
    return model.eval()


def save_weights(path: str | os.PathLike[str], model: Model5, config: Model5Config) -> None:
    """Save a model so that `load_weights`, `jaxloss` and Hugging Face's transformers can read it.

    GPT-2 has no `logit_scale`: transformers computes the logits without that factor.

    Args:
        path: a directory, which gets `config.json` and `model.safetensors`, or a file ending in
            `.safetensors`, which carries the configuration in its metadata. What is there is replaced.
        model: a Model 5 whose head is tied.
        config: the model's sizes and options.

    Raises:
        ValueError: `model` does not fit `config`, or `path` is of another kind.
    """
    write_weights(path, clean_arrays(to_arrays(model), config, "model"), config)


def load_weights(
    path: str | os.PathLike[str], config: Model5Config | None = None
) -> tuple[Model5, Model5Config]:
    """Load what `save_weights` saved, or a GPT-2 checkpoint of Hugging Face's.

    Args:
        path: a directory with `config.json` and `model.safetensors` (or shards and their index), or a
            `.safetensors` file.
        config: sizes and options to use instead of the checkpoint's own. A lone file that carries none is
            taken as a GPT-2: tanh GELU, logits not scaled, heads of width 64.

    Returns:
        The model, in the dtype of the file (16-bit floats widened to float32) and in evaluation mode, and
        its configuration.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: it is not a whole GPT-2 checkpoint; the message names the file and what is wrong.
    """
    arrays, config = read_weights(path, config)
    return from_arrays(arrays, config), config


def _is_linear_weight(model: Model5, name: str) -> bool:
    module, _, kind = name.rpartition(".")
    return kind == "weight" and isinstance(model.get_submodule(module), nn.Linear)
