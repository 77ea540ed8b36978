"""Local text as documents: `.txt`, `.jsonl` and `.parquet` files, folders and globs of them."""

from __future__ import annotations

import difflib
import glob
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

SUFFIXES = (".txt", ".jsonl", ".parquet")


def find(pattern: str) -> list[Path]:
    """Return the files that a path, a folder or a glob names, sorted by path.

    Raises:
        FileNotFoundError: if there are none; suggests the nearest name in that folder.
        ValueError: for a file of another kind.
    """
    path = Path(os.path.expanduser(pattern))
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not found:
            raise FileNotFoundError(f"no {', '.join(SUFFIXES)} file in the folder {pattern}")
        return found
    if path.exists():
        if path.suffix.lower() not in SUFFIXES:
            raise ValueError(
                f"{pattern} must be a {', '.join(SUFFIXES)} file; got {path.suffix or 'no suffix'!r}"
            )
        return [path]
    matches = [Path(match) for match in glob.glob(str(path), recursive=True)]
    found = sorted(p for p in matches if p.suffix.lower() in SUFFIXES and p.is_file())
    if found:
        return found
    if matches:
        raise ValueError(f"{pattern} must match {', '.join(SUFFIXES)} files; got {matches[0]}")
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, siblings, n=1)
    suggestion = f": did you mean {path.parent / close[0]}?" if close else ""
    raise FileNotFoundError(f"no corpus, file or folder named {pattern}{suggestion}")


def load(paths: list[Path], *, text_column: str, num_documents: int | None) -> Dataset:
    """Read the documents of some files, leaving out empty ones.

    Raises:
        ValueError: if a file is not what its suffix says, lacks the column, or there is no text at all.
        PermissionError: if a file cannot be read.
    """
    from datasets import Dataset

    texts = _first((text for path in paths for text in _read(path, text_column)), num_documents)
    if not texts:
        names = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more files"
        raise ValueError(f"{names}: there is no text")
    return Dataset.from_dict({"text": texts})


def documents(dataset: Dataset, text_column: str, num_documents: int | None) -> Dataset:
    """Return a dataset's documents in the one column `text`, leaving out empty ones.

    Raises:
        TypeError: if it is no `datasets.Dataset`.
        ValueError: if it lacks the column or holds no text.
    """
    from datasets import Dataset

    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"the corpus must be a name, a path or a datasets.Dataset; got {type(dataset).__name__}"
        )
    if text_column not in dataset.column_names:
        raise ValueError(f"the dataset: {_no_column(text_column, dataset.column_names)}")
    texts = _first(dataset[text_column], num_documents)
    if not texts:
        raise ValueError("the dataset: there is no text")
    return Dataset.from_dict({"text": texts})


def digest(paths: list[Path]) -> list[str]:
    """Return the SHA-256 of each file's contents."""
    digests = []
    for path in paths:
        try:
            with path.open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise type(error)(f"cannot read {path}: {error.strerror}") from error
    return digests


def _first(texts: Iterable[str | None], num_documents: int | None) -> list[str]:
    return list(itertools.islice((text for text in texts if text and not text.isspace()), num_documents))


def _read(path: Path, text_column: str) -> Iterator[str]:
    try:
        if path.suffix.lower() == ".txt":
            yield _decode(path.read_bytes(), str(path)).replace("\r\n", "\n")
        elif path.suffix.lower() == ".jsonl":
            yield from _read_jsonl(path, text_column)
        else:
            yield from _read_parquet(path, text_column)
    except OSError as error:
        if error.strerror is None:
            raise
        raise type(error)(f"cannot read {path}: {error.strerror}") from error


def _read_jsonl(path: Path, text_column: str) -> Iterator[str]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(_decode(line, f"{path}, line {number},"))
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}: not JSON ({error.msg})") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: must be an object; got {type(row).__name__}")
            if text_column not in row:
                raise ValueError(f"{path}, line {number}: {_no_column(text_column, list(row))}")
            text = row[text_column]
            if text is not None and not isinstance(text, str):
                raise ValueError(
                    f"{path}, line {number}: {text_column!r} must be text; got {type(text).__name__}"
                )
            yield text or ""


def _read_parquet(path: Path, text_column: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if text_column not in names:
                raise ValueError(f"{path}: {_no_column(text_column, names)}")
            kind = file.schema_arrow.field(text_column).type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise ValueError(f"{path}: column {text_column!r} must be text; got {kind}")
            for batch in file.iter_batches(columns=[text_column]):
                yield from (text or "" for text in batch.column(0).to_pylist())
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a whole parquet file: {str(error).splitlines()[0]}") from error


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}") from error


def _no_column(text_column: str, columns: list[str]) -> str:
    close = difflib.get_close_matches(text_column, columns, n=1)
    suggestion = f"; did you mean {close[0]}?" if close else ""
    return f"no column {text_column!r}, it has {', '.join(columns)} (see text_column){suggestion}"
