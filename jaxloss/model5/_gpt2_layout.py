"""Names, shapes and options of Hugging Face's GPT-2, and what they are called here.

The arrays go by GPT-2's names without the `transformer.` prefix (`wte.weight`, `h.0.attn.c_attn.weight`),
and kernels are [in, out].
"""

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from jaxloss.model5.config import GPT2, Activation, Model5Config
from jaxloss.model5.model import Params, init_params

Arrays = dict[str, np.ndarray]

# What torch.compile, DistributedDataParallel, FSDP and activation checkpoints put before a module's names.
_WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_CAUSAL_MASKS = re.compile(r"h\.\d+\.attn\.(masked_)?bias")

_SIZES = {
    "vocab_size": "vocab_size",
    "n_positions": "context_length",
    "n_embd": "embed_dim",
    "n_layer": "num_blocks",
    "n_head": "num_heads",
}
_FIELDS = _SIZES | {
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

# What Model 5 does, where GPT-2's configuration leaves a choice.
_FIXED_OPTIONS = {
    "model_type": "gpt2",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}


@functools.cache
def param_shapes(config: Model5Config) -> Params:
    """The parameters of a model, as shapes and dtypes."""
    return jax.eval_shape(functools.partial(init_params, config), jax.random.key(0))


def array_name(path: tuple[Any, ...]) -> str:
    """GPT-2's name of the parameter at a path: `h.0.attn.c_attn.weight` for `h_0/attn/c_attn/kernel`."""
    *modules, leaf_name = (str(entry.key) for entry in path)
    name = ".".join([*modules, "bias" if leaf_name == "bias" else "weight"])
    return re.sub(r"^h_(\d+)", r"h.\1", name)


def array_shapes(config: Model5Config) -> dict[str, tuple[int, ...]]:
    """Name and shape of every array of a model."""
    leaves = jax.tree_util.tree_leaves_with_path(param_shapes(config))
    return {array_name(path): leaf.shape for path, leaf in leaves}


def clean_arrays(arrays: Mapping[str, Any], config: Model5Config | None, source: str = "arrays") -> Arrays:
    """The model's arrays and nothing else, under their plain names, 16-bit floats widened to float32.

    Drops the `transformer.` prefix and those of torch's wrappers, the causal masks that old checkpoints
    store, and an `lm_head.weight` that equals the token embedding; without that embedding, it is it. With a
    `config`, every name and shape is checked against it.

    Raises:
        ValueError: an array is missing, unexpected, there twice, of the wrong shape or not floating point, or
            the head is not tied; the message begins with `source`.
    """
    cleaned: Arrays = {}
    for name, array in arrays.items():
        plain = _plain_name(name)
        if plain in cleaned:
            raise ValueError(f"{source} holds {plain} twice, once of them as {name}: leave one out")
        if not _CAUSAL_MASKS.fullmatch(plain):
            cleaned[plain] = np.asarray(array)
    head = cleaned.pop("lm_head.weight", None)
    # Of two names of one tensor, safetensors' save_model writes the first in the alphabet.
    if head is not None and not np.array_equal(head, cleaned.setdefault("wte.weight", head)):
        raise ValueError(f"{source}: lm_head.weight differs from wte.weight; Model 5's head is tied to it")
    if config is not None:
        if config.num_blocks > len(cleaned):
            raise ValueError(
                f"{source} does not hold this model: {len(cleaned)} arrays are too few for "
                f"{config.num_blocks} blocks"
            )
        _check_names_and_shapes(cleaned, array_shapes(config), source)
    return {name: _as_float(name, array, source) for name, array in cleaned.items()}


def _plain_name(name: str) -> str:
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    return ".".join(parts).removeprefix("transformer.")


def to_hugging_face(config: Model5Config) -> dict[str, Any]:
    """The contents of a `config.json` that `from_hugging_face` and transformers can read."""
    activation = "gelu" if config.activation == "gelu" else "gelu_new"
    end_of_text = 50256 if config.vocab_size == GPT2.vocab_size else None
    return {
        "architectures": ["GPT2LMHeadModel"],
        **_FIXED_OPTIONS,
        **{name: getattr(config, field) for name, field in _FIELDS.items()},
        "n_inner": None,
        "activation_function": activation,
        "attn_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
    }


def from_hugging_face(options: dict[str, Any], source: str) -> Model5Config:
    """The configuration that a `config.json` describes.

    Raises:
        ValueError: it describes a model that Model 5 is not; the message begins with `source`.
    """
    for name, expected in _FIXED_OPTIONS.items():
        if options.get(name, expected) != expected:
            raise ValueError(f"{source}: {name} must be {expected!r} for Model 5; got {options[name]!r}")
    missing = [name for name in _SIZES if name not in options]
    if missing:
        raise ValueError(f"{source} lacks {listing(missing)}")
    activation = options.get("activation_function", "gelu_new")
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise ValueError(
            f"{source}: activation_function must be one of {', '.join(_ACTIVATIONS)}; got {activation!r}"
        )
    dropouts = [options.get(f"{place}_pdrop", GPT2.dropout) for place in ("embd", "attn", "resid")]
    if any(dropout != dropouts[0] for dropout in dropouts):
        raise ValueError(
            f"{source}: Model 5 has one dropout rate, and embd_pdrop, attn_pdrop and resid_pdrop differ "
            f"({', '.join(map(str, dropouts))}): pass config with the one to use"
        )
    try:
        given = {field: options[name] for name, field in _FIELDS.items() if name in options}
        config = dataclasses.replace(GPT2, **given, activation=_ACTIVATIONS[activation])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source}: {error}") from error
    if options.get("n_inner") not in (None, 4 * config.embed_dim):
        raise ValueError(f"{source}: n_inner must be 4 * n_embd; got {options['n_inner']}")
    return config


def infer_config(arrays: Arrays, source: str) -> Model5Config:
    """GPT-2's options, with the sizes that the arrays have and heads of width 64.

    Raises:
        ValueError: the arrays are not a GPT-2's, or the width is not a multiple of 64.
    """
    for name in ("wte.weight", "wpe.weight"):
        if name not in arrays or arrays[name].ndim != 2:
            raise ValueError(f"{source}: no GPT-2 checkpoint, it has no matrix {name}")
    vocab_size, width = arrays["wte.weight"].shape
    if width % 64:
        raise ValueError(
            f"{source} does not say how many heads it has, and its width {width} is not a multiple of "
            "GPT-2's head width 64: pass config"
        )
    return dataclasses.replace(
        GPT2,
        vocab_size=vocab_size,
        context_length=arrays["wpe.weight"].shape[0],
        embed_dim=width,
        num_heads=width // 64,
        num_blocks=len({name.split(".")[1] for name in arrays if name.startswith("h.")}),
    )


def _check_names_and_shapes(arrays: Arrays, shapes: dict[str, tuple[int, ...]], source: str) -> None:
    complaints = []
    missing = [name for name in shapes if name not in arrays]
    unexpected = [name for name in arrays if name not in shapes]
    if missing:
        complaints.append(f"missing {listing(missing)}")
    if unexpected:
        complaints.append(f"unexpected {listing(unexpected)}")
    wrong = [
        f"{name} must have shape {shape}; got {arrays[name].shape}"
        for name, shape in shapes.items()
        if name in arrays and arrays[name].shape != shape
    ]
    if wrong:
        complaints.append(listing(wrong))
    if complaints:
        raise ValueError(f"{source} does not hold this model: {'; '.join(complaints)}")


def listing(names: Iterable[str], most: int = 4) -> str:
    """`a, b, c, d and 12 more`."""
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _as_float(name: str, array: np.ndarray, source: str) -> np.ndarray:
    if array.dtype.name in ("bfloat16", "float16"):
        return array.astype(np.float32)
    if array.dtype not in (np.float32, np.float64):
        raise ValueError(f"{source}: {name} must be floating point; got {array.dtype}")
    return array
