"""The run folder: made late, never over another run, metrics on disk line by line."""

import json
import math
import os

import numpy as np
import pytest

from jaxloss.runs.folder import METRICS, RunFolder


def test_naming_a_folder_writes_nothing(tmp_path):
    RunFolder(tmp_path / "a" / "b", "experiment")
    assert list(tmp_path.iterdir()) == []


def test_default_folder_names_experiment_and_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Runs that start together name their folders before either makes one.
    folders = [RunFolder(None, "experiment") for _ in range(3)]
    paths = {folder.create().path for folder in folders}
    assert len(paths) == len(list((tmp_path / "runs").iterdir())) == 3
    for path in paths:
        assert path.parent.name == "runs"
        assert path.name.startswith("experiment-2")


def test_empty_folder_is_used_unless_another_run_has_filled_it_meanwhile(tmp_path):
    first, second = RunFolder(tmp_path, "experiment"), RunFolder(tmp_path, "experiment")
    assert first.create().path == tmp_path
    first.write_json("config.json", {})
    with pytest.raises(ValueError, match="already holds a run"):
        second.create()


@pytest.mark.parametrize(("name", "held"), [("config.json", "a run"), ("thesis.tex", "files")])
def test_folder_that_holds_something_is_refused(tmp_path, name, held):
    (tmp_path / name).write_text("precious")
    with pytest.raises(ValueError, match=f"already holds {held}, which would be overwritten"):
        RunFolder(tmp_path, "experiment")
    assert (tmp_path / name).read_text() == "precious"


def test_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ValueError, match="is a file, not a folder"):
        RunFolder(tmp_path / "file", "experiment")
    with pytest.raises(ValueError, match="cannot write to"):
        RunFolder(tmp_path / "file" / "below", "experiment")


def test_folder_that_cannot_be_written_to_is_refused(tmp_path, monkeypatch):
    # The superuser may write anywhere, so the answer of the system is put in.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ValueError, match="is not writable"):
        RunFolder(tmp_path / "run", "experiment")


def test_metrics_are_on_disk_at_once_one_object_a_line(tmp_path):
    folder = RunFolder(tmp_path, "experiment").create()
    assert folder.read(METRICS) == []
    for step in range(3):
        folder.append(METRICS, {"step": step, "loss": 0.5})
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert json.loads(lines[-1]) == {"step": step, "loss": 0.5}
        assert len(lines) == step + 1
    assert [record["step"] for record in folder.read(METRICS)] == [0, 1, 2]


def test_resumed_run_forgets_later_records_and_what_was_not_written_to_its_end(tmp_path):
    folder = RunFolder(tmp_path / "run", "experiment").create()
    folder.write_json("config.json", {})
    for step in range(4):
        folder.append(METRICS, {"step": step})
    whole = folder.file(METRICS).read_text()
    folder.file(METRICS).write_text(whole + '{"step": 4, "lo')
    assert [record["step"] for record in folder.read(METRICS)] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"--resume: the run in .* still goes on"):
        RunFolder(None, "experiment", resume=folder.path)
    del folder
    with pytest.raises(ValueError, match="--out: a run that is resumed stays in its own folder"):
        RunFolder("elsewhere", "experiment", resume=tmp_path / "run")
    resumed = RunFolder(None, "experiment", resume=tmp_path / "run").create()
    resumed.cut(METRICS, 3)
    assert resumed.file(METRICS).read_text() == whole
    resumed.cut(METRICS, 1)
    assert resumed.read(METRICS) == [{"step": 0}, {"step": 1}]


@pytest.mark.parametrize(
    ("name", "problem"), [("none", "does not exist"), ("", "is not the folder of a run")]
)
def test_only_the_folder_of_a_run_is_resumed(tmp_path, name, problem):
    with pytest.raises(ValueError, match=f"--resume: .* {problem}"):
        RunFolder(None, "experiment", resume=tmp_path / name)


def test_numbers_that_json_lacks_are_null(tmp_path):
    folder = RunFolder(tmp_path, "experiment").create()
    value = {"a": [math.nan, np.float32(1)], "b": {"mean": math.inf, "step": np.int32(2)}}
    expected = {"a": [None, 1.0], "b": {"mean": None, "step": 2}}
    assert json.loads(folder.write_json("a.json", value).read_text(), parse_constant=pytest.fail) == expected
    folder.append(METRICS, value)
    text = folder.file(METRICS).read_text()
    assert json.loads(text, parse_constant=pytest.fail) == expected
    assert math.isnan(folder.read(METRICS)[0]["b"]["mean"])


def test_text_ends_in_one_newline_and_json_keeps_characters(tmp_path):
    folder = RunFolder(tmp_path, "experiment").create()
    assert folder.write_text("a.txt", "x").read_text() == "x\n"
    assert folder.write_text("b.txt", "x\n").read_text() == "x\n"
    path = folder.write_json("c.json", {"word": "été", "file": "\udcff.txt"})
    assert "é" in path.read_text(encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8"))["file"] == "\udcff.txt"
