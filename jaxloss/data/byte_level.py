"""GPT-2's byte-level alphabet and the `tokenizers` objects built on it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import tokenizers

END_OF_TEXT = "<|endoftext|>"


def make_byte_level(
    vocab: dict[str, int], merges: list[tuple[str, str]], *, use_regex: bool = True
) -> tokenizers.Tokenizer:
    """Make a byte-level BPE; `use_regex` splits text by GPT-2's pattern first."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def make_bytes() -> tokenizers.Tokenizer:
    """Make the tokenizer whose ids are bytes; 255, which no UTF-8 text has, is `<|endoftext|>`."""
    vocab = {char: byte for byte, char in byte_chars().items() if byte < 255}
    tokenizer = make_byte_level(vocab, [], use_regex=False)
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def from_ranks(tokens: list[bytes]) -> tokenizers.Tokenizer:
    """Make the BPE with the ids of `tokens`, 256 bytes and then merges, and `<|endoftext|>` last."""
    ranks = {token: rank for rank, token in enumerate(tokens)}
    chars = byte_chars()
    names = ["".join(chars[byte] for byte in token) for token in tokens]
    merges = []
    for token in tokens[256:]:
        left, right = _last_merge(token, ranks)
        merges.append((names[ranks[left]], names[ranks[right]]))
    tokenizer = make_byte_level({name: rank for rank, name in enumerate(names)}, merges)
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def byte_chars() -> dict[int, str]:
    """Map each byte to the printable character that stands for it in GPT-2's vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    chars = {byte: chr(byte) for byte in printable}
    return chars | {byte: chr(256 + i) for i, byte in enumerate(others)}


def _last_merge(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """Return the two parts whose merge makes `token`: merge its bytes by all earlier merges."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        joined = [ranks.get(a + b, len(ranks)) for a, b in itertools.pairwise(parts)]
        i = int(np.argmin(joined))
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts[0], parts[1]
