"""Corpora by name or path, as `datasets.Dataset`s of documents."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jaxloss._checks import check_integer
from jaxloss.data import files, fineweb, python_docs
from jaxloss.data.formats import Piece, check_encoding

if TYPE_CHECKING:
    from datasets import Dataset

NAMES = ("python-docs", "fineweb")


@dataclass(frozen=True)
class Corpus:
    """Which documents, before any of them is read.

    Attributes:
        source: `"python-docs"`, `"fineweb"`, a path or glob, or a `datasets.Dataset`.
        num_documents: how many of the first documents; None means all, and 1,000 of fineweb's 15 million.
        text_column: the column of JSON, CSV and parquet files and of datasets that holds the text.
        cache_dir: where downloads and extracted text are kept; None means `default_cache_dir()`.
        encoding: how files but parquet are encoded.
    """

    source: str | os.PathLike[str] | Dataset
    num_documents: int | None = None
    text_column: str = "text"
    cache_dir: str | os.PathLike[str] | None = None
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        if self.num_documents is not None:
            check_integer("num_documents", self.num_documents, low=1)
        if not isinstance(self.text_column, str):
            raise TypeError(f"text_column must be a string; got {self.text_column!r}")
        check_encoding(self.encoding)
        if not self.name:
            raise ValueError(f"the corpus must be {' or '.join(NAMES)}, or a file, folder or glob; got ''")

    @property
    def name(self) -> str:
        """What to call it in messages and folder names."""
        return os.fspath(self.source) if isinstance(self.source, str | os.PathLike) else "dataset"

    def identity(self) -> dict[str, object]:
        """What tells this corpus's text from any other's, found without extracting it; for cache keys."""
        identity: dict[str, object] = {"num_documents": self.num_documents}
        if not isinstance(self.source, str | os.PathLike):
            return identity | {"dataset": _digest(self.load())}
        if self.name == "python-docs":
            return identity | {"python-docs": python_docs.version()}
        if self.name == "fineweb":
            return {"num_documents": self._num_fineweb(), "fineweb": fineweb.SUBSET}
        paths = self._paths()
        # A suffix tells what a file's bytes mean.
        kinds = ["".join(path.suffixes[-2:]) for path in paths]
        read_as = {"text_column": self.text_column, "encoding": self.encoding, "kinds": kinds}
        return identity | read_as | {"files": files.digest(paths)}

    def load(self) -> Dataset:
        """Load the documents."""
        from datasets import Dataset

        return Dataset.from_dict({"text": list(files.joined(self.pieces()))})

    def pieces(self) -> Iterator[Piece]:
        """Read the documents in pieces, holding none but the current one in memory."""
        folder = default_cache_dir() if self.cache_dir is None else Path(self.cache_dir)
        name, num_documents = self.name, self.num_documents
        if not isinstance(self.source, str | os.PathLike):
            given, name = files.rows(self.source, self.text_column), "the dataset"
        elif self.name == "python-docs":
            given = files.rows(python_docs.load(folder, num_documents=num_documents), "text")
        elif self.name == "fineweb":
            num_documents = self._num_fineweb()
            paths = [fineweb.load(folder, num_documents=num_documents)]
            given = files.read(paths, text_column="text", encoding="utf-8")
        else:
            paths = self._paths()
            given = files.read(paths, text_column=self.text_column, encoding=self.encoding)
            name = files.listed(paths)
        return files.first(given, num_documents, name)

    def _num_fineweb(self) -> int:
        return 1000 if self.num_documents is None else self.num_documents

    def _paths(self) -> list[Path]:
        try:
            return files.find(self.name)
        except FileNotFoundError as error:
            close = difflib.get_close_matches(self.name.lower(), NAMES, n=1)
            if not close:
                raise
            raise FileNotFoundError(f"{error}: did you mean {close[0]}?") from error


def load_corpus(
    name_or_path: str | os.PathLike[str],
    *,
    num_documents: int | None = None,
    text_column: str = "text",
    cache_dir: str | os.PathLike[str] | None = None,
    encoding: str = "utf-8",
) -> Dataset:
    """Load a corpus as a `datasets.Dataset` with one row a document and the column `text`.

    Args:
        name_or_path: `"python-docs"` (embedded, the same for a given Python version), `"fineweb"` (downloaded
            once), or a file, a folder or a glob. `.parquet`, `.jsonl`, `.json` (a list, or lines), `.csv` and
            `.tsv` files hold a document a row; any other name is plain text, one document or several with
            `<|endoftext|>` between them. All but parquet may be compressed, with `.gz` at the end. Of a
            folder, `.txt`, `.jsonl` and `.parquet` files are read, but for hidden ones.
        num_documents: how many of the first documents; None means all, and 1,000 of fineweb.
        text_column: the column of JSON, CSV and parquet files that holds the text.
        cache_dir: where downloads and extracted text are kept; None means `default_cache_dir()`.
        encoding: how files but parquet are encoded, by Python's name of it.

    Returns:
        The documents in order, lines ending in a newline alone. Empty ones are left out.

    Raises:
        FileNotFoundError: if there is no such corpus, file or folder.
        ValueError: for files that are unreadable as text, lack the column, or hold no text; names the file,
            and the line or row. Also for an unknown encoding.
        ConnectionError: if fineweb is neither cached nor reachable; at once, without retries.
    """
    return Corpus(name_or_path, num_documents, text_column, cache_dir, encoding).load()


def default_cache_dir() -> Path:
    """Return `$XDG_CACHE_HOME/jaxloss`, or `~/.cache/jaxloss`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "jaxloss"


def _digest(dataset: Dataset) -> str:
    digest = hashlib.sha256()
    for text in dataset["text"]:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
