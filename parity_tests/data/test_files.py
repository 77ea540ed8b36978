"""Local files: what is a document, and what is wrong with the ones that cannot be read."""

import gzip
import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from jaxloss.data import formats, load_corpus, make_tokenizer, prepare_tokens
from jaxloss.data.corpora import Corpus
from parity_tests.data import bad_files


def texts(*arguments, **options) -> list[str]:
    corpus = load_corpus(*arguments, **options)
    assert isinstance(corpus, Dataset)
    assert corpus.column_names == ["text"]
    return corpus["text"][:]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "b.txt").write_bytes("\ufeffA book\r\nof two lines \u2014 \u65e5\u672c.\n".encode())
    (tmp_path / "sub").mkdir()
    rows = [{"text": "one"}, {"text": "", "id": 2}, {"text": None}, {"text": "two", "title": "T"}]
    (tmp_path / "sub" / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    pq.write_table(pa.table({"id": [1, 2, 3], "text": ["p", None, "q"]}), tmp_path / "c.parquet")
    (tmp_path / "notes.md").write_text("not read in a folder")
    return tmp_path


def test_each_kind_of_file_gives_its_documents_without_the_empty_ones(folder):
    assert texts(folder / "b.txt") == ["A book\nof two lines \u2014 \u65e5\u672c.\n"]
    assert texts(folder / "sub" / "a.jsonl") == ["one", "two"]
    assert texts(str(folder / "c.parquet")) == ["p", "q"]


def test_folders_and_globs_are_read_in_order_of_path(folder):
    book = "A book\nof two lines \u2014 \u65e5\u672c.\n"
    assert texts(folder) == [book, "p", "q", "one", "two"]
    assert texts(f"{folder}/*.*") == [book, "p", "q", "not read in a folder"]
    assert texts(f"{folder}/**/*.jsonl") == ["one", "two"]
    assert texts(folder, num_documents=2) == [book, "p"]
    assert texts(folder, num_documents=99) == texts(folder)


def test_another_column_can_hold_the_text(folder):
    path = folder / "d.jsonl"
    path.write_text('{"body": "b"}\n')
    assert texts(path, text_column="body") == ["b"]
    with pytest.raises(TypeError, match="text_column must be a string; got None"):
        load_corpus(path, text_column=None)


TEXT = "Caf\u00e9\r\n\r\n<|endoftext|>\nsecond <|end|> <|endoftext|><|endoftext|> \n<|endoftext|>third\r\n"
DOCUMENTS = ["Caf\u00e9\n\n", "\nsecond <|end|> ", "third\n"]
AS_FILES = {
    "t.txt": TEXT,
    "t.md": TEXT,
    "t": TEXT,
    "t.jsonl": json.dumps({"text": TEXT}) + "\n\n",
    "lines.json": json.dumps({"text": TEXT}),
    "list.json": json.dumps([{"n": [-1.5e-3, 12, True, {}], "text": TEXT}, {"text": None}, ""], indent=1),
    "strings.json": json.dumps([TEXT]),
    "t.csv": f'id,text\r\n1,"{TEXT}"\r\n2,\r\n',
    "t.tsv": f'text\tid\n"{TEXT}"\t1\n',
}


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_the_mark_between_documents_separates_them_in_a_file_of_any_name(tmp_path, chunk, monkeypatch):
    monkeypatch.setattr(formats, "_CHUNK", chunk)
    for name, content in AS_FILES.items():
        (tmp_path / name).write_bytes(content.encode())
        with gzip.open(tmp_path / f"{name}.gz", "wb") as file:
            file.write(content.encode())
        for path in (tmp_path / name, tmp_path / f"{name}.gz"):
            assert texts(path) == DOCUMENTS, path


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1", "cp1252", "UTF8"])
def test_a_file_is_read_in_the_encoding_that_is_named(tmp_path, encoding, monkeypatch):
    monkeypatch.setattr(formats, "_CHUNK", 7)
    for name, content in AS_FILES.items():
        (tmp_path / name).write_bytes(content.encode(encoding))
        assert texts(tmp_path / name, encoding=encoding) == DOCUMENTS


@pytest.mark.parametrize("encoding", ["utf9", "base64", "", None])
def test_an_encoding_that_is_none_is_refused(tmp_path, encoding):
    (tmp_path / "t.txt").write_text("text")
    message = "encoding must be one that Python knows, such as latin-1; got "
    assert error(tmp_path / "t.txt", encoding=encoding) == f"{message}{encoding!r}"


def test_a_long_document_comes_in_pieces_that_together_are_the_text(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "PIECE_LENGTH", 20)
    monkeypatch.setattr(formats, "_CHUNK", 9)
    text = " " * 50 + "\n".join(f"line {i} of a long text" for i in range(40))
    (tmp_path / "t.txt").write_text(f"{text}<|endoftext|>short")
    pieces = list(Corpus(tmp_path / "t.txt").pieces())
    assert max(len(piece) for _, piece in pieces[1:]) < 40
    assert [opens for opens, _ in pieces] == [True, *[False] * (len(pieces) - 2), True]
    assert texts(tmp_path / "t.txt") == [text, "short"]
    whole, *parts = make_tokenizer("bpe", texts=[text], vocab_size=300).encode(
        [text, *(piece for _, piece in pieces[:-1])]
    )
    assert np.concatenate(parts).tolist() == whole.tolist()


def error(pattern, **options) -> str:
    with pytest.raises((ValueError, OSError)) as caught:
        load_corpus(pattern, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_file_suggests_the_nearest_name(folder):
    assert (
        error(folder / "bb.txt")
        == f"no corpus, file or folder named {folder}/bb.txt: did you mean {folder}/b.txt?"
    )
    assert error(folder / "nowhere" / "x.txt").endswith("x.txt")
    assert error(f"{folder}/*.csv") == f"no corpus, file or folder named {folder}/*.csv"


def test_a_typo_in_a_corpus_name_suggests_the_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert error("python_docs") == "no corpus, file or folder named python_docs: did you mean python-docs?"
    assert error("FineWeb") == "no corpus, file or folder named FineWeb: did you mean fineweb?"
    assert error("wikipedia") == "no corpus, file or folder named wikipedia"
    assert error("") == "the corpus must be python-docs or fineweb, or a file, folder or glob; got ''"


def test_columns_are_refused_by_what_they_name(folder):
    assert error(folder / "c.parquet", text_column="txt") == (
        f"{folder}/c.parquet: no column 'txt', it has id, text (name it with --data.text-column); "
        "did you mean text?"
    )
    (folder / "sub" / "a.jsonl").write_text("")
    (folder / "sub" / "b.jsonl").write_text("")
    assert error(folder / "sub") == f"{folder}/sub/a.jsonl and 1 more files: there is no text"


def test_every_bad_file_is_one_line_that_names_it_and_the_place(tmp_path):
    for path, message in bad_files.write(tmp_path).items():
        assert error(path).startswith(message)


@contextmanager
def without_rights(*paths: Path):
    """Nobody may read these files and folders meanwhile: not the superuser either, who is not himself."""
    modes, user = {path: path.stat().st_mode for path in paths}, os.geteuid()
    for path in paths:
        path.chmod(0)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        for path, mode in modes.items():
            path.chmod(mode)


def test_what_may_not_be_read_is_named_and_never_left_out():
    # Not in pytest's folder, which only its owner can enter.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "sub").mkdir()
        paths = [folder / name for name in ("a.txt", "a.jsonl", "a.parquet", "sub")]
        for path in paths[:-1]:
            path.write_text("text")
        with without_rights(*paths):
            for path in paths:
                assert error(path) == f"cannot read {path}: Permission denied"
                with pytest.raises(PermissionError, match=f"cannot read {path}: Permission denied"):
                    prepare_tokens(path)
            assert error(folder) == f"cannot read {folder}/sub: Permission denied"


def test_hidden_files_and_folders_are_not_part_of_a_corpus(folder):
    expected = texts(folder)
    names = ".ipynb_checkpoints/b.txt", "sub/.git/x.jsonl", "._b.txt", "__MACOSX/b.txt", "sub/.c.parquet"
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("hidden")
    assert texts(folder) == expected
    assert sorted(texts(f"{folder}/**")) == sorted(
        [*expected, "hidden", "not read in a folder"]
    )  # a glob says what it wants
    assert texts(folder / "._b.txt") == texts(folder / ".ipynb_checkpoints") == ["hidden"]


@pytest.mark.parametrize("suffix", ["txt", "jsonl", "parquet", "dataset"])
def test_lines_end_in_a_newline_and_a_byte_order_mark_is_dropped_in_every_format(tmp_path, suffix):
    text, path = "a\r\nb\nc\rd", tmp_path / f"t.{suffix}"
    if suffix == "txt":
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    elif suffix == "jsonl":
        path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"text": text}).encode() + b"\r\n")
    elif suffix == "parquet":
        pq.write_table(pa.table({"text": [text]}), path)
    else:
        path = Dataset.from_dict({"text": [text]})
    assert texts(path) == ["a\nb\nc\rd"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), "dictionary"])
def test_every_arrow_type_of_text_is_read(tmp_path, kind):
    column = pa.array(["a", None, "", "b", "a"], pa.string() if kind == "dictionary" else kind)
    column = column.dictionary_encode() if kind == "dictionary" else column
    ids = pa.array(range(5))
    # Columns that nobody reads may stand there twice.
    table = pa.Table.from_arrays([ids, column, ids], ["id", "text", "id"])
    pq.write_table(table, tmp_path / "t.parquet")
    assert texts(tmp_path / "t.parquet") == ["a", "b", "a"]


def test_a_users_dataset_is_checked_like_a_file():
    def rows(dataset, column):
        return list(Corpus(dataset, text_column=column).pieces())

    dataset = Dataset.from_dict({"body": ["a", "", "b"], "n": [1, 2, 3]})
    assert rows(dataset, "body") == [(True, "a"), (True, "b")]
    with pytest.raises(ValueError, match="no column 'text', it has body, n"):
        rows(dataset, "text")
    with pytest.raises(ValueError, match="the dataset: there is no text"):
        rows(Dataset.from_dict({"text": [""]}), "text")
    with pytest.raises(ValueError, match=r"^the dataset, row 1: 'n' must be text; got int$"):
        rows(dataset, "n")
    with pytest.raises(TypeError, match=r"a name, a path or a datasets\.Dataset; got list"):
        rows(["a"], "text")


def test_real_files_load(shared_data):
    web = texts(shared_data / "fineweb_1000.parquet")
    assert len(web) == 1000
    assert sum(map(len, web)) == 6_933_640
    (book,) = texts(shared_data / "time_machine.txt")
    assert len(book) > 170_000
