"""Documents out of files, in pieces: plain text, JSON, CSV and parquet, compressed or not."""

from __future__ import annotations

import codecs
import csv
import difflib
import gzip
import itertools
import json
import os
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from jaxloss.data.byte_level import END_OF_TEXT
from jaxloss.data.tokenizers import PIECE_LENGTH, find_break, pieces

Piece: TypeAlias = tuple[bool, str]
"""Whether it opens a document, and its text, never empty. The pieces of a document are tokenized apart."""

_CHUNK = 1 << 20
_ROWS = {".jsonl", ".json", ".csv", ".tsv"}


def check_encoding(encoding: str) -> None:
    """Refuse what Python does not decode to text."""
    try:
        is_text = codecs.lookup(encoding)._is_text_encoding
    except (LookupError, TypeError):
        is_text = False
    if not is_text:
        raise ValueError(f"encoding must be one that Python knows, such as latin-1; got {encoding!r}")


def read(path: Path, text_column: str, encoding: str) -> Iterator[Piece]:
    """Yield the documents of a file in pieces; without a suffix that says otherwise, it is plain text.

    Raises:
        ValueError: if the file is not what its suffix says, or lacks the column; names the line or row.
        OSError: if it cannot be read.
    """
    name = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    kind = name.suffix.lower()
    try:
        if kind == ".parquet":
            yield from rows(_read_parquet(path, text_column), str(path), text_column)
            return
        with gzip.open(path) if name is not path else path.open("rb") as file:
            chunks = _decoded(file, path, encoding)
            if kind in _ROWS:
                read_rows = _read_csv if kind in (".csv", ".tsv") else _read_json
                yield from rows(read_rows(chunks, path, text_column), str(path), text_column)
            else:
                yield from documents_in(chunks)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is not a whole gzip file: {error}") from error
    except OSError as error:
        raise unreadable(path, error) from error


def rows(given: Iterable[tuple[str, object]], source: str, text_column: str) -> Iterator[Piece]:
    """Yield the documents of `(place, text)` in pieces.

    Raises:
        ValueError: if one is no text, or holds half a character; names the source and the place.
    """
    for place, text in given:
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
        yield from documents_in([text])


def documents_in(chunks: Iterable[str]) -> Iterator[Piece]:
    """Yield the documents of one text, which `<|endoftext|>` separates, in pieces.

    Lines end in a newline alone, and documents without any text are left out.
    """
    held, opens = "", True
    for chunk in itertools.chain(chunks, [None]):
        text = held + (chunk or "")
        # The newline that belongs to it may come with the next chunk.
        held = "\r" if chunk is not None and text.endswith("\r") else ""
        text = text.removesuffix(held).replace("\r\n", "\n")
        *whole, text = [*text.split(END_OF_TEXT), ""] if chunk is None else text.split(END_OF_TEXT)
        for document in whole:
            if document and not (opens and document.isspace()):
                for piece in pieces(document):
                    yield opens, piece
                    opens = False
            opens = True
        while (cut := find_break(text, PIECE_LENGTH)) and not (opens and text[:cut].isspace()):
            yield opens, text[:cut]
            text, opens = text[cut:], False
        held = text + held


def unreadable(path: str | os.PathLike[str], error: OSError) -> OSError:
    """The error with the file's name in it."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return type(error)(f"cannot read {os.fspath(path)}: {reason}")


def no_column(text_column: str, columns: list[str]) -> str:
    """What to say of rows that lack the column with the text."""
    close = difflib.get_close_matches(text_column, columns, n=1)
    suggestion = f"; did you mean {close[0]}?" if close else ""
    listed = ", ".join(columns)
    return f"no column {text_column!r}, it has {listed} (name it with --data.text-column){suggestion}"


def _decoded(file: Any, path: Path, encoding: str) -> Iterator[str]:
    """Decode a file in chunks; an error names the line, and the byte in it."""
    # What follows a byte order mark is decoded, not the mark.
    name = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
    decoder = codecs.getincrementaldecoder(name)()
    line, column = 1, 0
    for chunk in itertools.chain(iter(lambda: file.read(_CHUNK), b""), [b""]):
        before = decoder.getstate()[0]
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            line, column = _place(line, column, error.object[: error.start])
            shown = "UTF-8" if name == "utf-8-sig" else encoding
            raise ValueError(
                f"{path}, line {line}, is not {shown}: byte {column} is 0x{error.object[error.start]:02x}; "
                "name its encoding with --data.encoding, such as cp1252 or utf-16"
            ) from error
        read = (before + chunk).removeprefix(codecs.BOM_UTF8 if (line, column) == (1, 0) else b"")
        line, column = _place(line, column, read[: len(read) - len(decoder.getstate()[0])])
        yield text


def _place(line: int, column: int, read: bytes) -> tuple[int, int]:
    """Line and byte in it after some more bytes."""
    if b"\n" in read:
        return line + read.count(b"\n"), len(read) - read.rfind(b"\n") - 1
    return line, column + len(read)


def _lines(chunks: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield lines and their numbers; only a newline ends one, as in JSON lines."""
    number, held = 1, ""
    for chunk in chunks:
        *lines, held = (held + chunk).split("\n")
        yield from enumerate(lines, start=number)
        number += len(lines)
    yield number, held


def _read_json(chunks: Iterator[str], path: Path, text_column: str) -> Iterator[tuple[str, object]]:
    """Rows of JSON lines, or of one list."""
    first = next((chunk for chunk in chunks if chunk.strip()), "")
    chunks = itertools.chain([first], chunks)
    if first.lstrip().startswith("[") and path.name.lower().removesuffix(".gz").endswith(".json"):
        items = _items(chunks, path)
    else:
        items = (
            (f"line {number}", _parse_line(line, f"{path}, line {number}"))
            for number, line in _lines(chunks)
            if line.strip()
        )
    for place, row in items:
        if isinstance(row, str) and place.startswith("item"):
            yield place, row
            continue
        if not isinstance(row, dict):
            raise ValueError(f"{path}, {place}: must be an object; got {type(row).__name__}")
        if text_column not in row:
            raise ValueError(f"{path}, {place}: {no_column(text_column, list(row))}")
        yield place, row[text_column]


def _items(chunks: Iterator[str], path: Path) -> Iterator[tuple[str, object]]:
    """Items of one JSON list, each as soon as it is read whole."""
    held, fresh, number = "", [""], 1
    for chunk in itertools.chain(chunks, [None]):
        fresh.append(chunk or "")
        # An item of many chunks is not tried anew at each, but whenever its text has doubled.
        if chunk is not None and sum(map(len, fresh)) < len(held):
            continue
        held, fresh = (held + "".join(fresh)).lstrip(), []
        first = _after_space(held, 1)
        at = first if held[0] == "[" and held[first : first + 1] == "]" else 0
        try:
            while held[at] != "]":
                row, at = _next_item(held, at)
                yield f"item {number}", row
                number += 1
            if end := held[at + 1 :].strip():
                raise json.JSONDecodeError("Extra data", end, 0)
        except (ValueError, RecursionError) as error:
            # An item that is cut is refused at the end of the text, or where its last word or string begins.
            is_cut = getattr(error, "pos", 0) > len(held) - 16 or "Unterminated string" in str(error)
            if chunk is None or not is_cut:
                raise _not_json(f"{path}, item {number}", error) from error
        held = held[at:]


def _next_item(text: str, at: int) -> tuple[object, int]:
    """The item of a list after its "[" or ",", and where the next "," or the "]" is."""
    item, end = json.JSONDecoder().raw_decode(text, _after_space(text, at + 1))
    end = _after_space(text, end)
    if text[end : end + 1] not in (",", "]"):
        raise json.JSONDecodeError("Expecting ',' delimiter", text, end)
    return item, end


def _after_space(text: str, at: int) -> int:
    return next((place for place in range(at, len(text)) if not text[place].isspace()), len(text))


def _parse_line(line: str, where: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _not_json(where, error) from error


def _not_json(where: str, error: Exception) -> ValueError:
    # Also of too many digits, and of too deep nesting.
    return ValueError(f"{where}: not JSON ({getattr(error, 'msg', str(error))})")


def _read_csv(chunks: Iterator[str], path: Path, text_column: str) -> Iterator[tuple[str, object]]:
    # Of one field; a document is longer than Python's own limit.
    csv.field_size_limit(sys.maxsize)
    is_tab = path.name.lower().removesuffix(".gz").endswith(".tsv")
    lines = (line + "\n" for _, line in _lines(chunks))
    reader = csv.reader(lines, delimiter="\t" if is_tab else ",", strict=True)
    try:
        columns = next(reader, [])
        if text_column not in columns:
            raise ValueError(f"{path}: {no_column(text_column, columns)}")
        index = columns.index(text_column)
        for row in reader:
            if row and len(row) != len(columns):
                raise ValueError(
                    f"{path}, line {reader.line_num}: must have {len(columns)} fields; got {len(row)}"
                )
            if row:
                yield f"line {reader.line_num}", row[index]
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: not CSV ({error})") from error


def _read_parquet(path: Path, text_column: str) -> Iterator[tuple[str, object]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if text_column not in names:
                raise ValueError(f"{path}: {no_column(text_column, names)}")
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
