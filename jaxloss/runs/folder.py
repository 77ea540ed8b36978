"""The folder that a run writes: created once, never over another run, every metric on disk as it is known."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np


class RunFolder:
    """A new folder for one run.

    Naming it checks that it could be made and writes nothing; `create` makes it. In between, a script checks
    the rest of its input, so that a mistake leaves no empty folder behind.

    Args:
        out: where to write; None means `runs/<experiment>-<date>-<time>` under the working directory.
        experiment: name of the experiment, for that default.

    Raises:
        ValueError: if `out` already holds files, is not a folder, or cannot be written to.
    """

    def __init__(self, out: str | Path | None, experiment: str):
        self._default_name = "" if out else f"{experiment}-{time.strftime('%Y%m%d-%H%M%S')}"
        self.path = Path(out) if out else _unused(self._default_name)
        self._check_is_unused()
        ancestor = self.path
        while not ancestor.exists():
            ancestor = ancestor.parent
        if not ancestor.is_dir() or not os.access(ancestor, os.W_OK | os.X_OK):
            raise ValueError(f"--out: cannot write to {str(self.path)!r}: {str(ancestor)!r} is not writable")

    def create(self) -> RunFolder:
        """Make the folder; another run's, which has come into being meanwhile, is left to it."""
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
        return self

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
        """Write a text file, ending in a newline."""
        path = self.file(name)
        # The name of a file that is not UTF-8 becomes what JSON reads back as the same name.
        text = text if text.endswith("\n") else text + "\n"
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
        return path

    def write_json(self, name: str, value: Any) -> Path:
        """Write a value as `to_json` makes it."""
        return self.write_text(name, to_json(value))

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Append one line to `metrics.jsonl` and hand it to the system, so that a killed run keeps it."""
        with self.file("metrics.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(_without_nan(record)) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """All records appended so far; NaN where a number was not finite."""
        path = self.file("metrics.jsonl")
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []

        def with_nan(record: dict[str, Any]) -> dict[str, Any]:
            return {name: math.nan if value is None else value for name, value in record.items()}

        return [json.loads(line, object_hook=with_nan) for line in lines]


def to_json(value: Any) -> str:
    """A value, which may hold NumPy arrays, as indented JSON; NaN and infinity, which JSON lacks, as null."""
    return json.dumps(_without_nan(value), indent=2, ensure_ascii=False) + "\n"


def _without_nan(value: Any) -> Any:
    if isinstance(value, np.ndarray):
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
