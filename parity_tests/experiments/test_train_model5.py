"""The training script on a tiny model: a whole run."""

import json

import jax
import numpy as np
import pytest

from jaxloss import model5
from jaxloss.runs.cli import run_cli
from parity_tests.experiments.scripts import load

script = load("train_model5")

TINY = {
    "--model.context-length": 16,
    "--model.embed-dim": 16,
    "--model.num-heads": 2,
    "--model.num-blocks": 1,
    "--steps": 6,
    "--batch-size": 4,
    "--train.eval-every": 4,
    "--train.eval-crops": 8,
    "--tokenizer": "bytes",
    "--sample.num-tokens": 6,
    "--sample.num-texts": 2,
}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Token files go to a folder of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "cat.txt"
    path.write_text("The cat sat on the mat and looked at the dog. " * 60)
    return path


def run(corpus, out, **changed):
    flags = TINY | {"--corpus": corpus, "--out": out} | changed
    argv = [str(part) for flag in flags.items() for part in flag]
    return run_cli(script.main, script.Config, presets=script.PRESETS, argv=argv)


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    assert run(corpus, out) == 0
    return out


def test_run_folder_holds_config_metrics_weights_and_results(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if r["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert [r["step"] for r in records if r["kind"] == "test"] == [0, 4, 6]
    results = json.loads((folder / "results.json").read_text(), parse_constant=pytest.fail)
    assert (results["objective"], results["stopped_early"], results["step"]) == ("all", "", 6)
    assert results["test_losses"]["all"]["mean"] < records[0]["losses"]["all"]["mean"]
    _, config = model5.load_weights(folder / "weights")
    assert config.vocab_size == json.loads((folder / "config.json").read_text())["model"]["vocab_size"] == 256
    assert (folder / "samples.txt").read_text().count("# Model 5, text ") == 2


def test_fine_tuning_starts_from_the_trained_weights_and_tokenizer(
    folder, corpus, tmp_path, monkeypatch, capsys
):
    assert run(corpus, tmp_path / "run", **{"--init": folder, "--model.embed-dim": 32}) == 2
    assert capsys.readouterr().err == (
        "error: --model.embed-dim is 32, but the model of --init has 16: leave it out\n"
    )

    def stop_here(_, params, *__, **___):
        jax.tree.map(np.testing.assert_array_equal, params, model5.load_weights(folder / "weights")[0])
        raise ValueError("far enough")

    monkeypatch.setattr(script, "init_state", stop_here)
    assert run(corpus, tmp_path / "run", **{"--init": folder, "--model.dropout": 0.2}) == 2
    assert capsys.readouterr().err == "error: far enough\n"
    assert (tmp_path / "run" / "tokenizer.json").read_text() == (folder / "tokenizer.json").read_text()
    model = json.loads((tmp_path / "run" / "config.json").read_text())["model"]
    assert (model["dropout"], model["logit_scale"], model["embed_dim"]) == (0.2, 1.0, 16)
