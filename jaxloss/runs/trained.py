"""A trained model from wherever it lies: a run's folder, a file of weights or a GPT-2 directory."""

from __future__ import annotations

import dataclasses
import difflib
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxloss.data import Tokenizer, load_tokenizer, make_tokenizer
from jaxloss.model5 import GPT2, Model5Config, fold_logit_scale, load_weights, save_weights
from jaxloss.runs.settings import DataConfig

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


class TrainedModel(NamedTuple):
    """A model and what it reads and writes text with.

    Attributes:
        params: nested dict as from `init_params`; every number is finite.
        config: its sizes and options.
        tokenizer: its tokenizer, none of whose ids is outside the vocabulary.
        path: where the weights lie.
    """

    params: Any
    config: Model5Config
    tokenizer: Tokenizer
    path: Path


def save_trained(path: str | os.PathLike[str], params: Any, config: Model5Config) -> None:
    """Save a run's model to a directory, from which transformers computes the same logits.

    Args:
        path: in the run's folder, `weights` or `weights_<which>`, where `load_trained` looks.
        params: nested dict as from `init_params`.
        config: the model's sizes and options.
    """
    save_weights(path, *fold_logit_scale(params, config))


def load_trained(path: str | os.PathLike[str], *, tokenizer: str | None = None) -> TrainedModel:
    """Load a model to sample from, to evaluate or to go on from.

    Args:
        path: the folder of a run, one of the weights in it, any `.safetensors` file, or a directory as
            transformers saves a GPT-2.
        tokenizer: a `tokenizer.json` or the folder that holds one, gpt2 or bytes. None means the one beside
            the weights, and GPT-2's where there is none and the vocabulary is of its size.

    Raises:
        FileNotFoundError: there is nothing at `path`, or no such tokenizer.
        ValueError: it holds no weights or those of several models, they are damaged or not finite, or the
            tokenizer does not fit; names the file.
    """
    weights = _find_weights(Path(path))
    params, config = load_weights(weights)
    for place, leaf in jax.tree.leaves_with_path(params):
        array = np.asarray(leaf)
        if not np.isfinite(array).all():
            position = [int(i) for i in np.argwhere(~np.isfinite(array))[0]]
            name = jax.tree_util.keystr(place, simple=True, separator="/")
            raise ValueError(
                f"{weights}: {name}{position} is {array[tuple(position)]}: the training diverged; "
                "take weights that were saved before"
            )
    found = _find_tokenizer(weights, config, tokenizer)
    if found.vocab_size > config.vocab_size:
        raise ValueError(
            f"{weights} has a vocabulary of {config.vocab_size:,}, but the tokenizer's ids go up to "
            f"{found.vocab_size - 1:,}: give its own with --tokenizer"
        )
    return TrainedModel(params, config, found, weights)


def fine_tuned(start: TrainedModel, asked: Model5Config, default: Model5Config) -> TrainedModel:
    """The model that goes on from a trained one: all but the dropout is the trained one's.

    A larger vocabulary than the trained one's is filled up with tokens whose embedding is the mean of all:
    with the mean logit, n more beside V take at most n / (n + V) of the probability (Hewitt 2021,
    https://nlp.stanford.edu/~johnhew/vocab-expansion.html).

    Args:
        start: the trained model.
        asked: the model as it was asked for.
        default: the model that is meant where nothing is asked for.

    Raises:
        ValueError: a size or option is asked for that the trained model does not have.
    """
    own, vocab_size = start.config, start.config.vocab_size
    for field in dataclasses.fields(Model5Config):
        name, value, wanted = field.name, getattr(own, field.name), getattr(asked, field.name)
        if name == "dropout" or wanted in (value, getattr(default, name)):
            continue
        if name != "vocab_size" or wanted < vocab_size:
            raise ValueError(f"model.{name} is {wanted}, but the model of --init has {value}: leave it out")
        vocab_size = wanted
    config = dataclasses.replace(own, dropout=asked.dropout, vocab_size=vocab_size)
    table_VD = jnp.asarray(start.params["wte"]["embedding"])
    added_VD = jnp.tile(table_VD.mean(0), (vocab_size - own.vocab_size, 1))
    params = start.params | {"wte": {"embedding": jnp.concatenate([table_VD, added_VD])}}
    return start._replace(params=params, config=config)


def check_tokenizer(own: Tokenizer, asked: DataConfig, default: DataConfig) -> None:
    """Raise if another tokenizer is asked for than the trained model's own."""
    for name, value in (("tokenizer", own.name), ("vocab_size", own.vocab_size)):
        wanted = getattr(asked, name)
        if wanted not in (value, getattr(default, name)):
            raise ValueError(f"data.{name} is {wanted}, but that of --init is {value}: leave it out")


def _find_weights(path: Path) -> Path:
    if not path.exists():
        siblings = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, siblings, n=1)
        hint = f": did you mean {path.parent / close[0]}?" if close else ""
        raise FileNotFoundError(f"no run folder, .safetensors file or GPT-2 directory at {path}{hint}")
    if path.is_file() or any((path / name).exists() for name in _WEIGHTS):
        return path
    found = sorted([*path.glob("weights"), *path.glob("weights_*"), *path.glob("*.safetensors")])
    found = list(dict.fromkeys(found))
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise ValueError(f"{path} holds several models, {names}: name one, such as {found[0]}")
    if found:
        return found[0]
    if any(path.glob("*.bin")):
        # `load_weights` says what to do with a pickle.
        return path
    raise ValueError(
        f"{path} is no run folder with weights, and no GPT-2 directory: it holds no .safetensors"
    )


def _find_tokenizer(weights: Path, config: Model5Config, given: str | None) -> Tokenizer:
    if given in ("gpt2", "bytes"):
        return make_tokenizer(given)
    if given is not None:
        return load_tokenizer(given)
    # A run's tokenizer lies beside its weights, which may be a directory or a file in one.
    folders = [weights, *weights.parents]
    for folder in folders[: 3 if weights.name == _WEIGHTS[0] else 2]:
        if (folder / "tokenizer.json").is_file():
            return load_tokenizer(folder)
    if config.vocab_size == GPT2.vocab_size:
        return make_tokenizer("gpt2")
    raise ValueError(f"no tokenizer.json beside {weights}: name the model's own with --tokenizer")
