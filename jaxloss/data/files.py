"""Local text as documents: `.txt`, `.jsonl` and `.parquet` files, folders and globs of them."""

from __future__ import annotations

import difflib
import glob
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

SUFFIXES = (".txt", ".jsonl", ".parquet")


def find(pattern: str) -> list[Path]:
    """Return the files that a path, a folder or a glob names, sorted by path.

    In a folder, hidden files and folders are left out, and so are folders like `__MACOSX`.

    Raises:
        FileNotFoundError: if there are none; suggests the nearest name in that folder.
        ValueError: for a file of another kind.
        PermissionError: if a folder cannot be read.
    """
    path = Path(os.path.expanduser(pattern))
    if path.is_dir():
        found = sorted(_walk(path))
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


def _walk(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise _unreadable(error.filename, error) from error

    for parent, folders, names in os.walk(folder, onerror=refuse):
        # What the `datasets` package leaves out too: notebooks' checkpoints, version control, macOS's copies.
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        for name in names:
            path = Path(parent, name)
            if path.suffix.lower() in SUFFIXES and not name.startswith(".") and path.is_file():
                yield path


def load(paths: list[Path], *, text_column: str, num_documents: int | None) -> Dataset:
    """Read the documents of some files, leaving out empty ones.

    Raises:
        ValueError: if a file is not what its suffix says, lacks the column, or there is no text at all.
        PermissionError: if a file cannot be read.
    """
    texts = itertools.chain.from_iterable(
        cleaned(_read(path, text_column), str(path), text_column) for path in paths
    )
    names = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more files"
    return _first(texts, num_documents, names)


def documents(dataset: Dataset, text_column: str, num_documents: int | None) -> Dataset:
    """Return a dataset's documents in the one column `text`, leaving out empty ones.

    Raises:
        TypeError: if it is no `datasets.Dataset`.
        ValueError: if it lacks the column, or that holds no text or something else.
    """
    from datasets import Dataset

    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"the corpus must be a name, a path or a datasets.Dataset; got {type(dataset).__name__}"
        )
    if text_column not in dataset.column_names:
        raise ValueError(f"the dataset: {_no_column(text_column, dataset.column_names)}")
    rows = ((f"row {number}", text) for number, text in enumerate(dataset[text_column], start=1))
    return _first(cleaned(rows, "the dataset", text_column), num_documents, "the dataset")


def cleaned(rows: Iterable[tuple[str, object]], source: str, text_column: str) -> Iterator[str]:
    """Yield the texts of `(place, text)` that are not empty, their lines ending in a newline alone.

    Raises:
        ValueError: if one is no text, or holds half a character; names the source and the place.
    """
    for place, text in rows:
        if text is None:
            continue
        where = f"{source}, {place}: {text_column!r} must be text"
        if not isinstance(text, str):
            raise ValueError(f"{where}; got {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = text[error.start].encode("unicode_escape").decode()
            raise ValueError(f"{where}; got {half}, half a character, at {error.start}") from error
        if text and not text.isspace():
            yield text.replace("\r\n", "\n")


def digest(paths: list[Path]) -> list[str]:
    """Return the SHA-256 of each file's contents."""
    digests = []
    for path in paths:
        try:
            with path.open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise _unreadable(path, error) from error
    return digests


def _first(texts: Iterable[str], num_documents: int | None, source: str) -> Dataset:
    from datasets import Dataset

    found = list(itertools.islice(texts, num_documents and min(num_documents, sys.maxsize)))
    if not found:
        raise ValueError(f"{source}: there is no text")
    return Dataset.from_dict({"text": found})


def _read(path: Path, text_column: str) -> Iterator[tuple[str, object]]:
    """Yield the documents of a file, each with its place in it."""
    try:
        if path.suffix.lower() == ".txt":
            yield "line 1", _decode(path.read_bytes(), path)
        elif path.suffix.lower() == ".jsonl":
            yield from _read_jsonl(path, text_column)
        else:
            yield from _read_parquet(path, text_column)
    except OSError as error:
        raise _unreadable(path, error) from error


def _read_jsonl(path: Path, text_column: str) -> Iterator[tuple[str, object]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            text = _decode(line, path, number)
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:  # also too many digits, and too deep nesting
                reason = getattr(error, "msg", str(error))
                raise ValueError(f"{path}, line {number}: not JSON ({reason})") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: must be an object; got {type(row).__name__}")
            if text_column not in row:
                raise ValueError(f"{path}, line {number}: {_no_column(text_column, list(row))}")
            yield f"line {number}", row[text_column]


def _read_parquet(path: Path, text_column: str) -> Iterator[tuple[str, object]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if text_column not in names:
                raise ValueError(f"{path}: {_no_column(text_column, names)}")
            if names.count(text_column) > 1:
                raise ValueError(
                    f"{path}: it has {names.count(text_column)} columns {text_column!r}: rename all but one"
                )
            kind = file.schema_arrow.field(text_column).type
            value = kind.value_type if pa.types.is_dictionary(kind) else kind
            is_text = pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view
            if not any(is_kind(value) for is_kind in is_text):
                raise ValueError(f"{path}: column {text_column!r} must be text; got {kind}")
            number = 0
            for batch in file.iter_batches(columns=[text_column]):
                for scalar in batch.column(0):
                    number += 1
                    yield f"row {number}", _python_text(scalar, f"{path}, row {number},")
    except pa.ArrowException as error:
        raise _damaged(path, error) from error
    except OSError as error:
        # Arrow's own have no number: a page that cannot be decompressed, a header that cannot be parsed.
        if error.errno is not None:
            raise
        raise _damaged(path, error) from error


def _python_text(scalar: Any, where: str) -> str | None:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ValueError(f"{where} is not UTF-8: byte {error.start} is 0x{byte:02x}") from error


def _damaged(path: Path, error: Exception) -> ValueError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return ValueError(f"{path} is not a whole parquet file: {reason}")


def _unreadable(path: str | os.PathLike[str], error: OSError) -> OSError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    return type(error)(f"cannot read {os.fspath(path)}: {reason}")


def _decode(data: bytes, path: Path, line: int = 1) -> str:
    """Decode what begins at a line of a file; the error names the line, and the byte in it."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start]
        line += before.count(b"\n")
        column = len(before) - before.rfind(b"\n") - 1
        raise ValueError(
            f"{path}, line {line}, is not UTF-8: byte {column} is 0x{error.object[error.start]:02x}"
        ) from error


def _no_column(text_column: str, columns: list[str]) -> str:
    close = difflib.get_close_matches(text_column, columns, n=1)
    suggestion = f"; did you mean {close[0]}?" if close else ""
    return f"no column {text_column!r}, it has {', '.join(columns)} (see text_column){suggestion}"
