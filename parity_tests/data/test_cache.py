"""Cache files: whole or absent."""

import os

import pytest
from datasets import Dataset

from jaxloss.data.cache import atomic_path, cached_dataset, make_folder


def test_a_file_appears_only_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert os.listdir(path.parent) == ["file.txt"]


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write_half():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


@pytest.mark.parametrize("damage", ["missing", "truncated", "garbled"])
def test_a_damaged_dataset_is_made_again(tmp_path, damage):
    made = []

    def make():
        made.append(1)
        return Dataset.from_dict({"text": ["some text " * 50] * 50})

    first = cached_dataset(tmp_path / "d.parquet", make)["text"][:]
    path = tmp_path / "d.parquet"
    assert cached_dataset(path, make)["text"][:] == first
    assert len(made) == 1
    data = path.read_bytes()
    path.unlink() if damage == "missing" else path.write_bytes(data[:-9])
    if damage == "garbled":
        path.write_bytes(data[:40] + b"\xff" * 40 + data[80:])
    for _ in range(2):
        assert cached_dataset(path, make)["text"][:] == first
    assert len(made) == 2


def test_an_unusable_cache_folder_names_the_argument(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot make the cache folder .* choose another with cache_dir"):
        make_folder(tmp_path / "file" / "cache")
    # Tests may run as root, whom no file mode stops.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="not writable: choose another with cache_dir"):
        make_folder(tmp_path)
