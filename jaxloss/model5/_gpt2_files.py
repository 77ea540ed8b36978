"""Weights on disk, as Hugging Face stores a GPT-2.

A directory holds `config.json` and `model.safetensors`, or shards with their index; a lone `.safetensors`
file of ours carries the configuration in its metadata.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxloss.model5._gpt2_layout import (
    Arrays,
    clean_arrays,
    from_hugging_face,
    infer_config,
    listing,
    to_hugging_face,
)
from jaxloss.model5.config import Model5Config

_WEIGHTS, _INDEX, _CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
_PICKLES = {".bin", ".pt", ".pth", ".ckpt"}


def write_weights(path: str | os.PathLike[str], arrays: Arrays, config: Model5Config) -> None:
    """Write a `.safetensors` file, or a directory with `config.json` and `model.safetensors`.

    What is there already is replaced, and only once the new file is complete.

    Raises:
        ValueError: `path` names a PyTorch pickle, or a file where a directory should go.
        OSError: it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    path = Path(path)
    if path.suffix in _PICKLES:
        raise ValueError(f"{path}: weights are written to a directory or a .safetensors file")
    config_text = json.dumps(to_hugging_face(config), indent=2)
    target = path
    if path.suffix != ".safetensors":
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file; weights are written to a directory or a .safetensors file")
        path.mkdir(parents=True, exist_ok=True)
        _replace_text(path / _CONFIG, config_text + "\n")
        target = path / _WEIGHTS
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(target.name + ".part")
    # safetensors reads the buffer of an array, whatever its strides.
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    unfinished.touch()
    mode = unfinished.stat().st_mode
    try:
        save_file(contiguous, unfinished, metadata={"format": "pt", "config": config_text})
    except SafetensorError as error:  # what it makes of a full disk
        unfinished.unlink()
        raise OSError(f"cannot write {target}: {error}") from error
    # safetensors makes files that only their owner can read, whatever the umask.
    unfinished.chmod(mode)
    unfinished.replace(target)


def read_weights(path: str | os.PathLike[str], config: Model5Config | None) -> tuple[Arrays, Model5Config]:
    """Read what `write_weights` wrote, or a GPT-2 of Hugging Face's.

    Without a `config` it comes from `config.json`, else from the metadata of the file, else from the shapes:
    GPT-2's options, and heads of width 64.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: the file or directory is not a whole GPT-2 checkpoint; the message names the file and
            what is wrong with it.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or directory")
    if path.is_dir():
        arrays, metadata = _read_directory(path)
        if config is None and (path / _CONFIG).exists():
            config = _read_config(path / _CONFIG)
    else:
        arrays, metadata = _read_file(path)
    if config is None and "config" in metadata:
        config = from_hugging_face(_parse_json(metadata["config"], f"{path}: config"), str(path))
    if config is None:
        config = infer_config(clean_arrays(arrays, None, str(path)), str(path))
    return clean_arrays(arrays, config, str(path)), config


def _read_directory(path: Path) -> tuple[Arrays, dict[str, str]]:
    if (path / _WEIGHTS).exists():
        return _read_file(path / _WEIGHTS)
    if not (path / _INDEX).exists():
        pickles = sorted(file.name for file in path.iterdir() if file.suffix in _PICKLES)
        if pickles:
            _refuse_pickle(path / pickles[0])
        raise ValueError(f"{path} holds neither {_WEIGHTS} nor {_INDEX}")
    index = _parse_json((path / _INDEX).read_bytes(), str(path / _INDEX))
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict):
        raise ValueError(f"{path / _INDEX}: no weight_map")
    arrays: Arrays = {}
    for shard in sorted(set(map(str, weight_map.values()))):
        if Path(shard).name != shard or not (path / shard).is_file():
            raise ValueError(f"{path / _INDEX}: the shard {shard!r} is not in this directory")
        arrays |= _read_file(path / shard)[0]
    lost = sorted(weight_map.keys() - arrays.keys())
    if lost:
        raise ValueError(f"{path / _INDEX}: the shards lack {listing(lost)}")
    return arrays, {}


def _read_file(path: Path) -> tuple[Arrays, dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    if path.suffix in _PICKLES:
        _refuse_pickle(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: expected a checkpoint directory or a .safetensors file")
    with path.open("rb") as file:
        if file.read(23) == b"version https://git-lfs":
            raise ValueError(f"{path} is a Git LFS pointer, not the weights: run git lfs pull")
    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or not a safetensors file: {error}") from error
    except AttributeError as error:  # "module 'numpy' has no attribute 'float8_e4m3fn'"
        raise ValueError(f"{path} cannot be read ({error}): convert it to float32 or bfloat16") from error


def _refuse_pickle(path: Path) -> None:
    raise ValueError(
        f"{path} is a PyTorch pickle, and reading one can run any code: convert it to safetensors, "
        "for example with save_pretrained of transformers"
    )


def _read_config(path: Path) -> Model5Config:
    return from_hugging_face(_parse_json(path.read_bytes(), str(path)), str(path))


def _parse_json(text: str | bytes, source: str) -> dict[str, Any]:
    try:
        # Bytes may begin with a byte order mark.
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:  # also not UTF-8, too many digits, too deep nesting
        raise ValueError(f"{source} is not valid JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"{source} must be a JSON object; got {type(parsed).__name__}")
    return parsed


def _replace_text(path: Path, text: str) -> None:
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(text)
    unfinished.replace(path)
