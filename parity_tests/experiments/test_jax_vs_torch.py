"""The two-framework experiment on a tiny model: the curves agree, and everything is written."""

import json

import pytest

from jaxloss.runs.cli import run_cli
from parity_tests.scripts import load

script = load("jax_vs_torch")

TINY = {
    "--model.context-length": 8,
    "--model.embed-dim": 8,
    "--model.num-heads": 2,
    "--model.num-blocks": 1,
    "--train.steps": 12,
    "--train.batch-size": 4,
    "--tokenizer": "bytes",
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(tmp_path, **changed):
    corpus = tmp_path / "text.txt"
    corpus.write_text("The cat sat on the mat and looked at the dog. " * 60)
    settings = TINY | {"--corpus": str(corpus), "--out": str(tmp_path / "out")} | changed
    argv = [str(part) for pair in settings.items() for part in pair]
    return run_cli(script.main, script.Config, presets={"small": script.DEFAULT}, argv=argv)


def test_curves_of_both_frameworks_agree_and_are_written(tmp_path, capsys, monkeypatch):
    # One objective, to compile half; parity_tests/runs_parity trains on all tokens.
    monkeypatch.delitem(script.OBJECTIVES, "all tokens")
    assert run(tmp_path) == 0
    assert "JAX, weights moved by one eps" in capsys.readouterr().out
    curves = json.loads((tmp_path / "out" / "losses.json").read_text())
    for runs in curves.values():
        assert runs["JAX"] == pytest.approx(runs["PyTorch"], rel=2e-6)
        assert runs["JAX"] == pytest.approx(runs["moved"], rel=2e-6)
        assert runs["JAX float64"] == pytest.approx(runs["PyTorch float64"], rel=1e-13)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "config.json",
        "jax_vs_torch.png",
        "losses.json",
        "table.md",
    }


def test_folder_that_holds_a_run_is_refused(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("{}")
    assert run(tmp_path) == 2
    assert "already holds a run" in capsys.readouterr().err


def test_settings_that_this_run_does_not_have_are_refused(tmp_path, capsys):
    assert run(tmp_path, **{"--train.compute-dtype": "bfloat16"}) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: Unrecognized options")
    assert "--train.compute-dtype" in error
