"""Tokenizers: text survives, special tokens are never made from text, saved files work elsewhere."""

import numpy as np
import pytest
import tokenizers as hf
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxloss.data import load_tokenizer, make_tokenizer
from jaxloss.data import tokenizers as module
from jaxloss.data.tokenizers import BytesTokenizer, pieces

CORPUS = [
    "The cat sat on the mat and the other cat sat.\n\nNa\u00efve caf\u00e9s \u2014 \u65e5\u672c\u8a9e.\n"
] * 20
EXAMPLES = [
    "",
    " ",
    "plain",
    "  two  spaces\t\n\r\n and lines\n",
    "na\u00efve caf\u00e9 \u65e5\u672c\u8a9e \U0001f600\u200d\U0001f467 \u0627\u0644",
    "a\u0301 \u00e1 \ufeff \x00 \x1c \x85 \xa0",
    "x<|endoftext|>y",
    "don't I'LL 12345 ....!",
]
seeded = settings(derandomize=True, deadline=None, max_examples=60)


@pytest.fixture(scope="module")
def bpe():
    return make_tokenizer("bpe", texts=CORPUS, vocab_size=300)


@pytest.fixture
def gpt2(gpt2_files):
    return make_tokenizer("gpt2")


@pytest.fixture(params=["bytes", "bpe", "gpt2"])
def tokenizer(request, bpe):
    return (
        bpe
        if request.param == "bpe"
        else request.getfixturevalue("gpt2")
        if request.param == "gpt2"
        else BytesTokenizer()
    )


def test_text_survives_encoding_and_decoding(tokenizer):
    for text, ids in zip(EXAMPLES, tokenizer.encode(EXAMPLES), strict=True):
        assert tokenizer.decode(ids) == text
        assert ids.dtype == np.uint16


@seeded
@given(st.text())
def test_any_unicode_survives_bytes_and_bpe(text):
    for tokenizer in (BytesTokenizer(), _BPE):
        (ids,) = tokenizer.encode([text])
        assert tokenizer.decode(ids) == text
        assert tokenizer.end_of_text not in ids


@seeded
@given(st.text(alphabet="ab' \n\t\x1c\x85\u3000.1<|endoftext|>"), st.integers(1, 9))
def test_pieces_of_a_text_encode_like_the_whole(text, length):
    parts = list(pieces(text, length))
    assert "".join(parts) == text
    (whole,) = _BPE.encode([text])
    np.testing.assert_array_equal(np.concatenate(_BPE.encode(parts)), whole)


@seeded
@given(st.text(alphabet="ab' \n\t\x1c\x85\u3000.1"), st.integers(1, 9))
def test_pieces_of_a_text_encode_like_the_whole_in_tiktoken(text, length):
    import tiktoken

    ranks = {bytes([i]): i for i in range(256)} | {
        b" a": 256,
        b"\n\n": 257,
        b"  ": 258,
        b"ab": 259,
        b" \n": 260,
    }
    pattern = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
    encoding = tiktoken.Encoding("test", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    parts = list(pieces(text, length))
    assert [i for part in parts for i in encoding.encode_ordinary(part)] == encoding.encode_ordinary(text)


def test_end_of_text_is_the_last_id_and_never_comes_from_text(tokenizer):
    assert tokenizer.end_of_text == tokenizer.vocab_size - 1
    (ids,) = tokenizer.encode(["before<|endoftext|>after"])
    assert tokenizer.end_of_text not in ids
    assert tokenizer.decode([*ids[:6], tokenizer.end_of_text]).endswith("<|endoftext|>")


def test_saved_files_load_back_here_and_in_the_tokenizers_package(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    foreign = hf.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    # An editor may have put a byte order mark in front.
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8-sig")
    loaded = load_tokenizer(tmp_path)
    foreign.encode_special_tokens = True
    assert (loaded.name, loaded.vocab_size) == (tokenizer.name, tokenizer.vocab_size)
    assert foreign.get_vocab_size() == tokenizer.vocab_size
    texts = [*EXAMPLES, *CORPUS[:1]]
    for text, ids, again in zip(texts, tokenizer.encode(texts), loaded.encode(texts), strict=True):
        np.testing.assert_array_equal(again, ids)
        assert foreign.encode(text).ids == ids.tolist()
        assert loaded.decode(ids) == text


def test_the_saved_gpt2_is_gpt2_on_real_text(gpt2, shared_data, tmp_path):
    gpt2.save(tmp_path / "tokenizer.json")
    text = (shared_data / "time_machine.txt").read_text(encoding="utf-8")
    np.testing.assert_array_equal(load_tokenizer(tmp_path).encode([text])[0], gpt2.encode([text])[0])
    assert gpt2.encode(["Hello world"])[0].tolist() == [15496, 995]
    assert gpt2.vocab_size == 50257


def test_bpe_training_is_deterministic_and_bounded(bpe):
    assert make_tokenizer("bpe", texts=iter(CORPUS), vocab_size=300).to_json() == bpe.to_json()
    assert bpe.vocab_size <= 300
    assert len(bpe.encode(CORPUS[:1])[0]) < len(BytesTokenizer().encode(CORPUS[:1])[0]) / 2
    assert make_tokenizer("bpe", texts=["a b"], vocab_size=10**30).vocab_size == 257


def test_lone_surrogates_become_replacement_characters(tokenizer):
    (ids,) = tokenizer.encode(["a\ud800b"])
    assert tokenizer.decode(ids) == "a\ufffdb"


def test_half_a_character_decodes_to_a_replacement_character(tokenizer):
    (ids,) = BytesTokenizer().encode(["\u65e5"])
    assert BytesTokenizer().decode(ids[:2]) == "\ufffd"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "gpt3"}, "tokenizer must be one of 'bpe', 'gpt2', 'bytes'; got 'gpt3'"),
        ({"kind": "bpe"}, "give it the training split as texts"),
        ({"kind": "bpe", "texts": ["a"], "vocab_size": 256}, "vocab_size must be at least 257; got 256"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_tokenizer(**arguments)


def test_bad_ids_and_bare_strings_are_refused(tokenizer):
    with pytest.raises(
        ValueError, match=f"ids must be from 0 to {tokenizer.vocab_size - 1}; got -1 at position 1"
    ):
        tokenizer.decode([0, -1])
    with pytest.raises(ValueError, match="at position 0"):
        tokenizer.decode(np.array([tokenizer.vocab_size]))
    with pytest.raises(TypeError, match=r"pass \[text\]"):
        tokenizer.encode("text")


def test_bad_tokenizer_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no tokenizer file at .*tokenizer\.json"):
        load_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer\.json"):
        load_tokenizer(path)
    path.write_text(hf.Tokenizer(hf.models.BPE(vocab={"a": 0}, merges=[])).to_str())
    with pytest.raises(ValueError, match=r"the last of its 1 ids is not <\|endoftext\|>"):
        load_tokenizer(path)


def test_gpt2_without_files_or_network_says_so_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(module, "is_reachable", lambda url: False)
    with pytest.raises(
        ConnectionError, match=r"set TIKTOKEN_CACHE_DIR .*, or use the bpe or bytes"
    ) as caught:
        make_tokenizer("gpt2")
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


_BPE = make_tokenizer("bpe", texts=CORPUS, vocab_size=300)
