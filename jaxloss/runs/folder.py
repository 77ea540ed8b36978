"""The folder that a run writes: never over another run, every metric on disk as it is known."""

from __future__ import annotations

import atexit
import json
import math
import os
import shutil
import tempfile
import time
import weakref
from pathlib import Path
from typing import Any

import jax
import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

METRICS = "metrics.jsonl"
"""What was learnt, a line for each update and evaluation: equal for two runs of one seed on one machine."""
TIMES = "times.jsonl"
"""What each update took: time, tokens a second, memory, share of the devices' peak."""


class RunFolder:
    """The folder of one run, new or that of a run that goes on.

    Naming it checks that it could be made and writes nothing; `create` makes it. In between, a script checks
    the rest of its input, so that a mistake leaves no empty folder behind.

    Args:
        out: where to write; None means `runs/<experiment>-<date>-<time>` under the working directory.
        experiment: name of the experiment, for that default.
        resume: folder of the run to go on with, in place of a new one.

    Raises:
        ValueError: if `out` already holds files, is not a folder, or cannot be written to; if `resume` is no
            run's folder, or another process writes to it.
    """

    def __init__(self, out: str | Path | None, experiment: str, *, resume: str | Path | None = None):
        self._is_resumed = resume is not None
        self._shared: Path | None = None
        if resume is not None:
            self.path = Path(resume)
            check_run(self.path)
            if out is not None:
                raise ValueError(f"--out: a run that is resumed stays in its own folder, {str(resume)!r}")
            self._lock()
            return
        self._default_name = "" if out else f"{experiment}-{time.strftime('%Y%m%d-%H%M%S')}"
        self.path = Path(out) if out else _unused(self._default_name)
        self._check_is_unused()
        ancestor = self.path
        while not ancestor.exists():
            ancestor = ancestor.parent
        if not ancestor.is_dir() or not os.access(ancestor, os.W_OK | os.X_OK):
            raise ValueError(f"--out: cannot write to {str(self.path)!r}: {str(ancestor)!r} is not writable")

    @property
    def shared(self) -> Path:
        """The folder that all processes of a run see: this one, but for those that only take part."""
        return self._shared or self.path

    @classmethod
    def of_process(cls, out: str | None, experiment: str, *, resume: str | None = None) -> RunFolder:
        """The run's folder for process 0; for another, one that is thrown away, beside the shared one."""
        if jax.process_index() == 0:
            return cls(out, experiment, resume=resume)
        scratch = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        folder = cls(Path(scratch, "run"), experiment)
        folder._shared = Path(resume or out or folder.path)
        return folder

    def create(self) -> RunFolder:
        """Make the folder; another run's, which has come into being meanwhile, is left to it."""
        if self._is_resumed:
            return self
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir()
        except FileExistsError:
            if self._default_name:
                self.path = _unused(self._default_name)
                return self.create()
            self._check_is_unused()
        except OSError as error:
            raise ValueError(f"--out: cannot write to {str(self.path)!r}: {error.strerror}") from error
        self._lock()
        return self

    def discard(self) -> None:
        """Remove the folder of a run that did not begin; that of a resumed one stays."""
        if not self._is_resumed:
            shutil.rmtree(self.path)

    def _lock(self) -> None:
        """Keep other processes from going on with this run as long as this object lives."""
        if fcntl is None:
            return
        descriptor = os.open(self.path, os.O_RDONLY)
        weakref.finalize(self, os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"--resume: the run in {str(self.path)!r} still goes on") from None
        except OSError:
            pass  # a file system without locks

    def _check_is_unused(self) -> None:
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise ValueError(f"--out: {str(self.path)!r} is a file, not a folder: name a new folder")
        if any(self.path.iterdir()):
            held = "a run" if (self.path / "config.json").exists() else "files"
            raise ValueError(
                f"--out: {str(self.path)!r} already holds {held}, which would be overwritten: "
                "name a new or empty folder"
            )

    def file(self, name: str) -> Path:
        """Path of a file in the folder."""
        return self.path / name

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file, ending in a newline, whole or not at all."""
        path = self.file(name)
        text = text if text.endswith("\n") else text + "\n"
        temporary = path.with_name(f".{path.name}")
        try:
            # The name of a file that is not UTF-8 becomes what JSON reads back as the same name.
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return path

    def write_json(self, name: str, value: Any) -> Path:
        """Write a value as `to_json` makes it."""
        return self.write_text(name, to_json(value))

    def append(self, name: str, record: dict[str, Any]) -> None:
        """Append one line to a `.jsonl` file and hand it to the system, so that a killed run keeps it."""
        with self.file(name).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(_without_nan(record)) + "\n")

    def read(self, name: str) -> list[dict[str, Any]]:
        """All records appended to a file so far; NaN where a number was not finite.

        A last line that a killed process has not written to its end is left out.
        """

        def with_nan(record: dict[str, Any]) -> dict[str, Any]:
            return {name: math.nan if value is None else value for name, value in record.items()}

        return [json.loads(line, object_hook=with_nan) for line in self._lines(name)]

    def cut(self, name: str, step: int) -> None:
        """Forget the records of a file that were appended after a step, from which the run goes on."""
        kept = [line for line in self._lines(name) if json.loads(line)["step"] <= step]
        temporary = self.file(f".{name}")
        temporary.write_text("".join(kept), encoding="utf-8")
        temporary.replace(self.file(name))

    def _lines(self, name: str) -> list[str]:
        path = self.file(name)
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        return [line for line in lines if line.endswith("\n")]


def check_run(path: Path) -> None:
    """Raise unless a run was written to this folder."""
    if not (path / "config.json").is_file():
        what = "does not exist" if not path.exists() else "is not the folder of a run: it has no config.json"
        raise ValueError(f"--resume: {str(path)!r} {what}")


def to_json(value: Any) -> str:
    """A value, which may hold NumPy arrays, as indented JSON; NaN and infinity, which JSON lacks, as null."""
    return json.dumps(_without_nan(value), indent=2, ensure_ascii=False) + "\n"


def _without_nan(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _unused(name: str) -> Path:
    path, number = Path("runs", name), 2
    while path.exists():
        path, number = Path("runs", f"{name}-{number}"), number + 1
    return path
