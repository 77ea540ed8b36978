"""Crops of a token stream: random ones to train on, evenly spaced ones to evaluate on.

Shapes: B batch, T context length (time), N tokens in the stream.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int32, Integer

from jaxloss._checks import check_integer
from jaxloss.data.shards import TokenShards

NO_TARGET = -100
"""The label that every loss leaves out."""


def sample_batch(
    tokens: Integer[np.ndarray, " N"] | TokenShards,
    *,
    batch_size: int,
    context_length: int,
    seed: int,
    step: int,
    end_of_text: int | None = None,
) -> tuple[Int32[np.ndarray, "B T"], Int32[np.ndarray, "B T"]]:
    """Sample random crops of the stream, as a pure function of `(seed, step)`.

    The start positions come from a counter-based generator (Philox) keyed by `(seed, step)` and are uniform
    over every crop that fits, the last one included. There is no generator state: step 1,000 of a resumed run
    draws what step 1,000 of an uninterrupted one does.

    Args:
        tokens: the stream, `[N]` integers; a memory map is only read where the crops lie.
        batch_size: number of crops B, at least 1.
        context_length: tokens of each input, T, at least 1.
        seed: which run, from 0 to 2^64 - 1.
        step: which batch of the run, from 0 to 2^64 - 1.
        end_of_text: the token that ends a document, of a model that is to keep documents apart: what follows
            it is the beginning of another, and no target (-100). No crop has it as its last input. None
            takes the next token whatever it is.

    Returns:
        `(inputs, targets)`, both int32 `[B, T]`; `targets[:, t]` is the token that follows `inputs[:, t]`.

    Raises:
        ValueError: for a count below 1, a negative seed or step, fewer than `context_length + 1` tokens, or a
            token beyond int32 in a crop.
        TypeError: if `tokens` does not hold integers, or a count, seed or step is not an integer.

    >>> inputs, targets = sample_batch(np.arange(100), batch_size=2, context_length=4, seed=0, step=7)
    >>> inputs.shape, bool((targets == inputs + 1).all())
    ((2, 4), True)
    """
    num_starts = _num_starts(tokens, context_length)
    check_integer("batch_size", batch_size, low=1)
    for name, value in (("seed", seed), ("step", step)):
        check_integer(name, value, low=0, high=2**64 - 1)
    # Raw bits: NumPy keeps a bit generator's stream for ever, but not what its distributions make of it. The
    # remainder favours low positions by N / 2^64, under 1e-9 for any corpus.
    bits_B = np.random.Philox(key=np.array([seed, step], dtype=np.uint64)).random_raw(int(batch_size))
    starts_B = (bits_B % np.uint64(num_starts)).astype(np.int64)
    return _crops(tokens, starts_B, context_length, end_of_text)


def eval_crops(
    tokens: Integer[np.ndarray, " N"] | TokenShards,
    *,
    num_crops: int,
    context_length: int,
    end_of_text: int | None = None,
) -> tuple[Int32[np.ndarray, "B T"], Int32[np.ndarray, "B T"]]:
    """Cut crops at evenly spaced positions, from the stream's first crop to its last.

    The same tokens always give the same crops, so that losses of different steps, objectives and frameworks
    compare.
    Crops overlap where the stream is shorter than `num_crops * context_length`.

    Args:
        tokens: the held-out stream, `[N]` integers.
        num_crops: number of crops B, from 1 to the number of different crops that the stream holds.
        context_length: tokens of each input, T, at least 1.
        end_of_text: as for `sample_batch`.

    Returns:
        `(inputs, targets)`, both int32 `[B, T]`; `targets[:, t]` is the token that follows `inputs[:, t]`.

    Raises:
        ValueError: for a count below 1, fewer than `context_length + 1` tokens, more crops than there are, or
            a token beyond int32 in a crop.
        TypeError: if `tokens` does not hold integers, or a count is not an integer.

    >>> eval_crops(np.arange(10), num_crops=3, context_length=2)[0].tolist()
    [[0, 1], [4, 5], [7, 8]]
    """
    num_starts = _num_starts(tokens, context_length)
    check_integer("num_crops", num_crops, low=1)
    if num_crops > num_starts:
        raise ValueError(
            f"num_crops={num_crops}, but {len(tokens):,} tokens hold only {num_starts:,} different crops of "
            f"{context_length + 1} tokens: ask for fewer crops or give a longer text"
        )
    starts_B = np.rint(np.linspace(0, num_starts - 1, int(num_crops))).astype(np.int64)
    return _crops(tokens, starts_B, context_length, end_of_text)


def check_tokens(tokens: Integer[np.ndarray, " N"], vocab_size: int) -> None:
    """Refuse a token stream that is not a vector of ids in `[0, vocab_size)`.

    Reads the whole stream: for a user's own array, once, not for every batch.

    Args:
        tokens: the stream, `[N]` integers.
        vocab_size: number of ids that the model knows, at least 1.

    Raises:
        ValueError: if `tokens` is not one-dimensional or an id lies outside; names the first and its
            position.
        TypeError: if `tokens` does not hold integers.

    >>> check_tokens(np.array([3, 9, 1]), 8)
    Traceback (most recent call last):
        ...
    ValueError: tokens must be from 0 to 7 (vocab_size=8); got 9 at position 1
    """
    _check_stream(tokens)
    check_integer("vocab_size", vocab_size, low=1)
    first = 0
    for part in tokens.shards if isinstance(tokens, TokenShards) else [tokens]:
        if part.size and not (part.min() >= 0 and part.max() < vocab_size):
            position = int(np.argmax((part < 0) | (part >= vocab_size)))
            raise ValueError(
                f"tokens must be from 0 to {vocab_size - 1} (vocab_size={vocab_size}); "
                f"got {int(part[position])} at position {first + position}"
            )
        first += len(part)


def _crops(
    tokens: np.ndarray | TokenShards, starts_B: np.ndarray, context_length: int, end_of_text: int | None
) -> tuple[np.ndarray, np.ndarray]:
    if end_of_text is not None:
        # Without any target, the final token of a crop would have no loss.
        is_end_B = tokens[starts_B + (context_length - 1)] == end_of_text
        later_B = np.minimum(starts_B + 1, len(tokens) - context_length - 1)
        starts_B = np.where(is_end_B, np.where(starts_B > 0, starts_B - 1, later_B), starts_B)
    crops_BT = tokens[starts_B[:, None] + np.arange(context_length + 1)]
    fits_BT = (np.iinfo(np.int32).min <= crops_BT) & (crops_BT <= np.iinfo(np.int32).max)
    if not fits_BT.all():
        row, column = np.argwhere(~fits_BT)[0]
        raise ValueError(
            f"tokens must fit in int32; got {crops_BT[row, column]} at position {starts_B[row] + column}"
        )
    crops_BT = crops_BT.astype(np.int32)
    inputs_BT, targets_BT = np.ascontiguousarray(crops_BT[:, :-1]), np.ascontiguousarray(crops_BT[:, 1:])
    if end_of_text is not None:
        # A new array: the two share memory where there is a single crop.
        targets_BT = np.where(inputs_BT == end_of_text, np.int32(NO_TARGET), targets_BT)
    return inputs_BT, targets_BT


def _num_starts(tokens: np.ndarray | TokenShards, context_length: int) -> int:
    _check_stream(tokens)
    check_integer("context_length", context_length, low=1)
    if len(tokens) <= context_length:
        raise ValueError(
            f"a crop of context_length={context_length} needs at least {context_length + 1} tokens, "
            f"has {len(tokens)}: give a longer text or a smaller context_length"
        )
    return len(tokens) - int(context_length)


def _check_stream(tokens: np.ndarray | TokenShards) -> None:
    if not isinstance(tokens, np.ndarray | TokenShards):
        raise TypeError(f"tokens must be a NumPy array; got {type(tokens).__name__}")
    if tokens.ndim != 1:
        raise ValueError(f"tokens must have one dimension; got shape {tokens.shape}")
    if not np.issubdtype(tokens.dtype, np.integer):
        raise TypeError(f"tokens must hold integers; got {tokens.dtype}")
