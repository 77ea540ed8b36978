"""Token streams: a corpus encoded once, split into train and test, and memory-mapped from then on."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxloss._checks import check_choice, check_integer
from jaxloss.data.cache import make_folder
from jaxloss.data.corpora import Corpus, default_cache_dir
from jaxloss.data.progress import progress_bar
from jaxloss.data.sampling import check_tokens
from jaxloss.data.tokenizers import KINDS, Tokenizer, check_vocab_size, load_tokenizer, make_tokenizer, pieces

if TYPE_CHECKING:
    from datasets import Dataset

# Part of the cache key: raise it whenever the same corpus and tokenizer would give another file.
_FORMAT = 2
_TEST_FRACTION = 0.1
_BATCH_PIECES = 256


@dataclass(frozen=True)
class TokenData:
    """A corpus as tokens.

    Attributes:
        train: the first nine tenths of the stream, `[N]` uint16 or uint32, memory-mapped read-only.
        test: the last tenth, likewise.
        tokenizer: what encoded them.
        corpus: the name or path it came from.
        num_documents: documents, without the empty ones.
        num_characters: characters of all documents.
        num_distinct: different ids in train and test together.
        folder: where `tokens.npy`, `tokenizer.json` and `tokens.json` are cached.
    """

    train: np.ndarray
    test: np.ndarray
    tokenizer: Tokenizer
    corpus: str
    num_documents: int
    num_characters: int
    num_distinct: int
    folder: Path


def prepare_tokens(
    corpus: str | os.PathLike[str] | Dataset,
    *,
    tokenizer: str | Tokenizer = "bpe",
    vocab_size: int = 4096,
    num_documents: int | None = None,
    text_column: str = "text",
    context_length: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> TokenData:
    """Load a corpus, tokenize it and split it, or map the token file of an earlier call.

    The text is split before the tokenizer sees it, at the document boundary nearest to 90 % of its
    characters; where that is further than 5 % away, as in a single book, at the nearest paragraph. The first
    part trains, also the `"bpe"` tokenizer; the last tests. `<|endoftext|>` stands between documents.

    Args:
        corpus: `"python-docs"`, `"fineweb"`, a file, folder or glob (see `load_corpus`), or a dataset.
        tokenizer: `"bpe"`, `"gpt2"` or `"bytes"`: see `make_tokenizer`; or one that is there already.
        vocab_size: ids of the `"bpe"` tokenizer; unused by the others.
        num_documents: how many of the first documents; None means all, and 1,000 of fineweb.
        text_column: the column of `.jsonl` and `.parquet` files that holds the text.
        context_length: if given, both parts must hold a crop of this many tokens and its targets.
        cache_dir: where token files are kept; None means `default_cache_dir()`. Safe to share between
            processes.

    Returns:
        A `TokenData`.

    Raises:
        ValueError: for a bad argument, unusable text, or text shorter than one crop.
        FileNotFoundError: if there is no such corpus.
        ConnectionError: if fineweb or gpt2 is neither cached nor reachable.
        PermissionError: if a file cannot be read or the cache folder not written.
    """
    source = Corpus(corpus, num_documents, text_column, cache_dir)
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
        _write(folder, source, tokenizer, vocab_size)
        data = _load(folder, source.name)
        assert data is not None, f"{folder} was written but cannot be read"
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


def split_documents(texts: list[str]) -> tuple[list[str], list[str]]:
    """Split documents into train and test at about 90 % of the characters.

    At a document boundary if one lies within 5 % of the whole, else at a paragraph, else at a space.

    Args:
        texts: the documents, in order, none of them empty.

    Returns:
        The documents that train and those that test; at most one document is cut in two.
    """
    ends = np.cumsum([len(text) for text in texts])
    target = (1 - _TEST_FRACTION) * ends[-1]
    nearest = int(np.argmin(np.abs(ends - target)))
    if abs(ends[nearest] - target) <= _TEST_FRACTION / 2 * ends[-1]:
        return texts[: nearest + 1], texts[nearest + 1 :]
    i = int(np.searchsorted(ends, target))
    head, tail = _cut(texts[i], int(target) - (int(ends[i - 1]) if i else 0))
    return [*texts[:i], head], [tail, *texts[i + 1 :]]


def _cut(text: str, position: int) -> tuple[str, str]:
    for separator in ("\n\n", "\n", " "):
        ends = [match.end() for match in re.finditer(re.escape(separator), text)]
        if ends:
            nearest = min(ends, key=lambda end: abs(end - position))
            if abs(nearest - position) <= _TEST_FRACTION / 2 * len(text):
                return text[:nearest], text[nearest:]
    return text[:position], text[position:]


def _write(folder: Path, source: Corpus, kind: str | Tokenizer, vocab_size: int) -> None:
    """Encode the corpus into a temporary folder, then move it to its place in one step."""
    make_folder(folder.parent)
    if kind != "bpe":
        tokenizer = make_tokenizer(kind) if isinstance(kind, str) else kind
    texts: list[str] = source.load()["text"][:]
    train, test = split_documents(texts)
    if kind == "bpe":
        tokenizer = make_tokenizer("bpe", texts=train, vocab_size=vocab_size)
    parts = [np.concatenate(list(_encode(part, tokenizer))) for part in (train, test)]
    tokens = np.concatenate(parts)
    check_tokens(tokens, tokenizer.vocab_size)
    is_used = np.zeros(tokenizer.vocab_size, dtype=bool)
    is_used[tokens] = True
    counts = {
        "num_train": len(parts[0]),
        "num_test": len(parts[1]),
        "num_documents": len(texts),
        "num_characters": sum(map(len, texts)),
        "num_distinct": int(is_used.sum()),
    }
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        np.save(temporary / "tokens.npy", tokens)
        tokenizer.save(temporary / "tokenizer.json")
        (temporary / "tokens.json").write_text(json.dumps(counts, indent=2) + "\n")
        try:
            temporary.rename(folder)
        except OSError:
            # Another process came first, with the same contents, or an unreadable folder is in the way.
            if _load(folder, source.name) is None:
                shutil.rmtree(folder, ignore_errors=True)
                temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _load(folder: Path, corpus: str) -> TokenData | None:
    """Map a token folder; None if it is missing or damaged."""
    try:
        counts = json.loads((folder / "tokens.json").read_text())
        num_train, num_test = counts.pop("num_train"), counts.pop("num_test")
        tokens = np.load(folder / "tokens.npy", mmap_mode="r")
        if len(tokens) != num_train + num_test:
            return None
        tokenizer = load_tokenizer(folder)
        train, test = tokens[:num_train], tokens[num_train:]
        return TokenData(train, test, tokenizer, corpus, folder=folder, **counts)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _encode(texts: list[str], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """Encode documents in batches, with `<|endoftext|>` between them."""
    separator = np.array([tokenizer.end_of_text], dtype=tokenizer.dtype)
    # Each piece with whether it opens a document that another precedes.
    marked = ((i == 0 < n, piece) for n, text in enumerate(texts) for i, piece in enumerate(pieces(text)))
    yield separator[:0]
    with progress_bar("encoding", total=sum(map(len, texts)), unit="char") as bar:
        while batch := list(itertools.islice(marked, _BATCH_PIECES)):
            for (opens, piece), ids in zip(batch, tokenizer.encode([p for _, p in batch]), strict=True):
                yield np.concatenate([separator, ids]) if opens else ids
                bar.update(len(piece))


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
