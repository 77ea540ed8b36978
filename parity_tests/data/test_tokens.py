"""Token files: split before the tokenizer, written once, mapped after, safe between processes."""

import json
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxloss.data import (
    describe,
    eval_crops,
    load_tokenizer,
    make_tokenizer,
    prepare_tokens,
    sample_batch,
    shards,
    tokens,
)
from jaxloss.data.split import split_documents

DOCUMENTS = [f"Document {i} tells of the number {i * i}.\n" for i in range(40)]


@pytest.fixture
def dataset():
    return Dataset.from_dict({"text": DOCUMENTS})


def test_both_parts_decode_to_the_documents_with_end_of_text_between(dataset, tmp_path):
    for kind in ("bytes", "bpe"):
        data = prepare_tokens(dataset, tokenizer=kind, vocab_size=300, cache_dir=tmp_path)
        train, test = split_documents(DOCUMENTS)
        assert data.tokenizer.decode(data.train) == "<|endoftext|>".join(train)
        assert data.tokenizer.decode(data.test) == "<|endoftext|>".join(test)
        assert [*train, *test] == DOCUMENTS
        assert np.count_nonzero(data.train == data.tokenizer.end_of_text) == len(train) - 1


def test_the_counts_are_those_of_the_stream(dataset, tmp_path):
    data = prepare_tokens(dataset, tokenizer="bytes", cache_dir=tmp_path)
    stream = np.concatenate([data.train, data.test])
    assert data.num_documents == 40
    assert data.num_characters == sum(map(len, DOCUMENTS)) == len(stream) - 38
    assert data.num_distinct == len(np.unique(stream))
    assert describe(data) == (
        f"dataset: 40 documents, {data.num_characters:,} characters, {len(stream):,} bytes tokens "
        f"({data.num_distinct} of 256 ids used), {len(data.train):,} train, {len(data.test)} test"
    )


def test_bpe_never_sees_the_test_part(tmp_path):
    train = ["the common words of the training text "] * 90
    first = Dataset.from_dict({"text": [*train, *["zyx wvu " * 5] * 10]})
    second = Dataset.from_dict({"text": [*train, *["qponmlk " * 5] * 10]})
    trained = [prepare_tokens(d, vocab_size=400, cache_dir=tmp_path).tokenizer for d in (first, second)]
    assert trained[0].to_json() == trained[1].to_json()


def test_the_second_call_maps_the_file_and_reads_no_text(dataset, tmp_path, monkeypatch):
    path = tmp_path / "corpus.txt"
    path.write_text("".join(DOCUMENTS))
    first = prepare_tokens(path, vocab_size=300, cache_dir=tmp_path)
    monkeypatch.setattr(tokens.Corpus, "pieces", lambda self: pytest.fail("loaded again"))
    second = prepare_tokens(path, vocab_size=300, cache_dir=tmp_path)
    assert isinstance(second.train, np.memmap)
    assert not second.train.flags.writeable
    np.testing.assert_array_equal(second.train, first.train)
    assert second.tokenizer.to_json() == first.tokenizer.to_json()
    assert load_tokenizer(second.folder).to_json() == first.tokenizer.to_json()


def test_another_tokenizer_or_text_gives_another_file(dataset, tmp_path):
    options = [
        {},
        {"vocab_size": 300},
        {"tokenizer": "bytes"},
        {"num_documents": 20},
    ]
    folders = {prepare_tokens(dataset, cache_dir=tmp_path, **option).folder for option in options}
    assert len(folders) == len(options)
    assert prepare_tokens(dataset, tokenizer="bytes", vocab_size=9, cache_dir=tmp_path).folder in folders


@pytest.mark.parametrize("name", ["train-00000.npy", "shards.json", "tokens.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "other"])
def test_a_damaged_cache_is_rebuilt(dataset, tmp_path, name, damage):
    first = prepare_tokens(dataset, tokenizer="bytes", cache_dir=tmp_path)
    train = np.array(first.train)
    path = first.folder / name
    path.write_bytes({"truncated": path.read_bytes()[:-5], "other": b"[]"}.get(damage, b""))
    if damage == "missing":
        path.unlink()
    second = prepare_tokens(dataset, tokenizer="bytes", cache_dir=tmp_path)
    np.testing.assert_array_equal(second.train, train)


def test_ids_take_two_bytes_and_four_only_past_65536(dataset, tmp_path):
    tokenizer = make_tokenizer("bytes")
    assert prepare_tokens(dataset, tokenizer="bytes", cache_dir=tmp_path).train.dtype == np.uint16
    for vocab_size, dtype in ((2**16, np.uint16), (2**16 + 1, np.uint32)):
        tokenizer.vocab_size = vocab_size
        assert tokenizer.encode(["text"])[0].dtype == dtype


def test_two_processes_can_prepare_the_same_tokens(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\n\n".join(DOCUMENTS * 200))
    program = (
        "import sys; from jaxloss.data import prepare_tokens\n"
        "data = prepare_tokens(sys.argv[1], vocab_size=400, cache_dir=sys.argv[2])\n"
        "print(data.folder.name, len(data.train), int(data.train.sum(dtype=int)))"
    )
    command = [sys.executable, "-c", program, str(path), str(tmp_path)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    # No progress bar where standard error is not a terminal.
    waiting = f"waiting for another process, which tokenizes {path}\n"
    assert sorted(error for _, error in outputs) in (["", ""], ["", waiting])
    assert len([file for file in (tmp_path / "tokens").iterdir() if file.suffix != ".lock"]) == 1


@pytest.fixture
def small_shards(monkeypatch):
    """Several batches a shard and shards a part."""
    monkeypatch.setattr(shards, "SHARD_TOKENS", 90)
    monkeypatch.setattr(shards, "PIECE_LENGTH", 60)


def test_shards_are_read_as_one_stream(dataset, tmp_path, monkeypatch, small_shards):
    many = prepare_tokens(dataset, tokenizer="bytes", cache_dir=tmp_path / "many")
    monkeypatch.undo()
    one = prepare_tokens(dataset, tokenizer="bytes", cache_dir=tmp_path / "one")
    assert len(many.train.shards) > 5
    assert (len(many.train), many.train.shape) == (len(one.train), one.train.shape)
    np.testing.assert_array_equal(many.train, one.train)
    np.testing.assert_array_equal(many.train[80:200], one.train[80:200])
    assert (many.num_distinct, many.digest()) == (one.num_distinct, one.digest())
    for sample in (partial(sample_batch, batch_size=50, seed=0, step=3), partial(eval_crops, num_crops=50)):
        batches = zip(
            sample(many.train, context_length=70), sample(one.train, context_length=70), strict=True
        )
        for actual, expected in batches:
            np.testing.assert_array_equal(actual, expected)
    with pytest.raises(IndexError, match=f"positions must be from 0 to {len(many.train) - 1}; got -1"):
        many.train[-1]


def test_a_killed_call_is_gone_on_with_from_its_last_shard(dataset, tmp_path, monkeypatch, small_shards):
    def files(data):
        return {path.name: path.read_bytes() for path in data.folder.iterdir()}

    whole = prepare_tokens(dataset, vocab_size=300, cache_dir=tmp_path / "whole")
    write_index, encode, encoded = shards.write_index, type(whole.tokenizer).encode, []

    def dies(folder, name, listed):
        # The first shard after each kill is written, the second is not listed any more.
        if killed:
            raise KeyboardInterrupt
        write_index(folder, name, listed)
        killed.append(name)

    def counted(self, texts):
        encoded.append(sum(map(len, texts)))
        return encode(self, texts)

    monkeypatch.setattr(type(whole.tokenizer), "encode", counted)
    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_index", dies)
        # The tokenizer of the first call is the one of all.
        for _ in range(4):
            killed: list[str] = []
            with pytest.raises(KeyboardInterrupt):
                prepare_tokens(dataset, vocab_size=300, cache_dir=tmp_path / "killed")
    encoded.clear()
    (unfinished,) = (tmp_path / "killed" / "tokens").glob(".*.part")
    (unfinished / ".train-00001.npy.half-written").write_bytes(b"half")
    resumed = prepare_tokens(dataset, vocab_size=300, cache_dir=tmp_path / "killed")
    assert files(resumed) == files(whole)
    assert sum(encoded) < 0.8 * whole.num_characters


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(st.text(alphabet="ab \n", min_size=1, max_size=60), min_size=1, max_size=30))
def test_the_split_loses_nothing_and_lies_near_nine_tenths(texts):
    train, test = split_documents(texts)
    total = sum(map(len, texts))
    assert "".join([*train, *test]) == "".join(texts)
    assert abs(sum(map(len, test)) - 0.1 * total) <= 0.05 * total + 1
    assert len(train) + len(test) in (len(texts), len(texts) + 1)


def test_the_split_prefers_documents_then_paragraphs_then_words():
    assert split_documents(["a" * 88, "b" * 12]) == (["a" * 88], ["b" * 12])
    words = "word " * 20
    paragraphs = f"{words * 9}\n\n{words}"
    assert split_documents([paragraphs]) == ([f"{words * 9}\n\n"], [words])
    assert split_documents(["ab " * 100]) == (["ab " * 90], ["ab " * 10])
    assert split_documents(["x" * 100]) == (["x" * 90], ["x" * 10])


def test_text_shorter_than_a_crop_is_refused_with_both_numbers(tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("hello, world")
    with pytest.raises(ValueError, match=r"short\.txt needs at least 257 tokens, has 12: give a longer text"):
        prepare_tokens(path, tokenizer="bytes", context_length=256, cache_dir=tmp_path)
    path.write_text("x" * 2000)
    with pytest.raises(ValueError, match=r"the test part of .*short\.txt needs at least 257 tokens, has 200"):
        prepare_tokens(path, tokenizer="bytes", context_length=256, cache_dir=tmp_path)
    assert len(prepare_tokens(path, tokenizer="bytes", context_length=199, cache_dir=tmp_path).test) == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenizer": "word"}, "tokenizer must be one of 'bpe', 'gpt2', 'bytes'; got 'word'"),
        ({"vocab_size": 100}, "vocab_size must be at least 257; got 100"),
        ({"context_length": 0}, "context_length must be at least 1; got 0"),
        ({"num_documents": -3}, "num_documents must be at least 1; got -3"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_written(dataset, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        prepare_tokens(dataset, cache_dir=tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_the_embedded_corpus_with_bpe(session_cache):
    data = prepare_tokens("python-docs", vocab_size=2048, cache_dir=session_cache)
    counts = json.loads((data.folder / "tokens.json").read_text())
    assert counts["num_documents"] == data.num_documents
    assert 0.85 < len(data.train) / (len(data.train) + len(data.test)) < 0.95
    assert data.tokenizer.vocab_size == 2048
    inputs, _ = sample_batch(data.train, batch_size=2, context_length=64, seed=0, step=0)
    assert " the " in data.tokenizer.decode(inputs.ravel())


def test_fineweb_with_gpt2_tokens(shared_data, gpt2_files, tmp_path):
    data = prepare_tokens(shared_data / "fineweb_1000.parquet", tokenizer="gpt2", cache_dir=tmp_path)
    assert (data.num_documents, data.num_characters, data.num_distinct) == (1000, 6_933_640, 40_283)
    assert len(data.train) + len(data.test) == 1_575_137
    assert abs(len(data.test) / 1_575_137 - 0.1) < 0.005
    assert data.train.dtype == np.uint16


def test_a_book_is_one_document(shared_data, tmp_path):
    data = prepare_tokens(shared_data / "time_machine.txt", cache_dir=tmp_path)
    assert data.num_documents == 1
    assert data.tokenizer.end_of_text not in data.train
    assert "Time Traveller" in data.tokenizer.decode(data.test)
