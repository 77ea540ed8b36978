"""Local files: what is a document, and what is wrong with the ones that cannot be read."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from jaxloss.data import files, load_corpus


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


def test_files_of_another_kind_are_refused(folder):
    assert error(folder / "notes.md") == f"{folder}/notes.md must be a .txt, .jsonl, .parquet file; got '.md'"
    assert (
        error(f"{folder}/*.md")
        == f"{folder}/*.md must match .txt, .jsonl, .parquet files; got {folder}/notes.md"
    )
    (folder / "empty").mkdir()
    assert error(folder / "empty") == f"no .txt, .jsonl, .parquet file in the folder {folder}/empty"


def test_a_missing_column_lists_the_columns_and_suggests_the_nearest(folder):
    assert error(folder / "c.parquet", text_column="txt") == (
        f"{folder}/c.parquet: no column 'txt', it has id, text (see text_column); did you mean text?"
    )
    assert error(folder / "sub" / "a.jsonl", text_column="titel") == (
        f"{folder}/sub/a.jsonl, line 1: no column 'titel', it has text (see text_column)"
    )


def test_a_column_of_something_else_is_refused(folder):
    assert (
        error(folder / "c.parquet", text_column="id")
        == f"{folder}/c.parquet: column 'id' must be text; got int64"
    )
    (folder / "n.jsonl").write_text('{"text": "a"}\n{"text": 3}\n')
    assert error(folder / "n.jsonl") == f"{folder}/n.jsonl, line 2: 'text' must be text; got int"


def test_damaged_files_are_named_with_the_place(folder):
    (folder / "l.txt").write_bytes("caf\u00e9".encode("latin-1"))
    assert error(folder / "l.txt") == f"{folder}/l.txt is not UTF-8: byte 3 is 0xe9"
    (folder / "l.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xe9"}\n')
    assert error(folder / "l.jsonl") == f"{folder}/l.jsonl, line 2, is not UTF-8: byte 10 is 0xe9"
    (folder / "j.jsonl").write_text('{"text": "a"}\n{"text": \n')
    assert error(folder / "j.jsonl") == f"{folder}/j.jsonl, line 2: not JSON (Expecting value)"
    (folder / "s.jsonl").write_text('["a"]\n')
    assert error(folder / "s.jsonl") == f"{folder}/s.jsonl, line 1: must be an object; got list"


@pytest.mark.parametrize("length", [0, 3, 100, -1])
def test_a_truncated_parquet_file_is_refused(folder, length):
    path = folder / "c.parquet"
    path.write_bytes(path.read_bytes()[:length])
    assert error(path).startswith(f"{path} is not a whole parquet file")


def test_files_without_text_are_refused(folder):
    (folder / "e.txt").write_text(" \n\n")
    assert error(folder / "e.txt") == f"{folder}/e.txt: there is no text"
    (folder / "sub" / "a.jsonl").write_text("")
    assert error(folder / "sub") == f"{folder}/sub/a.jsonl: there is no text"


def test_an_unreadable_file_is_named(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    # Tests may run as root, whom no file mode stops.
    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert error(folder / "b.txt") == f"cannot read {folder}/b.txt: Permission denied"


def test_a_users_dataset_is_checked_like_a_file():
    dataset = Dataset.from_dict({"body": ["a", "", "b"], "n": [1, 2, 3]})
    assert files.documents(dataset, "body", None)["text"][:] == ["a", "b"]
    with pytest.raises(ValueError, match="no column 'text', it has body, n"):
        files.documents(dataset, "text", None)
    with pytest.raises(ValueError, match="there is no text"):
        files.documents(Dataset.from_dict({"text": [""]}), "text", None)
    with pytest.raises(TypeError, match=r"a name, a path or a datasets\.Dataset; got list"):
        files.documents(["a"], "text", None)


def test_real_files_load(shared_data):
    web = texts(shared_data / "fineweb_1000.parquet")
    assert len(web) == 1000
    assert sum(map(len, web)) == 6_933_640
    (book,) = texts(shared_data / "time_machine.txt")
    assert len(book) > 170_000
