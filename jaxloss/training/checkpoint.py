"""Training states on disk: written by Orbax beside the training, with checksums that Orbax lacks."""

import errno
import logging
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxloss._checks import check_integer, describe
from jaxloss.training._manifest import read_manifest, write_manifest
from jaxloss.training.state import TrainState

_STATE = "state"
_SPARE_BYTES = 2**20  # of disk, for names, metadata and whatever the run writes meanwhile


class Checkpoint(NamedTuple):
    """A checkpoint whose every file was found as it was written."""

    path: Path
    step: int
    identity: dict[str, Any]
    """What `Checkpoints` was given."""
    arrays: dict[str, str]
    """Name of each array -> its dtype and shape."""


class Checkpoints:
    """Writes a training's checkpoints, `step-<number>` in one folder, while the training goes on.

    A checkpoint counts from the moment that its manifest, the last of its files, is there: a process killed
    before leaves what `newest_checkpoint` passes over. On several processes the folder is one that all share,
    and all call the same methods.

    Args:
        folder: made if it is not there.
        identity: of the run, for whoever resumes it: anything that JSON holds.
        every: number of steps between two checkpoints.
        keep: how many of the newest stay.
        last: step of the checkpoint that the training went on from.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, Any], *, every: int, keep: int = 2, last: int | None = None
    ):
        import orbax.checkpoint

        self.folder, self.every = folder.absolute(), check_integer("every", every, low=1)
        self._identity, self._keep = dict(identity), check_integer("keep", keep, low=1)
        self.last = last
        """Step of the newest checkpoint that is on disk whole."""
        # A failure reaches the caller once; Orbax would log it too, with a traceback for each of its threads.
        logging.getLogger("absl").addFilter(_is_no_error_of_orbax)
        self._writer = orbax.checkpoint.StandardCheckpointer()
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._started = last
        self._is_open = False

    def save_if_due(self, step: int, state: TrainState) -> None:
        """After each step: begin a checkpoint every so many.

        Raises:
            OSError: the one before could not be written.
        """
        if self._failure is not None:
            self.wait()
        if step % self.every == 0:
            self.save(step, state)

    def save(self, step: int, state: TrainState) -> None:
        """Begin to write a state, and return when it has been copied; nothing if that step's is written.

        Args:
            step: number of updates that were made.
            state: its parameters, optimizer state and step are written.

        Raises:
            OSError: the checkpoint before could not be written.
            RuntimeError: not within a `with`, at whose end the last one is waited for.
        """
        if not self._is_open:
            raise RuntimeError(
                "Checkpoints are written meanwhile: use `with Checkpoints(...) as checkpoints:`."
            )
        self.wait()
        if step == self._started:
            return
        path = _path(self.folder, step)
        self._started = step
        try:
            if jax.process_index() == 0:
                self.folder.mkdir(parents=True, exist_ok=True)
                # What a killed process left, or what is damaged: a whole one of this step would be `last`.
                shutil.rmtree(path, ignore_errors=True)
                # A full disk is found before the writing, which would leave a part of a checkpoint there.
                check_space(self.folder, sum(leaf.nbytes for leaf in jax.tree.leaves(_tree(state))))
            tree: Any = _tree(state)
            if jax.process_count() == 1:
                # Orbax thinks for 30 ms before it writes, of however little: the thread lets it do so.
                tree = jax.device_get(tree)
            else:
                self._writer.save(path / _STATE, tree)
        except Exception as error:
            self._failure = error
            self.wait()
        content = {"step": step, "identity": self._identity, "arrays": _arrays(state)}
        self._thread = threading.Thread(target=self._finish, args=(path, tree, content))
        self._thread.start()

    def wait(self) -> None:
        """Return when the last checkpoint is on disk.

        Raises:
            OSError: it could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise OSError(f"step {self._started} could not be saved: {_reason(failure)}") from failure

    def __enter__(self) -> "Checkpoints":
        self._is_open = True
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        try:
            self.wait()
        except OSError:
            if kind is None:
                raise
        finally:
            self._writer.close()

    def _finish(self, path: Path, tree: Any, content: dict[str, Any]) -> None:
        try:
            if jax.process_count() == 1:
                self._writer.save(path / _STATE, tree)
            self._writer.wait_until_finished()
            if jax.process_index() == 0:
                write_manifest(path, content)
                self._remove_older(content["step"])
            self.last = content["step"]
        except Exception as error:  # whatever Orbax, its store or the system raise: the state is not on disk
            self._failure = error

    def _remove_older(self, step: int) -> None:
        older = sorted(number for number, _ in _all(self.folder) if number < step)
        for number, path in _all(self.folder):
            if number in older[: max(0, len(older) - (self._keep - 1))]:
                shutil.rmtree(path, ignore_errors=True)


def newest_checkpoint(folder: Path, report: Callable[[str], None]) -> Checkpoint:
    """The newest checkpoint that is whole; nothing is deleted.

    Several processes call it together, and get the one that process 0 finds.

    Args:
        folder: what `Checkpoints` wrote to.
        report: called with what is wrong with each that is newer.

    Raises:
        ValueError: there is none.
    """
    if jax.process_count() == 1:
        return _newest(folder, report)
    from jax.experimental.multihost_utils import broadcast_one_to_all

    # Only process 0 knows that all is written: it writes the manifest, when the others have gone on.
    step, reason = -1, f"{str(folder)!r} holds no checkpoint that is whole"
    if jax.process_index() == 0:
        try:
            step = _newest(folder, report).step
        except ValueError as error:
            reason = str(error)
    step = int(broadcast_one_to_all(np.int32(step)))
    if step < 0:
        raise ValueError(reason)
    return _read(_path(folder, step))


def check_space(folder: Path, num_bytes: int) -> None:
    """Raise an `OSError` unless the disk of a folder has room for so much, and for some files beside."""
    needed, free = num_bytes + _SPARE_BYTES, shutil.disk_usage(folder).free
    if free < needed:
        sizes = f"{needed / 1e6:,.1f} MB are needed, {free / 1e6:,.1f} MB are free"
        raise OSError(errno.ENOSPC, f"No space left on device: {sizes}")


def restore(checkpoint: Checkpoint, state: TrainState) -> TrainState:
    """The state of a checkpoint, on the devices that hold `state` and split between them as it is.

    Args:
        checkpoint: from `newest_checkpoint`.
        state: of the same model and optimizer, from `init_state`.

    Raises:
        ValueError: it is the state of another model or optimizer; names an array that differs.
    """
    import orbax.checkpoint

    arrays = _arrays(state)
    for name in sorted(arrays.keys() | checkpoint.arrays.keys()):
        stored, own = (found.get(name, "nothing") for found in (checkpoint.arrays, arrays))
        if stored != own:
            raise ValueError(
                f"{str(checkpoint.path)!r} is of another model: {name} is {stored} there, and {own} here"
            )

    def abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)

    with orbax.checkpoint.StandardCheckpointer() as reader:
        tree = reader.restore(checkpoint.path.absolute() / _STATE, jax.tree.map(abstract, _tree(state)))
    return state.replace(**tree)


def _newest(folder: Path, report: Callable[[str], None]) -> Checkpoint:
    found = sorted(_all(folder), reverse=True)
    for _, path in found:
        try:
            return _read(path)
        except ValueError as error:
            report(str(error))
    if found:
        raise ValueError(f"none of the {len(found)} checkpoints in {str(folder)!r} is whole")
    raise ValueError(f"{str(folder)!r} holds no checkpoint")


def _read(path: Path) -> Checkpoint:
    manifest = read_manifest(path)
    return Checkpoint(path, **{name: manifest[name] for name in ("step", "identity", "arrays")})


def _path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08}"


def _tree(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "params": state.params, "opt_state": state.opt_state}


def _arrays(state: TrainState) -> dict[str, str]:
    leaves = jax.tree.leaves_with_path(_tree(state))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): describe(leaf) for path, leaf in leaves}


def _all(folder: Path) -> list[tuple[int, Path]]:
    paths = folder.iterdir() if folder.is_dir() else []
    return [(int(m[1]), path) for path in paths if (m := re.fullmatch(r"step-(\d{8,})", path.name))]


def _is_no_error_of_orbax(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR or "orbax" not in record.pathname


def _reason(error: Exception) -> str:
    """The system's words where the error has them, as deep in a message of the store's as they stand."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    for known in ("No space left on device", "Disk quota exceeded", "File too large", "Permission denied"):
        if known in text:
            return known
    return text or type(error).__name__
