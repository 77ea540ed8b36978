"""The place where a text is split into train and test, found without holding the text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from jaxloss.data.formats import Piece

_TEST_FRACTION = 0.1
# Characters on both sides of the place of the split that are searched for a paragraph's end, at most.
_REACH = 1 << 20


def split_documents(texts: list[str]) -> tuple[list[str], list[str]]:
    """Split documents into train and test at about 90 % of the characters.

    At a document boundary if one lies within 5 % of the whole, else at a paragraph, else at a space.

    Args:
        texts: the documents, in order, none of them empty.

    Returns:
        The documents that train and those that test; at most one document is cut in two.
    """
    lengths = np.array([len(text) for text in texts])
    cut = split_point(lengths, lambda start, stop: "".join(texts)[start:stop])
    parts: tuple[list[str], list[str]] = [], []
    for is_test, (_, text) in cut_pieces(((True, text) for text in texts), cut):
        parts[is_test].append(text)
    return parts


def split_point(lengths: np.ndarray, read: Callable[[int, int], str]) -> int:
    """Characters of the part that trains.

    Args:
        lengths: characters of each document.
        read: gives the text from one character of all documents to another.
    """
    ends = np.cumsum(lengths)
    target = (1 - _TEST_FRACTION) * ends[-1]
    nearest = int(np.argmin(np.abs(ends - target)))
    if abs(ends[nearest] - target) <= _TEST_FRACTION / 2 * ends[-1]:
        return int(ends[nearest])
    i, position = int(np.searchsorted(ends, target)), int(target)
    reach = min(int(_TEST_FRACTION / 2 * lengths[i]), _REACH)
    # A paragraph's end may begin a character before.
    start = max(int(ends[i] - lengths[i]), position - reach - 1)
    text = read(start, min(int(ends[i]), position + reach))
    for separator in ("\n\n", "\n", " "):
        found = [start + match.end() for match in re.finditer(re.escape(separator), text)]
        if found:
            nearest = min(found, key=lambda end: abs(end - position))
            if abs(nearest - position) <= reach:
                return nearest
    return position


def cut_pieces(given: Iterable[Piece], cut: int) -> Iterator[tuple[bool, Piece]]:
    """The pieces with whether they test; the one that holds the character `cut` becomes two."""
    position = 0
    for opens, text in given:
        before = min(max(cut - position, 0), len(text))
        if before:
            yield False, (opens, text[:before])
        if before < len(text):
            yield True, (opens and not before, text[before:])
        position += len(text)


def read_between(given: Iterable[Piece], start: int, stop: int) -> str:
    """The text from one character of all documents to another."""
    parts, position = [], 0
    for _, text in given:
        parts.append(text[max(start - position, 0) : max(stop - position, 0)])
        position += len(text)
    return "".join(parts)
