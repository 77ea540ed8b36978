"""Corpora by name or path, as `datasets.Dataset`s of documents."""

from __future__ import annotations

import difflib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jaxloss._checks import check_integer
from jaxloss.data import files, fineweb, python_docs

if TYPE_CHECKING:
    from datasets import Dataset

NAMES = ("python-docs", "fineweb")


@dataclass(frozen=True)
class Corpus:
    """Which documents, before any of them is read.

    Attributes:
        source: `"python-docs"`, `"fineweb"`, a path or glob, or a `datasets.Dataset`.
        num_documents: how many of the first documents; None means all, and 1,000 of fineweb's 15 million.
        text_column: the column of `.jsonl` and `.parquet` files and of datasets that holds the text.
        cache_dir: where downloads and extracted text are kept; None means `default_cache_dir()`.
    """

    source: str | os.PathLike[str] | Dataset
    num_documents: int | None = None
    text_column: str = "text"
    cache_dir: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if self.num_documents is not None:
            check_integer("num_documents", self.num_documents, low=1)
        if not isinstance(self.text_column, str):
            raise TypeError(f"text_column must be a string; got {self.text_column!r}")
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
        return identity | {"text_column": self.text_column, "files": files.digest(self._paths())}

    def load(self) -> Dataset:
        """Load the documents."""
        if not isinstance(self.source, str | os.PathLike):
            return files.documents(self.source, self.text_column, self.num_documents)
        folder = default_cache_dir() if self.cache_dir is None else Path(self.cache_dir)
        if self.name == "python-docs":
            return python_docs.load(folder, num_documents=self.num_documents)
        if self.name == "fineweb":
            return fineweb.load(folder, num_documents=self._num_fineweb())
        return files.load(self._paths(), text_column=self.text_column, num_documents=self.num_documents)

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
) -> Dataset:
    """Load a corpus as a `datasets.Dataset` with one row a document and the column `text`.

    Args:
        name_or_path: `"python-docs"` (embedded, the same for a given Python version), `"fineweb"` (downloaded
            once), or a `.txt`, `.jsonl` or `.parquet` file, a folder of them, or a glob. A `.txt` file is one
            document. Hidden files in a folder are left out.
        num_documents: how many of the first documents; None means all, and 1,000 of fineweb.
        text_column: the column of `.jsonl` and `.parquet` files that holds the text.
        cache_dir: where downloads and extracted text are kept; None means `default_cache_dir()`.

    Returns:
        The documents in order, lines ending in a newline alone. Empty ones are left out.

    Raises:
        FileNotFoundError: if there is no such corpus, file or folder.
        ValueError: for files that are unreadable as text, lack the column, or hold no text; names the file,
            and the line or row.
        ConnectionError: if fineweb is neither cached nor reachable; at once, without retries.
    """
    return Corpus(name_or_path, num_documents, text_column, cache_dir).load()


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
