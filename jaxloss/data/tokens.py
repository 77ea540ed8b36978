"""Token streams: a corpus encoded once, split into train and test, and memory-mapped from then on.

The text is read as often as it takes and never held: memory does not grow with the corpus.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxloss._checks import check_choice, check_integer
from jaxloss.data.cache import atomic_path, make_folder
from jaxloss.data.corpora import Corpus, default_cache_dir
from jaxloss.data.formats import Piece
from jaxloss.data.progress import progress_bar
from jaxloss.data.sampling import check_tokens
from jaxloss.data.shards import TokenShards, load_each, read_shards, write_shards
from jaxloss.data.split import cut_pieces, read_between, split_point
from jaxloss.data.tokenizers import KINDS, Tokenizer, check_vocab_size, load_tokenizer, make_tokenizer

if TYPE_CHECKING:
    from datasets import Dataset

# Part of the cache key: raise it whenever the same corpus and tokenizer would give another file.
_FORMAT = 3
_COUNTS = "tokens.json"
# Tokens that are counted together.
_CHECKED = 1 << 20


@dataclass(frozen=True)
class TokenData:
    """A corpus as tokens.

    Attributes:
        train: the first nine tenths of the stream, `[N]` uint16 or uint32, memory-mapped read-only; of a
            large corpus, in several files that are read as one.
        test: the last tenth, likewise.
        tokenizer: what encoded them.
        corpus: the name or path it came from.
        num_documents: documents, without the empty ones.
        num_characters: characters of all documents.
        num_distinct: different ids in train and test together.
        folder: where the shards of tokens, `tokenizer.json` and `tokens.json` are cached.
    """

    train: np.ndarray | TokenShards
    test: np.ndarray | TokenShards
    tokenizer: Tokenizer
    corpus: str
    num_documents: int
    num_characters: int
    num_distinct: int
    folder: Path

    def digest(self) -> str:
        """SHA-256 of all tokens."""
        digest = hashlib.sha256()
        for part in (self.train, self.test):
            for tokens in part.shards if isinstance(part, TokenShards) else [part]:
                digest.update(tokens.data)
        return digest.hexdigest()


def prepare_tokens(
    corpus: str | os.PathLike[str] | Dataset,
    *,
    tokenizer: str | Tokenizer = "bpe",
    vocab_size: int = 4096,
    num_documents: int | None = None,
    text_column: str = "text",
    context_length: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    encoding: str = "utf-8",
) -> TokenData:
    """Load a corpus, tokenize it and split it, or map the token file of an earlier call.

    The text is split before the tokenizer sees it, at the document boundary nearest to 90 % of its
    characters; where that is further than 5 % away, as in a single book, at the nearest paragraph. The first
    part trains, also the `"bpe"` tokenizer; the last tests. `<|endoftext|>` stands between documents, also in
    a text file; it is the token of that name in both parts.

    Tokens are written in shards by all cores. A call that is killed is gone on with by the next.

    Args:
        corpus: `"python-docs"`, `"fineweb"`, a file, folder or glob (see `load_corpus`), or a dataset.
        tokenizer: `"bpe"`, `"gpt2"` or `"bytes"`: see `make_tokenizer`; or one that is there already.
        vocab_size: ids of the `"bpe"` tokenizer; unused by the others.
        num_documents: how many of the first documents; None means all, and 1,000 of fineweb.
        text_column: the column of JSON, CSV and parquet files that holds the text.
        context_length: if given, both parts must hold a crop of this many tokens and its targets.
        cache_dir: where token files are kept; None means `default_cache_dir()`. Safe to share between
            processes: one makes them, others wait for it.
        encoding: how files but parquet are encoded, by Python's name of it.

    Returns:
        A `TokenData`.

    Raises:
        ValueError: for a bad argument, unusable text, or text shorter than one crop.
        FileNotFoundError: if there is no such corpus.
        ConnectionError: if fineweb or gpt2 is neither cached nor reachable.
        PermissionError: if a file cannot be read or the cache folder not written.
    """
    source = Corpus(corpus, num_documents, text_column, cache_dir, encoding)
    if not isinstance(tokenizer, Tokenizer):
        check_choice("tokenizer", tokenizer, KINDS)
    if tokenizer == "bpe":
        check_vocab_size(vocab_size)
    if context_length is not None:
        check_integer("context_length", context_length, low=1)
    kind = tokenizer if isinstance(tokenizer, str) else tokenizer.name
    key = {"format": _FORMAT, "corpus": source.identity(), "tokenizer": kind}
    if tokenizer == "bpe":
        key["vocab_size"] = vocab_size
    elif isinstance(tokenizer, Tokenizer) and kind == "bpe":
        key["tokenizer"] = hashlib.sha256(tokenizer.to_json().encode()).hexdigest()
    base = default_cache_dir() if cache_dir is None else Path(cache_dir)
    folder = base / "tokens" / _folder_name(source.name, kind, key)
    data = _load(folder, source.name)
    if data is None:
        data = _make(folder, source, tokenizer, vocab_size)
    if context_length is not None:
        _check_length(data, context_length)
    return data


def describe(data: TokenData) -> str:
    """Return one line that says what was loaded.

    Args:
        data: what `prepare_tokens` returned.
    """
    num_tokens = len(data.train) + len(data.test)
    return (
        f"{data.corpus}: {data.num_documents:,} documents, {data.num_characters:,} characters, "
        f"{num_tokens:,} {data.tokenizer.name} tokens "
        f"({data.num_distinct:,} of {data.tokenizer.vocab_size:,} ids used), "
        f"{len(data.train):,} train, {len(data.test):,} test"
    )


class _Part:
    """The texts of one part, read anew each time."""

    def __init__(self, source: Corpus, cut: int, is_test: bool):
        self._source, self._cut, self._is_test = source, cut, is_test

    def pieces(self) -> Iterator[Piece]:
        return (
            piece
            for is_test, piece in cut_pieces(self._source.pieces(), self._cut)
            if is_test == self._is_test
        )

    def __iter__(self) -> Iterator[str]:
        return (text for _, text in self.pieces())


def _make(folder: Path, source: Corpus, tokenizer: str | Tokenizer, vocab_size: int) -> TokenData:
    """Write the token folder, unless another process does."""
    from filelock import FileLock, Timeout

    make_folder(folder.parent)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting for another process, which tokenizes {source.name}", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        data = _load(folder, source.name)
        if data is None:
            unfinished = folder.with_name(f".{folder.name}.part")
            try:
                unfinished.mkdir(exist_ok=True)
                _write(unfinished, source, tokenizer, vocab_size)
            except (ValueError, TypeError):
                # Nothing to go on with: the text or the request is wrong.
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
            for half_written in unfinished.glob(".*"):
                half_written.unlink()
            # A folder that cannot be read may be in the way.
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
            data = _load(folder, source.name)
    finally:
        lock.release()
    assert data is not None, f"{folder} was written but cannot be read"
    return data


def _write(folder: Path, source: Corpus, kind: str | Tokenizer, vocab_size: int) -> None:
    """Encode the corpus into a folder, and go on with what is there."""
    if isinstance(kind, Tokenizer):
        tokenizer = kind
    elif kind != "bpe":
        tokenizer = make_tokenizer(kind)
    try:
        counts = json.loads((folder / _COUNTS).read_text())
    except (OSError, ValueError):
        lengths = _lengths(source)
        cut = split_point(lengths, lambda start, stop: read_between(source.pieces(), start, stop))
        counts = {
            "num_train_characters": cut,
            "num_documents": len(lengths),
            "num_characters": int(lengths.sum()),
        }
        with atomic_path(folder / _COUNTS) as temporary:
            temporary.write_text(json.dumps(counts, indent=2) + "\n")
    cut = counts["num_train_characters"]
    train, test = _Part(source, cut, False), _Part(source, cut, True)
    if kind == "bpe":
        path = folder / "tokenizer.json"
        tokenizer = (
            load_tokenizer(folder)
            if path.exists()
            else make_tokenizer("bpe", texts=train, vocab_size=vocab_size)
        )
    with atomic_path(folder / "tokenizer.json") as temporary:
        tokenizer.save(temporary)
    write_shards(folder, "train", train.pieces(), tokenizer, num_characters=cut)
    write_shards(folder, "test", test.pieces(), tokenizer, num_characters=counts["num_characters"] - cut)
    is_used = np.zeros(tokenizer.vocab_size, dtype=bool)
    for part in ("train", "test"):
        for shard in load_each(folder, part):
            check_tokens(shard, tokenizer.vocab_size)
            for start in range(0, len(shard), _CHECKED):
                is_used[shard[start : start + _CHECKED]] = True
    counts["num_distinct"] = int(is_used.sum())
    with atomic_path(folder / _COUNTS) as temporary:
        temporary.write_text(json.dumps(counts, indent=2) + "\n")


def _lengths(source: Corpus) -> np.ndarray:
    """Characters of each document."""
    lengths = array("q")
    with progress_bar("reading", total=None, unit="char") as bar:
        for opens, text in source.pieces():
            if opens:
                lengths.append(0)
            lengths[-1] += len(text)
            bar.update(len(text))
    return np.frombuffer(lengths, np.int64)


def _load(folder: Path, corpus: str) -> TokenData | None:
    """Map a token folder; None if it is missing or damaged."""
    try:
        counts = json.loads((folder / _COUNTS).read_text())
        train, test = read_shards(folder, "train"), read_shards(folder, "test")
        tokenizer = load_tokenizer(folder)
        fields = {name: counts[name] for name in ("num_documents", "num_characters", "num_distinct")}
        return TokenData(train, test, tokenizer, corpus, folder=folder, **fields)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _check_length(data: TokenData, context_length: int) -> None:
    whole = len(data.train) + len(data.test)
    if whole <= context_length:
        raise ValueError(
            f"{data.corpus} needs at least {context_length + 1} tokens, has {whole}: "
            "give a longer text or a smaller context_length"
        )
    for part, tokens in (("train", data.train), ("test", data.test)):
        if len(tokens) <= context_length:
            raise ValueError(
                f"the {part} part of {data.corpus} needs at least {context_length + 1} tokens, "
                f"has {len(tokens)}: give a longer text or a smaller context_length"
            )


def _folder_name(corpus: str, tokenizer: str, key: dict[str, object]) -> str:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    slug = re.sub(r"[^A-Za-z0-9]+", "-", Path(corpus).stem)[:40].strip("-") or "corpus"
    return f"{slug}-{tokenizer}-{digest}"
