"""A token stream in several memory-mapped files: made in parallel, taken up again after a kill.

A shard appears whole, and `shards.json` names those that are there and how much of the text is in them. What
a killed process leaves is gone on with, from its last shard.
"""

from __future__ import annotations

import itertools
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from jaxloss.data.cache import atomic_path
from jaxloss.data.formats import Piece
from jaxloss.data.progress import progress_bar
from jaxloss.data.tokenizers import PIECE_LENGTH, Tokenizer

SHARD_TOKENS = 1 << 25
"""Tokens after which a shard is closed, at the end of the batch: 64 MB of uint16."""
_INDEX = "shards.json"


class TokenShards:
    """Tokens in several arrays, read as one vector `[N]`.

    An index gives what numpy's would: an integer, a slice or an array of integers from 0 to N - 1. Only the
    shards that it lies in are read.

    Args:
        shards: vectors of one integer type, memory-mapped or not.

    >>> stream = TokenShards([np.array([5, 6]), np.array([7, 8, 9])])
    >>> len(stream), stream[np.array([[0, 4]])].tolist(), stream[1:3].tolist()
    (5, [[5, 9]], [6, 7])
    """

    ndim = 1

    def __init__(self, shards: Sequence[np.ndarray]):
        self.shards, self.dtype = list(shards), shards[0].dtype
        self._ends = np.cumsum([len(shard) for shard in shards])

    @property
    def shape(self) -> tuple[int]:
        """`(N,)`."""
        return (len(self),)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.concatenate(self.shards, dtype=dtype)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return self._between(start, stop)
            index = np.arange(start, stop, step)
        positions = np.asarray(index)
        if positions.size and (positions.min() < 0 or positions.max() >= len(self)):
            raise IndexError(f"positions must be from 0 to {len(self) - 1}; got {index}")
        found = np.empty(positions.shape, self.dtype)
        where = np.searchsorted(self._ends, positions, side="right")
        for number in np.unique(where):
            shard, is_here = self.shards[number], where == number
            found[is_here] = shard[positions[is_here] - (self._ends[number] - len(shard))]
        return found[()]

    def _between(self, start: int, stop: int) -> np.ndarray:
        begins = self._ends - [len(shard) for shard in self.shards]
        return np.concatenate(
            [
                shard[max(start - begin, 0) : max(stop - begin, 0)]
                for shard, begin in zip(self.shards, begins, strict=True)
            ]
        )


def write_shards(
    folder: Path, name: str, given: Iterable[Piece], tokenizer: Tokenizer, *, num_characters: int
) -> None:
    """Encode documents into `<name>-00000.npy` and so on, with `<|endoftext|>` between them.

    Args:
        folder: where the shards go. Those that are there already are taken as the beginning of the same text.
        name: what their names begin with.
        given: the documents in pieces; the same at every call.
        tokenizer: what encodes them, on all cores.
        num_characters: of all documents, for the progress bar.
    """
    shards = read_index(folder).get(name, [])
    done = sum(shard["pieces"] for shard in shards)
    numbered = enumerate(given)
    with progress_bar(f"encoding {name}", total=num_characters, unit="char") as bar:
        # What is in shards already is read, but not encoded.
        for _, (_, text) in itertools.islice(numbered, done):
            bar.update(len(text))
        bar.unpause()
        held = [np.empty(0, tokenizer.dtype)]
        num_pieces = 0
        for batch, ids in _encoded(_batches(numbered), tokenizer):
            held += ids
            num_pieces += len(batch)
            bar.update(sum(len(text) for _, (_, text) in batch))
            if sum(map(len, held)) >= SHARD_TOKENS:
                shards.append(_write_shard(folder, name, len(shards), held, num_pieces))
                write_index(folder, name, shards)
                held, num_pieces = held[:1], 0
        if num_pieces or not shards:
            shards.append(_write_shard(folder, name, len(shards), held, num_pieces))
            write_index(folder, name, shards)


def read_shards(folder: Path, name: str) -> np.ndarray | TokenShards:
    """Map the shards that `write_shards` made, as one vector.

    Raises:
        OSError: a shard is missing.
        ValueError: a shard is damaged.
    """
    shards = []
    for shard in read_index(folder)[name]:
        tokens = np.load(folder / shard["file"], mmap_mode="r")
        if len(tokens) != shard["tokens"]:
            raise ValueError(
                f"{folder / shard['file']} must hold {shard['tokens']} tokens; got {len(tokens)}"
            )
        shards.append(tokens)
    return shards[0] if len(shards) == 1 else TokenShards(shards)


def load_each(folder: Path, name: str) -> Iterator[np.ndarray]:
    """Read one shard after the other into memory: pages of a memory map stay there as long as the map."""
    for shard in read_index(folder)[name]:
        yield np.load(folder / shard["file"])


def read_index(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The shards of each stream in a folder, in order."""
    path = folder / _INDEX
    index = json.loads(path.read_text()) if path.exists() else {}
    if not isinstance(index, dict):
        raise ValueError(f"{path} must be a JSON object; got {type(index).__name__}")
    return index


def write_index(folder: Path, name: str, shards: list[dict[str, Any]]) -> None:
    """Say which shards a stream has."""
    with atomic_path(folder / _INDEX) as temporary:
        temporary.write_text(json.dumps(read_index(folder) | {name: shards}, indent=2) + "\n")


def _write_shard(
    folder: Path, name: str, number: int, ids: list[np.ndarray], num_pieces: int
) -> dict[str, Any]:
    tokens, file = np.concatenate(ids), f"{name}-{number:05d}.npy"
    with atomic_path(folder / file) as temporary:
        np.save(temporary, tokens)
    return {"file": file, "tokens": len(tokens), "pieces": num_pieces}


def _batches(numbered: Iterator[tuple[int, Piece]]) -> Iterator[list[tuple[int, Piece]]]:
    """Pieces of about one long piece's length together, to be encoded by one call."""
    batch, length = [], 0
    for piece in numbered:
        batch.append(piece)
        length += len(piece[1][1])
        if length >= PIECE_LENGTH:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch


def _encoded(
    batches: Iterator[list[tuple[int, Piece]]], tokenizer: Tokenizer
) -> Iterator[tuple[list[tuple[int, Piece]], list[np.ndarray]]]:
    """Encode batches on all cores, in order, a few ahead of the one that is asked for."""
    separator = np.array([tokenizer.end_of_text], dtype=tokenizer.dtype)

    def encode(batch: list[tuple[int, Piece]]) -> list[np.ndarray]:
        encoded = tokenizer.encode([text for _, (_, text) in batch])
        return [
            np.concatenate([separator, ids]) if opens and number else ids
            for (number, (opens, _)), ids in zip(batch, encoded, strict=True)
        ]

    num_threads = os.cpu_count() or 1
    waiting: deque[tuple[list[tuple[int, Piece]], Future[list[np.ndarray]]]] = deque()
    # Threads suffice: both tokenizers encode outside of the interpreter's lock.
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for batch in batches:
                waiting.append((batch, pool.submit(encode, batch)))
                if len(waiting) > 2 * num_threads:
                    batch, future = waiting.popleft()
                    yield batch, future.result()
            while waiting:
                batch, future = waiting.popleft()
                yield batch, future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
