"""How much generated tokens look like text."""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxloss.data import Tokenizer

NGRAM = 4
"""Tokens in a row that count as a repetition when they come again."""


def decode_known(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Text of the ids; a model's vocabulary may have more of them than its tokenizer knows."""
    return tokenizer.decode([int(i) for i in ids if i < tokenizer.vocab_size])


def measure_text(decode: Callable[[Sequence[int]], str], ids_NT: np.ndarray) -> dict[str, float]:
    """Measure spaces, words and repetitions of several texts.

    Args:
        decode: a tokenizer's, from ids to text.
        ids_NT: N texts of T tokens each.

    Returns:
        `tokens_with_space`, the share of tokens that begin with a space; `word_length`, the mean length in
        characters of what stands between spaces; `repeated_ngrams`, the share of n-grams of `NGRAM` tokens
        that have occurred before in their text.

    >>> measure_text(lambda ids: "".join(" x" if i else "y" for i in ids), np.array([[0, 1, 0, 1, 0, 1]]))
    {'tokens_with_space': 0.5, 'word_length': 1.5, 'repeated_ngrams': 0.3333333333333333}
    """
    starts = {int(token): decode([int(token)])[:1].isspace() for token in np.unique(ids_NT)}
    words = [word for ids in ids_NT for word in decode(ids.tolist()).split()]
    repeated = total = 0
    for ids in ids_NT:
        ngrams = [tuple(ids[i : i + NGRAM]) for i in range(len(ids) - NGRAM + 1)]
        repeated += len(ngrams) - len(set(ngrams))
        total += len(ngrams)
    return {
        "tokens_with_space": float(np.mean([starts[int(token)] for token in ids_NT.ravel()])),
        "word_length": float(np.mean([len(word) for word in words])) if words else 0.0,
        "repeated_ngrams": repeated / total if total else 0.0,
    }


def real_bigrams(texts: Sequence[str], real: Sequence[str]) -> float:
    """The share of the texts' pairs of neighbouring words that real text holds too; 0 without any pair.

    Args:
        texts: what is measured.
        real: the text that counts as real.

    >>> real_bigrams(["the cat sat the"], ["On the mat the cat sat."])
    0.6666666666666666
    """

    def bigrams(text: str) -> list[tuple[str, str]]:
        return list(itertools.pairwise(re.findall(r"[\w'\u2019-]+", text.lower())))

    known = {pair for text in real for pair in bigrams(text)}
    found = [pair in known for text in texts for pair in bigrams(text)]
    return float(np.mean(found)) if found else 0.0


def join_texts(texts: Mapping[str, Sequence[str]]) -> str:
    """All texts one after the other, each under its source's name.

    >>> print(join_texts({"model": ["one", "two"]}))
    # model, text 1 of 2
    <BLANKLINE>
    one
    <BLANKLINE>
    # model, text 2 of 2
    <BLANKLINE>
    two
    """
    return "\n\n".join(
        f"# {name}, text {number} of {len(written)}\n\n{text}"
        for name, written in texts.items()
        for number, text in enumerate(written, 1)
    )


def wrap(text: str, *, indent: str = "  ", width: int = 79) -> str:
    """Fold a text to a terminal's width, keeping its line breaks and showing control characters as blanks."""
    printable = re.sub(r"[^\S\n]|[\x00-\x09\x0b-\x1f\x7f]", " ", text)
    lines = [
        textwrap.fill(line, width, initial_indent=indent, subsequent_indent=indent) or indent.rstrip()
        for line in printable.split("\n")
    ]
    return "\n".join(lines)
