"""One book against many documents: the same number of tokens, by the same tokenizer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxloss.data.corpora import load_corpus
from jaxloss.data.split import split_documents
from jaxloss.data.tokenizers import Tokenizer, make_tokenizer


class Stream(NamedTuple):
    """A text's tokens.

    Attributes:
        train: the first nine tenths.
        test: the last tenth.
        num_documents: documents in both.
    """

    train: np.ndarray
    test: np.ndarray
    num_documents: int


def prepare_book_and_web(
    book: str | None = None, web: str | None = None, *, vocab_size: int = 1024, max_ratio: int = 8
) -> tuple[dict[str, Stream], Tokenizer]:
    """Tokens of a homogeneous text, of a heterogeneous one that is as long, and of one that is longer.

    The tokenizer is a byte-level BPE, trained on the training parts of the book and of the short web text
    alike.

    Args:
        book: a file or corpus, of which the longest document is taken; None means the embedded corpus.
        web: a corpus of many documents; None means the embedded corpus without the book.
        vocab_size: ids of the tokenizer.
        max_ratio: how many times as long as the book the long web text is at most.

    Returns:
        "book", "web, as short" and "web, long", each split at about 90 %; and the tokenizer.

    Raises:
        ValueError: the web text is shorter than the book.
    """
    book_text = max(load_corpus("python-docs" if book is None else book)["text"], key=len)
    documents = [
        text for text in load_corpus("python-docs" if web is None else web)["text"] if text != book_text
    ]
    ends = np.cumsum([len(text) for text in documents])
    if not len(ends) or ends[-1] < len(book_text):
        raise ValueError(
            f"the web text must be at least as long as the book, {len(book_text):,} characters; got "
            f"{ends[-1] if len(ends) else 0:,}: give more documents or a shorter book"
        )
    texts = {
        "book": [book_text],
        "web, as short": _shorten(documents, len(book_text)),
        "web, long": _shorten(documents, max_ratio * len(book_text)),
    }
    parts = {name: split_documents(text) for name, text in texts.items()}
    shared = [*parts["book"][0], *parts["web, as short"][0]]
    tokenizer = make_tokenizer("bpe", texts=shared, vocab_size=vocab_size)
    streams = {
        name: Stream(_encode(tokenizer, train), _encode(tokenizer, test), len(texts[name]))
        for name, (train, test) in parts.items()
    }
    # By characters the two differ in tokens by some per cent; by tokens not at all.
    length = min(len(streams[name].train) for name in ("book", "web, as short"))
    for name in ("book", "web, as short"):
        streams[name] = streams[name]._replace(train=streams[name].train[:length])
    return streams, tokenizer


def _shorten(documents: list[str], num_characters: int) -> list[str]:
    """The first documents, the last of them cut where they reach the number of characters."""
    kept = []
    for text in documents:
        if num_characters <= 0:
            break
        kept.append(text[:num_characters])
        num_characters -= len(text)
    return kept


def _encode(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    separator = np.array([tokenizer.end_of_text], tokenizer.dtype)
    pieces = [piece for ids in tokenizer.encode(texts) for piece in (separator, ids)]
    return np.concatenate(pieces[1:])
