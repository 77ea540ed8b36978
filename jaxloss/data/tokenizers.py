"""Tokenizers: byte-level BPE trained on the corpus, GPT-2's own, and plain bytes.

All three are saved as a Hugging Face `tokenizer.json`, which `load_tokenizer` and the `tokenizers` package
read back with no network and no other file.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxloss._checks import check_choice, check_integer
from jaxloss.data.byte_level import END_OF_TEXT, from_ranks, make_byte_level, make_bytes
from jaxloss.data.network import is_reachable
from jaxloss.data.progress import progress_bar

if TYPE_CHECKING:
    import tiktoken
    import tokenizers

KINDS = ("bpe", "gpt2", "bytes")

_GPT2_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
_GPT2_VOCAB_SIZE = 50257
# A white space that GPT-2's pattern never joins to what stands before it, because a word follows.
_BREAK = re.compile(r"[ \n](?=\S)")
# Long documents are encoded in pieces: `tokenizers` holds some 50 bytes for each byte that it encodes.
PIECE_LENGTH = 1 << 18


class Tokenizer(ABC):
    """Text to token ids and back.

    The special token `<|endoftext|>` has the highest id, `end_of_text`. It stands between documents and is
    never produced from text, not even from text that spells it.
    """

    name: str
    vocab_size: int

    @property
    def end_of_text(self) -> int:
        """The id of `<|endoftext|>`: the highest, as in GPT-2."""
        return self.vocab_size - 1

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encode each text into a vector of ids of type `dtype`, with no special tokens."""
        if isinstance(texts, str):
            raise TypeError("texts must be a sequence of strings; got one string: pass [text]")
        return [
            np.asarray(ids, dtype=self.dtype) for ids in self._encode([_encodable(text) for text in texts])
        ]

    def encode_marked(self, text: str) -> np.ndarray:
        """Encode a text in which `<|endoftext|>` is the special token, the mark between documents."""
        end = np.array([self.end_of_text], dtype=self.dtype)
        parts = [part for ids in self.encode(text.split(END_OF_TEXT)) for part in (end, ids)]
        return np.concatenate(parts[1:])

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Decode ids into text; bytes that are not UTF-8 become U+FFFD."""

    @abstractmethod
    def to_json(self) -> str:
        """Return the contents of `tokenizer.json`."""

    @abstractmethod
    def _encode(self, texts: list[str]) -> Iterable[Sequence[int] | np.ndarray]: ...

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        """The smallest of uint16 and uint32 that holds every id."""
        return np.uint16 if self.vocab_size <= 1 << 16 else np.uint32

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `tokenizer.json` to `path`, replacing what is there."""
        Path(path).write_text(self.to_json(), encoding="utf-8")


class BytesTokenizer(Tokenizer):
    """The UTF-8 bytes themselves. Byte 255 occurs in no UTF-8 text and serves as `<|endoftext|>`."""

    name = "bytes"
    vocab_size = 256

    def _encode(self, texts: list[str]) -> Iterator[np.ndarray]:
        return (np.frombuffer(text.encode(), dtype=np.uint8) for text in texts)

    def decode(self, ids: Iterable[int]) -> str:  # noqa: D102
        pieces = bytes(_checked_ids(ids, self.vocab_size)).split(b"\xff")
        return END_OF_TEXT.join(piece.decode("utf-8", "replace") for piece in pieces)

    def to_json(self) -> str:  # noqa: D102
        return make_bytes().to_str(pretty=True)


class BPETokenizer(Tokenizer):
    """A byte-level BPE of the `tokenizers` package."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, *, name: str = "bpe"):
        self.name = name
        self.vocab_size = tokenizer.get_vocab_size()
        self._tokenizer = tokenizer
        # Not part of the saved file. Without it, text that spells `<|endoftext|>` would become the special
        # token.
        tokenizer.encode_special_tokens = True

    def _encode(self, texts: list[str]) -> Iterator[Sequence[int]]:
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return (encoding.ids for encoding in encodings)

    def decode(self, ids: Iterable[int]) -> str:  # noqa: D102
        return self._tokenizer.decode(_checked_ids(ids, self.vocab_size), skip_special_tokens=False)

    def to_json(self) -> str:  # noqa: D102
        return self._tokenizer.to_str(pretty=True)


class GPT2Tokenizer(Tokenizer):
    """GPT-2's byte-level BPE (50,257 ids), by tiktoken."""

    name = "gpt2"
    vocab_size = _GPT2_VOCAB_SIZE

    def __init__(self, encoding: tiktoken.Encoding):
        self._encoding = encoding

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return self._encoding.encode_ordinary_batch(texts)

    def decode(self, ids: Iterable[int]) -> str:  # noqa: D102
        return self._encoding.decode(_checked_ids(ids, self.vocab_size))

    def to_json(self) -> str:  # noqa: D102
        tokens = [self._encoding.decode_single_token_bytes(i) for i in range(self.end_of_text)]
        return from_ranks(tokens).to_str(pretty=True)


def make_tokenizer(kind: str, *, texts: Iterable[str] | None = None, vocab_size: int = 4096) -> Tokenizer:
    """Make a tokenizer.

    Args:
        kind: `"bpe"`, trained on `texts`; `"gpt2"`; or `"bytes"`.
        texts: what to train `"bpe"` on: the training split only, gone through twice. Unused by the others.
        vocab_size: ids of `"bpe"`, `<|endoftext|>` included, at least 257; a short text gives fewer. Unused
            by others.

    Returns:
        A `Tokenizer`.

    Raises:
        ValueError: for an unknown kind, `"bpe"` without text, or a vocabulary below 257.
        ConnectionError: if GPT-2's files are neither cached nor reachable.
    """
    check_choice("tokenizer", kind, KINDS)
    if kind == "bytes":
        return BytesTokenizer()
    return _load_gpt2() if kind == "gpt2" else _train_bpe(texts, vocab_size)


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Load a `tokenizer.json` that `Tokenizer.save` or the `tokenizers` package wrote.

    Args:
        path: the file, or the folder that holds a `tokenizer.json`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a byte-level tokenizer whose last id is `<|endoftext|>`.
    """
    from tokenizers import Tokenizer as HFTokenizer

    path = Path(path)
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no tokenizer file at {path}")
    try:
        tokenizer = HFTokenizer.from_str(path.read_text(encoding="utf-8-sig"))
    except Exception as error:  # `tokenizers` raises bare Exception for whatever it cannot parse
        raise ValueError(f"{path} is not a tokenizer.json: {error}") from error
    size = tokenizer.get_vocab_size()
    if tokenizer.token_to_id(END_OF_TEXT) != size - 1:
        raise ValueError(f"{path}: the last of its {size} ids is not {END_OF_TEXT}")
    if size == BytesTokenizer.vocab_size and tokenizer.get_vocab() == make_bytes().get_vocab():
        return BytesTokenizer()
    is_gpt2 = size == _GPT2_VOCAB_SIZE and tokenizer.token_to_id("\u0120gazed") == 50255
    return BPETokenizer(tokenizer, name="gpt2" if is_gpt2 else "bpe")


def check_vocab_size(vocab_size: int) -> None:
    """Refuse a vocabulary without room for the 256 bytes and `<|endoftext|>`."""
    check_integer("vocab_size", vocab_size, low=257)


def find_break(text: str, start: int) -> int | None:
    """The next place where a text can be split so that its parts' tokens, joined, are those of the whole."""
    cut = _BREAK.search(text, start)
    return None if cut is None else cut.start()


def pieces(text: str, length: int = PIECE_LENGTH) -> Iterator[str]:
    """Split a long text into pieces of about `length` whose tokens, joined, are the tokens of the whole."""
    start = 0
    while cut := find_break(text, start + length):
        yield text[start:cut]
        start = cut
    yield text[start:]


def _train_bpe(texts: Iterable[str] | None, vocab_size: int) -> BPETokenizer:
    from tokenizers import pre_tokenizers, trainers

    check_vocab_size(vocab_size)
    if texts is None:
        raise ValueError("the bpe tokenizer is trained: give it the training split as texts")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    texts = list(texts) if iter(texts) is texts else texts
    # The trainer takes memory for all ids at once, and a merge needs two bytes in a row.
    num_characters = sum(map(len, texts))
    most = len(alphabet) + 4 * num_characters
    trainer = trainers.BpeTrainer(
        vocab_size=min(vocab_size - 1, most), initial_alphabet=alphabet, show_progress=False, min_frequency=2
    )
    tokenizer = make_byte_level({}, [])
    with progress_bar("training the tokenizer", total=num_characters, unit="char") as bar:

        def read() -> Iterator[str]:
            for text in texts:
                yield from map(_encodable, pieces(text))
                bar.update(len(text))

        tokenizer.train_from_iterator(read(), trainer)
    tokenizer.add_special_tokens([END_OF_TEXT])
    return BPETokenizer(tokenizer)


def _load_gpt2() -> GPT2Tokenizer:
    import tiktoken

    urls = [_GPT2_URL + name for name in ("vocab.bpe", "encoder.json")]
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    if folder is None:
        folder = os.path.join(tempfile.gettempdir(), "data-gym-cache")
    # tiktoken downloads without a timeout, so look first.
    cached = all(os.path.exists(os.path.join(folder, hashlib.sha1(u.encode()).hexdigest())) for u in urls)
    if not cached and not is_reachable(_GPT2_URL):
        raise ConnectionError(
            f"the gpt2 tokenizer's files are not in {folder} and {_GPT2_URL} is out of reach: "
            "set TIKTOKEN_CACHE_DIR to a folder that holds them, or use the bpe or bytes tokenizer"
        )
    try:
        return GPT2Tokenizer(tiktoken.get_encoding("gpt2"))
    except (
        OSError,
        ValueError,
    ) as error:  # requests' errors are OSErrors; a damaged download is a ValueError
        raise ConnectionError(f"the gpt2 tokenizer's files could not be loaded: {error}") from error


def _checked_ids(ids: Iterable[int], vocab_size: int) -> list[int]:
    ids = np.asarray(ids).tolist() if isinstance(ids, np.ndarray) else [int(i) for i in ids]
    for position, i in enumerate(ids):
        if not 0 <= i < vocab_size:
            raise ValueError(f"ids must be from 0 to {vocab_size - 1}; got {i} at position {position}")
    return ids


def _encodable(text: str) -> str:
    """Replace lone surrogates, which have no UTF-8 form, by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
