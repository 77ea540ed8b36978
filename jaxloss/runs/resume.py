"""Going on with an earlier run: whose it was, what may differ, and from which step."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import jax

from jaxloss.data import TokenData
from jaxloss.runs.cli import describe_error
from jaxloss.runs.folder import METRICS, TIMES, RunFolder, check_run
from jaxloss.runs.settings import CheckpointConfig
from jaxloss.training.checkpoint import Checkpoint, Checkpoints, newest_checkpoint, restore
from jaxloss.training.state import TrainState

Config = TypeVar("Config")

FOLDER = "checkpoints"
"""In the run's folder."""
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint", "jaxloss")
_MAY_CHANGE = (
    *("train.steps", "train.eval_every", "train.eval_crops", "data.corpus", "sample", "checkpoint"),
    *("mesh", "log", "resume", "out"),
)


def read_config(path: str, config_type: type[Config]) -> Config:
    """The config that a run was started with, for `run_cli`.

    Raises:
        ValueError: it is no run's folder, or that of another script.
    """
    check_run(Path(path))
    file = Path(path) / "config.json"
    try:
        return _from_json(config_type, json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"--resume: {str(file)!r} is not the config of a run of this script: {describe_error(error)}"
        ) from error


def run_identity(config: Any, data: TokenData) -> dict[str, Any]:
    """What a checkpoint says of its run: its settings, its text and the versions that wrote it."""
    versions = {name: metadata.version(name) for name in _LIBRARIES}
    versions |= {"devices": _devices(), "XLA_FLAGS": os.environ.get("XLA_FLAGS") or "none"}
    return {
        "config": dataclasses.asdict(config),
        "tokens": data.digest(),
        "tokenizer": hashlib.sha256((data.folder / "tokenizer.json").read_bytes()).hexdigest(),
        "versions": versions,
    }


def _devices() -> str:
    devices = f"{jax.device_count()} x {jax.default_backend()}"
    if jax.default_backend() != "cpu":
        return devices
    # As many parts as there are threads, each summed on its own, make up a product of matrices.
    is_known = hasattr(os, "sched_getaffinity")
    return f"{devices} of {len(os.sched_getaffinity(0)) if is_known else os.cpu_count()} cores"


def find_checkpoint(folder: RunFolder, config: Any) -> Checkpoint:
    """The newest whole checkpoint of a run that is to go on; older than the newest, it is said on stderr.

    Raises:
        ValueError: none is whole, `config` differs from the run's in what decides its result, or asks for
            fewer steps than were made.
    """
    found = newest_checkpoint(folder.shared / FOLDER, report=_warn)
    # Of a run by an earlier version, options that it did not have are at their defaults.
    own = _from_json(type(config), found.identity["config"])
    old, new = (_flat(dataclasses.asdict(c)) for c in (own, config))
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name) and not _may_change(name):
            raise ValueError(
                f"{name} is {new.get(name)!r}, but the run in {str(folder.path)!r} has {old.get(name)!r}: "
                "leave it out, or start a new run"
            )
    if config.train.steps < found.step:
        raise ValueError(f"train.steps is {config.train.steps}, but the run is at step {found.step}")
    if config.train.steps != old["train.steps"] and config.train.schedule != "constant":
        _warn(f"the learning rates from here on are those of a schedule over {config.train.steps} steps")
    return found


def check_text(found: Checkpoint, identity: Mapping[str, Any]) -> None:
    """Raise if the text became other tokens than the run's; say on stderr which versions are others."""
    for what in ("tokenizer", "tokens"):
        if found.identity[what] != identity[what]:
            raise ValueError(
                f"data.corpus gives another {'vocabulary' if what == 'tokenizer' else 'text'} than the run "
                "was trained on: give the same text, or start a new run"
            )
    old, new = found.identity["versions"], identity["versions"]
    changed = [f"{name} {old.get(name)} -> {new[name]}" for name in new if old.get(name) != new[name]]
    if changed:
        _warn(f"the last digits may differ from those of an uninterrupted run: {', '.join(changed)}")


def restore_run(found: Checkpoint, folder: RunFolder, state: TrainState) -> TrainState:
    """The state of a checkpoint; what the run recorded after it is forgotten."""
    state = restore(found, state)
    for name in (METRICS, TIMES):
        folder.cut(name, found.step)
    print(f"going on from step {found.step} of {folder.path}/\n", flush=True)
    return state


def open_checkpoints(
    folder: RunFolder, identity: Mapping[str, Any], settings: CheckpointConfig, found: Checkpoint | None
) -> Checkpoints:
    """What writes a run's checkpoints from here on; `found` is the one that it goes on from."""
    last = found.step if found else None
    return Checkpoints(folder.shared / FOLDER, identity, **dataclasses.asdict(settings), last=last)


def restore_newest(folder: RunFolder, state: TrainState) -> TrainState:
    """The state of before a divergence, in place of `state`."""
    found = newest_checkpoint(folder.shared / FOLDER, report=_warn)
    _warn(f"what follows is of step {found.step}, before: train on from it with --init {folder.shared}")
    return restore(found, state)


@contextlib.contextmanager
def saving(checkpoints: Checkpoints, folder: RunFolder) -> Iterator[None]:
    """Around the training: a disk that refuses a checkpoint or a record is told with what is left."""
    try:
        with checkpoints:
            yield
    except OSError as error:
        left = "no checkpoint is whole"
        if checkpoints.last is not None:
            left = f"the checkpoint of step {checkpoints.last} is whole: go on with --resume {folder.shared}"
        raise OSError(f"the run stopped: {describe_error(error)}; {left}") from error


def _from_json(kind: Any, value: Any) -> Any:
    """A dataclass from what `json` made of `dataclasses.asdict`; fields that it lacks have their defaults."""
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return tuple(value) if typing.get_origin(kind) is tuple else value
    hints = typing.get_type_hints(kind)
    unknown = value.keys() - hints.keys()
    if unknown:
        raise ValueError(f"it has {min(unknown)!r}")
    return kind(**{name: _from_json(_dataclass_in(hints[name]), item) for name, item in value.items()})


def _dataclass_in(hint: Any) -> Any:
    """Of `Config | None`, the config."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return next((kind for kind in typing.get_args(hint) if dataclasses.is_dataclass(kind)), hint)
    return hint


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in config.items():
        inner = _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
        flat.update(inner)
    return flat


def _may_change(name: str) -> bool:
    return any(name == free or name.startswith(f"{free}.") for free in _MAY_CHANGE)


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)
