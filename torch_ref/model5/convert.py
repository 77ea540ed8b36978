"""Weights of Model 5 as plain arrays, and on disk as Hugging Face's GPT-2.

The arrays have GPT-2's names and layout, whose kernels are [in, out]: the transpose of `nn.Linear.weight`.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor

from torch_ref.model5.config import GPT2, Activation, Model5Config
from torch_ref.model5.model import Model5

# What torch.compile, DistributedDataParallel, FSDP and activation checkpoints put before a module's names.
_WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_KERNELS = ("c_attn.weight", "c_proj.weight", "c_fc.weight")

# What Model 5 does, where GPT-2's configuration leaves a choice.
_FIXED_OPTIONS = {
    "model_type": "gpt2",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
_FIELDS = {
    "vocab_size": "vocab_size",
    "n_positions": "context_length",
    "n_embd": "embed_dim",
    "n_head": "num_heads",
    "n_layer": "num_blocks",
    "embd_pdrop": "dropout",
    "layer_norm_epsilon": "layer_norm_eps",
    # Not an option of GPT-2's: transformers keeps it and does not apply it.
    "logit_scale": "logit_scale",
}
_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


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
        value = _widened(parameter.detach().cpu())
        # A copy, as the tensor's own memory changes with the next optimizer step.
        arrays[name] = (value.T if name.endswith(_KERNELS) else value).numpy().copy()
    return arrays


def from_arrays(arrays: Mapping[str, np.ndarray], config: Model5Config) -> Model5:
    """Make a model from named arrays: the inverse of `to_arrays`.

    Args:
        arrays: GPT-2's names and layout, with or without the `transformer.` prefix and those of torch's
            wrappers (`module.`, `_orig_mod.`); stored causal masks are ignored, and so is an `lm_head.weight`
            that equals `wte.weight`. Alone, it stands for both.
        config: sizes that the arrays must have.

    Returns:
        The model, in the arrays' dtype, in evaluation mode.

    Raises:
        ValueError: the head is not tied, or an array is there twice.
        RuntimeError: an array is missing, unexpected or of the wrong shape; from `load_state_dict`.
    """
    return _from_tensors({name: torch.tensor(array) for name, array in arrays.items()}, config)


def save_weights(path: str | os.PathLike[str], model: Model5, config: Model5Config) -> None:
    """Save a model so that `load_weights`, `jaxloss` and Hugging Face's transformers can read it.

    GPT-2 has no `logit_scale`: transformers computes the logits without that factor, unless
    `fold_logit_scale` makes it 1 first.

    Args:
        path: a directory, which gets `config.json` and `model.safetensors`, or a file ending in
            `.safetensors`, which carries the configuration in its metadata. What is there is replaced.
        model: a Model 5 whose head is tied.
        config: the model's sizes and options.

    Raises:
        ValueError: the head is not tied.
        RuntimeError: `model` does not fit `config`.
    """
    arrays, path = to_arrays(model), Path(path)
    from_arrays(arrays, config)  # raises if they do not fit
    config_text = json.dumps(_to_hugging_face(config), indent=2)
    if path.suffix != ".safetensors":
        path.mkdir(parents=True, exist_ok=True)
        (path / "config.json").write_text(config_text + "\n")
        path = path / "model.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(arrays, path, metadata={"format": "pt", "config": config_text})


def fold_logit_scale(model: Model5, config: Model5Config) -> tuple[Model5, Model5Config]:
    """A copy with a `logit_scale` of 1, so that transformers computes its logits too.

    The factor goes into the last norm, which nothing but the head comes after. Logits agree to rounding.

    Args:
        model: a Model 5 whose head is tied.
        config: its sizes and options.
    """
    arrays = to_arrays(model)
    for name in ("ln_f.weight", "ln_f.bias"):
        arrays[name] *= config.logit_factor
    folded = replace(config, logit_scale=1.0)
    return from_arrays(arrays, folded), folded


def load_weights(
    path: str | os.PathLike[str], config: Model5Config | None = None
) -> tuple[Model5, Model5Config]:
    """Load what `save_weights` saved, or a GPT-2 checkpoint of Hugging Face's.

    Args:
        path: a directory with `config.json` and `model.safetensors` (or its shards), or a `.safetensors`
            file.
        config: sizes and options to use instead of the checkpoint's own. A lone file that carries none is
            taken as a GPT-2: tanh GELU, logits not scaled, heads of width 64.

    Returns:
        The model, in the dtype of the file (16-bit floats widened to float32) and in evaluation mode, and
        its configuration.

    Raises:
        FileNotFoundError: there is no safetensors file at `path`.
        ValueError, KeyError: it is not a GPT-2 that Model 5 is, or the head is not tied.
        RuntimeError: an array is missing, unexpected or of the wrong shape; from `load_state_dict`.
        SafetensorError: a file is damaged.
    """
    path = Path(path)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files:
        raise FileNotFoundError(f"{path} holds no .safetensors file")
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            metadata |= opened.metadata() or {}
            tensors |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    if config is None:
        described = path / "config.json"
        text = described.read_bytes() if described.exists() else metadata.get("config")
        config = _with_sizes_of(tensors) if text is None else _from_hugging_face(json.loads(text))
    return _from_tensors(tensors, config), config


def _from_tensors(tensors: Mapping[str, Tensor], config: Model5Config) -> Model5:
    state = {}
    for name, value in _plain(tensors).items():
        # Checkpoints of old store the causal masks too.
        if not name.endswith((".attn.bias", ".attn.masked_bias")):
            state[name] = _widened(value.T.contiguous() if name.endswith(_KERNELS) else value)
    head = state.pop("lm_head.weight", None)
    if head is not None and not torch.equal(head, state["wte.weight"]):
        raise ValueError("lm_head.weight differs from wte.weight; Model 5's head is tied to it")
    if "wte.weight" in state:
        state["head.weight"] = state["wte.weight"]
    with torch.device("meta"):
        model = Model5(config)
    model.load_state_dict(state, assign=True)
    # Assigning made one Parameter for each name.
    model.head.weight = model.wte.weight
    return model.eval()


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under GPT-2's names; a head without a token embedding is that too."""
    plain: dict[str, Tensor] = {}
    for name, value in tensors.items():
        name = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
        name = name.removeprefix("transformer.")
        if name in plain:
            raise ValueError(f"{name} is there twice")
        plain[name] = value
    if "lm_head.weight" in plain:
        plain.setdefault("wte.weight", plain["lm_head.weight"])
    return plain


def _to_hugging_face(config: Model5Config) -> dict[str, Any]:
    """The contents of a `config.json` that transformers can read."""
    end_of_text = 50256 if config.vocab_size == GPT2.vocab_size else None
    return {
        "architectures": ["GPT2LMHeadModel"],
        **_FIXED_OPTIONS,
        **{name: getattr(config, field) for name, field in _FIELDS.items()},
        "activation_function": "gelu" if config.activation == "gelu" else "gelu_new",
        "attn_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
    }


def _from_hugging_face(options: dict[str, Any]) -> Model5Config:
    """The configuration that a `config.json` describes."""
    for name, expected in _FIXED_OPTIONS.items():
        if options.get(name, expected) != expected:
            raise ValueError(f"{name} must be {expected!r} for Model 5; got {options[name]!r}")
    dropouts = {options.get(f"{place}_pdrop", GPT2.dropout) for place in ("embd", "attn", "resid")}
    if len(dropouts) > 1:
        raise ValueError(f"Model 5 has one dropout rate; got {dropouts}: pass config with the one to use")
    given = {field: options[name] for name, field in _FIELDS.items() if name in options}
    activation = _ACTIVATIONS[options.get("activation_function", "gelu_new")]
    return replace(GPT2, **given, activation=activation)


def _with_sizes_of(tensors: Mapping[str, Tensor]) -> Model5Config:
    """GPT-2's options, with the sizes that the tensors have and heads of width 64."""
    shapes = {name: value.shape for name, value in _plain(tensors).items()}
    (vocab_size, width), (context_length, _) = shapes["wte.weight"], shapes["wpe.weight"]
    if width % 64:
        raise ValueError(f"width {width} is not a multiple of GPT-2's head width 64: pass config")
    return replace(
        GPT2,
        vocab_size=vocab_size,
        context_length=context_length,
        embed_dim=width,
        num_heads=width // 64,
        num_blocks=len({name.split(".")[1] for name in shapes if name.startswith("h.")}),
    )


def _widened(value: Tensor) -> Tensor:
    return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
