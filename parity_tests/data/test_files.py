"""Local files: what is a document, and what is wrong with the ones that cannot be read."""

import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from jaxloss.data import files, load_corpus, prepare_tokens
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
    (tmp_path / "notes.md").write_text("not read")
    return tmp_path


def test_each_kind_of_file_gives_its_documents_without_the_empty_ones(folder):
    assert texts(folder / "b.txt") == ["A book\nof two lines \u2014 \u65e5\u672c.\n"]
    assert texts(folder / "sub" / "a.jsonl") == ["one", "two"]
    assert texts(str(folder / "c.parquet")) == ["p", "q"]


def test_folders_and_globs_are_read_in_order_of_path(folder):
    book = "A book\nof two lines \u2014 \u65e5\u672c.\n"
    assert texts(folder) == [book, "p", "q", "one", "two"]
    assert texts(f"{folder}/*.*") == [book, "p", "q"]
    assert texts(f"{folder}/**/*.jsonl") == ["one", "two"]
    assert texts(folder, num_documents=2) == [book, "p"]
    assert texts(folder, num_documents=99) == texts(folder)


def test_another_column_can_hold_the_text(folder):
    path = folder / "d.jsonl"
    path.write_text('{"body": "b"}\n')
    assert texts(path, text_column="body") == ["b"]
    with pytest.raises(TypeError, match="text_column must be a string; got None"):
        load_corpus(path, text_column=None)


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


def test_globs_and_columns_are_refused_by_what_they_name(folder):
    assert (
        error(f"{folder}/*.md")
        == f"{folder}/*.md must match .txt, .jsonl, .parquet files; got {folder}/notes.md"
    )
    assert error(folder / "c.parquet", text_column="txt") == (
        f"{folder}/c.parquet: no column 'txt', it has id, text (see text_column); did you mean text?"
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
    assert sorted(texts(f"{folder}/**")) == sorted([*expected, "hidden"])  # a glob says what it wants
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
    dataset = Dataset.from_dict({"body": ["a", "", "b"], "n": [1, 2, 3]})
    assert files.documents(dataset, "body", None)["text"][:] == ["a", "b"]
    with pytest.raises(ValueError, match="no column 'text', it has body, n"):
        files.documents(dataset, "text", None)
    with pytest.raises(ValueError, match="the dataset: there is no text"):
        files.documents(Dataset.from_dict({"text": [""]}), "text", None)
    with pytest.raises(ValueError, match=r"^the dataset, row 1: 'n' must be text; got int$"):
        files.documents(dataset, "n", None)
    with pytest.raises(TypeError, match=r"a name, a path or a datasets\.Dataset; got list"):
        files.documents(["a"], "text", None)


def test_real_files_load(shared_data):
    web = texts(shared_data / "fineweb_1000.parquet")
    assert len(web) == 1000
    assert sum(map(len, web)) == 6_933_640
    (book,) = texts(shared_data / "time_machine.txt")
    assert len(book) > 170_000
