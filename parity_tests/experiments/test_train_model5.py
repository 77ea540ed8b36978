"""The training script on a tiny model: a whole run, and one that ends early, however, and goes on."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxloss import model5
from jaxloss.data import sample_batch
from jaxloss.runs import stopping
from jaxloss.runs.cli import run_cli
from parity_tests import quick_compilation
from parity_tests.runs.events import read_scalars
from parity_tests.scripts import load

script = load("train_model5")
ROOT = Path(__file__).parents[2]

TINY = {
    "--model.context-length": 16,
    "--model.embed-dim": 16,
    "--model.num-heads": 2,
    "--model.num-blocks": 1,
    "--steps": 6,
    "--train.schedule": "cosine",
    "--batch-size": 4,
    "--train.eval-every": 4,
    "--train.eval-crops": 8,
    "--tokenizer": "bytes",
    "--sample.num-tokens": 6,
    "--sample.num-texts": 2,
    "--checkpoint.every": 2,
    "--log": "tensorboard",
}


@pytest.fixture(scope="module", autouse=True)
def one_compilation():
    """All runs take the compiled steps of the first, and token files go to a folder of their own."""
    made, make_train_step, make_eval_step = {}, script.make_train_step, script.make_eval_step
    train = dataclasses.replace(script.PRESETS["small"].train, steps=TINY["--steps"], schedule="cosine")
    optimizer = train.optimizer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "make_train_step", lambda *a, **k: made.setdefault(1, make_train_step(*a, **k)))
        patch.setattr(script, "make_eval_step", lambda *a, **k: made.setdefault(2, make_eval_step(*a, **k)))
        patch.setattr(script.TrainConfig, "optimizer", lambda settings: optimizer)
        patch.setattr(script, "Model5", cache(script.Model5))
        yield


@pytest.fixture(scope="module", autouse=True)
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        (folder / "cat.txt").write_text("The cat sat on the mat and looked at the dog. " * 60)
        yield folder / "cat.txt"


def cli(flags):
    argv = [str(part) for flag in flags.items() for part in flag]
    return run_cli(
        script.main, script.Config, presets=script.PRESETS, resume=script.resume.read_config, argv=argv
    )


def run(corpus, out, **changed):
    return cli(TINY | {"--corpus": corpus, "--out": out} | changed)


def resume(folder, **changed):
    return cli({"--resume": folder} | changed)


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    assert run(corpus, out) == 0
    return out


@pytest.fixture(scope="module")
def stopped(corpus, tmp_path_factory):
    """A run that got SIGTERM before its fourth step, which it made."""
    out, signals = tmp_path_factory.mktemp("runs") / "run", [signal.SIGTERM]

    def interrupted(tokens, **options):
        if options["step"] == 3 and signals:
            os.kill(os.getpid(), signals.pop())
        return sample_batch(tokens, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "sample_batch", interrupted)
        assert run(corpus, out) == 143
    return out


@pytest.fixture
def copied(stopped, tmp_path):
    """What a test may go on with."""
    return shutil.copytree(stopped, tmp_path / "run")


def read(folder):
    """What two equal runs leave; the header of a weights file has no order."""
    weights = (folder / "weights" / "model.safetensors").read_bytes()
    metrics = (folder / "metrics.jsonl").read_bytes()
    curves = read_scalars(folder / "tensorboard").items()
    learnt = {tag: curve for tag, curve in curves if not tag.startswith("time/")}
    return metrics, weights[8 + int.from_bytes(weights[:8], "little") :], learnt


def test_run_folder_holds_config_metrics_weights_and_results(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if r["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert [r["step"] for r in records if r["kind"] == "test"] == [0, 4, 6]
    _, _, curves = read(folder)
    for key in ("loss", "grad_norm", "learning_rate"):
        shown = [(r["step"], np.float32(r[key])) for r in records if r["kind"] == "train"]
        assert curves[f"train/{key}"] == shown
    assert [step for step, _ in curves["test/all"]] == [0, 4, 6]
    results = json.loads((folder / "results.json").read_text(), parse_constant=pytest.fail)
    assert (results["objective"], results["stopped_early"], results["step"]) == ("all", "", 6)
    assert results["test_losses"]["all"]["mean"] < records[0]["losses"]["all"]["mean"]
    _, config = model5.load_weights(folder / "weights")
    assert config.vocab_size == json.loads((folder / "config.json").read_text())["model"]["vocab_size"] == 256
    assert (folder / "samples.txt").read_text().count("# Model 5, text ") == 2
    assert sorted(os.listdir(folder / "checkpoints")) == ["step-00000004", "step-00000006"]


def test_stopped_run_goes_on_to_the_result_of_one_that_was_not(folder, copied, capfd):
    assert json.loads((copied / "results.json").read_text())["step"] == 4
    with (copied / "metrics.jsonl").open("a") as stream:  # as if killed later
        stream.write('{"kind": "train", "objective": "all", "step": 5, "loss": 0.0}\n{"kind": "tra')
    assert resume(copied) == 0
    assert read(copied) == read(folder)
    shown = capfd.readouterr()
    assert f"going on from step 4 of {copied}/" in shown.out
    assert shown.err == ""


def test_run_that_is_killed_while_a_checkpoint_is_written_goes_on_too(folder, corpus, tmp_path):
    flags = TINY | {"--corpus": corpus, "--out": tmp_path / "run"}
    command = [sys.executable, script.__file__, *(str(part) for flag in flags.items() for part in flag)]
    # What the tests' own process has, so that the same programs are compiled.
    settings = {"JAX_ENABLE_X64": "1", "JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(ROOT)}
    settings["XLA_FLAGS"] = f"{quick_compilation.FLAGS_OF_OPTIONS} {os.environ.get('XLA_FLAGS', '')}"
    process = subprocess.Popen(command, env=os.environ | settings, stdout=subprocess.DEVNULL)
    half_written = tmp_path / "run" / "checkpoints" / "step-00000004"
    while process.poll() is None and not half_written.exists():
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (half_written / "manifest.json").exists()
    assert resume(tmp_path / "run") == 0
    assert read(tmp_path / "run") == read(folder)


def test_divergence_is_said_and_leaves_the_weights_of_before(stopped, corpus, tmp_path, monkeypatch, capfd):
    make_train_step = script.make_train_step

    def make(*arguments, **options):
        train_step = make_train_step(*arguments, **options)

        def diverges_at_5(state, *batch):
            state, loss, grad_norm = train_step(state, *batch)
            return state, loss if state.step < 5 else 1000.0, grad_norm

        return diverges_at_5

    monkeypatch.setattr(script, "make_train_step", make)
    monkeypatch.setattr(stopping, "WINDOW", 2)
    out = tmp_path / "run"
    assert run(corpus, out, **{"--checkpoint.every": 1}) == 1
    shown = capfd.readouterr().err
    assert "all diverged at step 5, at a learning rate of" in shown
    assert "over 2 steps the mean loss is 502.8, that of guessing 5.5" in shown
    assert f"what follows is of step 4, before: train on from it with --init {out}" in shown
    results = json.loads((out / "results.json").read_text())
    assert results["step"] == 4
    assert results["stopped_early"].startswith("all diverged at step 5")
    assert read(out)[1] == read(stopped)[1]
    assert not (out / "samples.txt").exists()


def test_damaged_checkpoint_is_named_and_the_one_before_used(folder, copied, capfd):
    newest = max((copied / "checkpoints").iterdir()) / "state" / "_METADATA"
    newest.write_bytes(newest.read_bytes()[:-1])
    assert resume(copied) == 0
    assert read(copied) == read(folder)
    shown = capfd.readouterr()
    assert "going on from step 2" in shown.out
    assert shown.err == f"warning: {str(newest)!r} is damaged\n"


def test_without_a_whole_checkpoint_it_is_one_line_and_nothing_changes(copied, capfd):
    for manifest in (copied / "checkpoints").glob("*/manifest.json"):
        manifest.write_bytes(manifest.read_bytes()[:-1])
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    assert resume(copied) == 2
    assert capfd.readouterr().err.splitlines()[-1].startswith("error: none of the 2 checkpoints in")
    assert {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()} == before


def test_more_steps_may_be_asked_for_and_other_versions_and_flags_go_on(copied, monkeypatch, capfd):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_parallel_codegen_split_count=2")  # read when jax began
    newest = script.resume.newest_checkpoint

    def of_an_earlier_version(*arguments, **options):
        found = newest(*arguments, **options)
        del found.identity["config"]["train"]["scan"]
        return found

    monkeypatch.setattr(script.resume, "newest_checkpoint", of_an_earlier_version)
    assert resume(copied, **{"--steps": 7, "--train.eval-every": 3, "--sample.temperature": 0.9}) == 0
    assert json.loads((copied / "results.json").read_text())["step"] == 7
    shown = capfd.readouterr().err
    assert "the learning rates from here on are those of a schedule over 7 steps" in shown
    assert "the last digits may differ from those of an uninterrupted run: XLA_FLAGS " in shown
    assert " -> --xla_cpu_parallel_codegen_split_count=2\n" in shown


def other_text(folder):
    (folder / "dog.txt").write_text("The dog sat on the mat and looked at the cat. " * 60)
    return folder / "dog.txt"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"--batch-size": 8}, "--batch-size is 8, but the run in"),
        ({"--train.learning-rate": 0.01}, "--train.learning-rate is 0.01, but the run in"),
        ({"--tokenizer": "bpe"}, "--tokenizer is 'bpe', but the run in"),
        ({"--model.num-blocks": 2}, "--model.num-blocks is 2, but the run in"),
        ({"--objective": "final"}, "--objective is 'final', but the run in"),
        ({"--steps": 3}, "--steps is 3, but the run is at step 4"),
        ({"--out": "elsewhere"}, "--out: a run that is resumed stays in its own folder"),
        ({"--corpus": other_text}, "--corpus gives another text than the run was trained on"),
    ],
)
def test_what_decides_the_result_may_not_change(changed, message, copied, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(script, "init_params", lambda *_: pytest.fail("got as far as the model"))
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    changed = {flag: value(tmp_path) if callable(value) else value for flag, value in changed.items()}
    assert resume(copied, **changed) == 2
    shown = capfd.readouterr().err
    assert shown.startswith(f"error: {message}")
    assert shown.count("\n") == 1
    assert {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()} == before


def test_folder_of_another_script_is_refused(tmp_path, capfd):
    (tmp_path / "config.json").write_text('{"model": {}, "epochs": 3}')
    assert resume(tmp_path) == 2
    assert "is not the config of a run of this script: it has 'epochs'" in capfd.readouterr().err


def test_full_disk_stops_the_run_with_the_last_checkpoint_whole(folder, copied, monkeypatch, capfd):
    usage = shutil.disk_usage(copied)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
        assert resume(copied) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("error: the run stopped: step 6 could not be saved: No space left on device")
    assert error.endswith(f"the checkpoint of step 4 is whole: go on with --resume {copied}")
    assert resume(copied) == 0
    assert read(copied) == read(folder)


def test_fine_tuning_starts_from_the_trained_weights_and_tokenizer(
    folder, corpus, tmp_path, monkeypatch, capsys
):
    assert run(corpus, tmp_path / "run", **{"--init": folder, "--tokenizer": "gpt2"}) == 2
    assert (
        capsys.readouterr().err == "error: --tokenizer is gpt2, but that of --init is bytes: leave it out\n"
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
