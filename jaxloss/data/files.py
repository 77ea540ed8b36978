"""Local text as documents: files of any kind, folders and globs of them, and datasets."""

from __future__ import annotations

import difflib
import glob
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jaxloss.data import formats
from jaxloss.data.formats import Piece

if TYPE_CHECKING:
    from datasets import Dataset

SUFFIXES = (".txt", ".jsonl", ".parquet", ".txt.gz", ".jsonl.gz")
"""What is read of a folder. Beside a corpus there may lie a README.md or a config.json."""


def find(pattern: str) -> list[Path]:
    """Return the files that a path, a folder or a glob names, sorted by path.

    In a folder, files with other suffixes than `SUFFIXES` are left out, and so are hidden files and folders,
    and folders like `__MACOSX`.

    Raises:
        FileNotFoundError: if there are none; suggests the nearest name in that folder.
        PermissionError: if a folder cannot be read.
    """
    path = Path(os.path.expanduser(pattern))
    if path.is_dir():
        found = sorted(_walk(path))
        if not found:
            raise FileNotFoundError(
                f"no {', '.join(SUFFIXES)} file in the folder {pattern}: name others by a glob, {pattern}/*"
            )
        return found
    if path.exists():
        return [path]
    found = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
    if found:
        return found
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, siblings, n=1)
    suggestion = f": did you mean {path.parent / close[0]}?" if close else ""
    raise FileNotFoundError(f"no corpus, file or folder named {pattern}{suggestion}")


def _walk(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise formats.unreadable(error.filename, error) from error

    for parent, folders, names in os.walk(folder, onerror=refuse):
        # What the `datasets` package leaves out too: notebooks' checkpoints, version control, macOS's copies.
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        for name in names:
            path = Path(parent, name)
            if name.lower().endswith(SUFFIXES) and not name.startswith(".") and path.is_file():
                yield path


def read(paths: list[Path], *, text_column: str, encoding: str) -> Iterator[Piece]:
    """Yield the documents of some files in pieces.

    Raises:
        ValueError: if a file is not what its suffix says, or lacks the column.
        PermissionError: if a file cannot be read.
    """
    for path in paths:
        yield from formats.read(path, text_column, encoding)


def rows(dataset: Dataset, text_column: str) -> Iterator[Piece]:
    """Yield a dataset's documents in pieces.

    Raises:
        TypeError: if it is no `datasets.Dataset`.
        ValueError: if it lacks the column, or that holds something else than text.
    """
    from datasets import Dataset

    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"the corpus must be a name, a path or a datasets.Dataset; got {type(dataset).__name__}"
        )
    if text_column not in dataset.column_names:
        raise ValueError(f"the dataset: {formats.no_column(text_column, dataset.column_names)}")
    texts = ((f"row {number}", text) for number, text in enumerate(dataset[text_column], start=1))
    yield from formats.rows(texts, "the dataset", text_column)


def first(given: Iterable[Piece], num_documents: int | None, source: str) -> Iterator[Piece]:
    """Yield the first documents, in pieces.

    Raises:
        ValueError: if there is none.
    """
    count = 0
    for opens, text in given:
        count += opens
        if count > (num_documents or sys.maxsize):
            return
        yield opens, text
    if not count:
        raise ValueError(f"{source}: there is no text")


def joined(given: Iterable[Piece]) -> Iterator[str]:
    """Yield whole documents."""
    parts: list[str] = []
    for opens, text in given:
        if opens and parts:
            yield "".join(parts)
            parts = []
        parts.append(text)
    if parts:
        yield "".join(parts)


def listed(paths: list[Path]) -> str:
    """What to call several files in a message."""
    return str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more files"


def digest(paths: list[Path]) -> list[str]:
    """Return the SHA-256 of each file's contents."""
    digests = []
    for path in paths:
        try:
            with path.open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise formats.unreadable(path, error) from error
    return digests
