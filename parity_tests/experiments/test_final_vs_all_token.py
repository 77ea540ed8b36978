"""The main experiment on a tiny model: a whole run, an interrupted one, and every kind of bad input."""

import dataclasses
import json
import os
import shutil
import signal
from functools import cache

import numpy as np
import pytest

from jaxloss import model5
from jaxloss.data import load_tokenizer, sample_batch
from jaxloss.runs.cli import run_cli
from jaxloss.runs.trained import load_trained
from parity_tests.data import bad_files
from parity_tests.scripts import load
from parity_tests.training import tiny
from torch_ref import model5 as torch_model5

script = load("final_vs_all_token")

TINY = {
    "--model.context-length": 16,
    "--model.embed-dim": 32,
    "--model.num-heads": 2,
    "--model.num-blocks": 1,
    "--train.steps": 30,
    "--seeds": 2,
    "--train.batch-size": 4,
    "--train.eval-every": 20,
    "--train.eval-crops": 8,
    "--tokenizer": "bytes",
    "--sample.num-tokens": 6,
    "--sample.num-texts": 2,
}
SENTENCES = "The cat sat on the mat and looked at the dog. " * 60


@pytest.fixture(scope="module", autouse=True)
def token_cache(tmp_path_factory):
    """Token files go to a folder of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", autouse=True)
def one_compilation_for_both_runs():
    """The interrupted run takes the compiled steps of the whole one: each script run makes its own."""
    made, make_train_step, make_eval_step = {}, script.make_train_step, script.make_eval_step

    def train_step(loss, **options):
        return made.setdefault(loss, make_train_step(loss, **options))

    def eval_step(losses, **options):
        return made.setdefault("eval", make_eval_step(losses, **options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "make_train_step", train_step)
        patch.setattr(script, "make_eval_step", eval_step)
        patch.setattr(script.TrainConfig, "optimizer", lambda settings: tiny.optimizer())
        patch.setattr(script, "Model5", cache(script.Model5))
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "cat.txt"
    path.write_text(SENTENCES)
    return path


def run(corpus, out, **changed):
    flags = TINY | {"--corpus": corpus, "--out": out} | {k.replace("__", "."): v for k, v in changed.items()}
    argv = [str(part) for flag in flags.items() for part in flag]
    return run_cli(script.main, script.Config, presets=script.PRESETS, argv=argv)


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    assert run(corpus, out) == 0
    return out


@pytest.fixture(scope="module")
def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


FILES = {
    "config.json",
    "loss.png",
    "metrics.jsonl",
    "results.json",
    "samples.txt",
    "table.md",
    "times.jsonl",
    "tokenizer.json",
} | {f"weights_{name}-{seed}" for name in ("all", "final") for seed in (0, 1)}
FIRST_ONLY = {file for file in FILES if not file.endswith("-1")}


def test_run_folder_is_complete(folder):
    assert {file.name for file in folder.iterdir()} == FILES
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    config = json.loads((folder / "config.json").read_text())
    assert config["model"]["vocab_size"] == 256
    assert config["seeds"] == 2
    assert config["train"]["weight_decay"] == 0.01
    assert config["model"]["dropout"] == 0.1


def test_both_objectives_make_the_same_steps_in_turn_and_are_evaluated_every_so_many(metrics):
    updates = [record for record in metrics if record["kind"] == "train"]
    assert [record["objective"] for record in updates] == ["all", "final"] * 60
    assert [record["seed"] for record in updates] == [0] * 60 + [1] * 60
    for objective in ("all", "final"):
        own = [record for record in metrics if record["objective"] == objective]
        assert [r["step"] for r in own if r["kind"] == "train"] == 2 * list(range(1, 31))
        tests = [r for r in own if r["kind"] == "test"]
        assert [r["step"] for r in tests] == 2 * [0, 20, 30]
        assert set(tests[0]["losses"]) == {"all", "final", "all of one batch", "final of one batch"}


def test_both_objectives_start_from_the_same_weights_at_the_uniform_loss(metrics):
    first = [record["losses"] for record in metrics if record["kind"] == "test" and record["step"] == 0]
    assert first[0] == first[1]
    assert first[0]["all"]["mean"] == pytest.approx(np.log(256), abs=0.05)


def test_both_objectives_learn_and_all_tokens_learn_faster(folder):
    results = json.loads((folder / "results.json").read_text())
    assert results["stopped_early"] == ""
    for seed in results["seeds"]:
        drop = {n: one["initial_test_loss"] - one["test_losses"][n]["mean"] for n, one in seed.items()}
        assert drop["all"] > drop["final"] > 0.1
    assert [finding["claim"] for finding in results["findings"]] == ["F11", "F14"]


def test_samples_stand_beside_real_text_with_the_same_beginning(folder):
    samples = (folder / "samples.txt").read_text()
    for number in (1, 2):
        title = f"seed 1, text {number} of 2\n\n"
        texts = [part.partition(title)[2] for part in samples.split("# ") if title in part]
        assert len(texts) == 3
        assert len({text[:4] for text in texts}) == 1
        assert texts[2][:16] in SENTENCES


def test_weights_load_in_both_frameworks_and_tokenizer_reads_back(folder):
    params, config = model5.load_weights(folder / "weights_all-0")
    model, torch_config = torch_model5.load_weights(folder / "weights_all-0")
    assert dataclasses.asdict(config) == dataclasses.asdict(torch_config)
    assert (config.embed_dim, config.logit_scale) == (32, 1.0)
    np.testing.assert_array_equal(params["wte"]["embedding"], model.wte.weight.detach().numpy())
    tokenizer = load_tokenizer(folder)
    assert tokenizer.decode(tokenizer.encode([SENTENCES])[0]) == SENTENCES
    assert load_trained(folder / "weights_final-1").tokenizer.name == "bytes"
    with pytest.raises(ValueError, match="several models, weights_all-0, weights_all-1, weights_final-0,"):
        load_trained(folder)


def test_ctrl_c_ends_with_everything_written_and_exit_code_130(corpus, tmp_path, monkeypatch, capfd):
    signals = [signal.SIGINT]

    def interrupted(tokens, **options):
        if options["step"] == 3 and signals:
            os.kill(os.getpid(), signals.pop())
        return sample_batch(tokens, **options)

    monkeypatch.setattr(script, "sample_batch", interrupted)
    out = tmp_path / "run"
    assert run(corpus, out) == 130
    assert {file.name for file in out.iterdir()} == FIRST_ONLY
    results = json.loads((out / "results.json").read_text())
    assert results["stopped_early"] == "stopped by Ctrl-C"
    assert [one["steps"] for one in results["seeds"][0].values()] == [4, 4]
    shown = capfd.readouterr()
    assert "Ctrl-C" in shown.err
    assert "Traceback" not in shown.err
    assert max(map(len, shown.out.splitlines())) <= 80 + len(str(tmp_path))


@pytest.mark.parametrize("failing", ["all", "final"])
def test_divergence_is_said_and_leaves_what_was_good(failing, corpus, tmp_path, monkeypatch, capfd):
    make_train_step = script.make_train_step

    def make(loss, **options):
        train_step = make_train_step(loss, **options)

        def fails_at_4(state, *arguments):
            if loss is script.OBJECTIVES[failing][0] and state.step == 3:
                return state, np.nan, np.nan
            return train_step(state, *arguments)

        return fails_at_4

    monkeypatch.setattr(script, "make_train_step", make)
    out = tmp_path / "run"
    assert run(corpus, out) == 1
    shown = capfd.readouterr()
    assert f"{failing} diverged at step 4, at a learning rate of" in shown.err
    assert "|" not in shown.out
    other = {"all": "final", "final": "all"}[failing]
    results = {"samples.txt", "table.md", "weights_all-0", "weights_final-0"}
    assert {f.name for f in out.iterdir()} == FIRST_ONLY - results | {f"weights_{other}-0"}
    written = json.loads((out / "results.json").read_text())
    assert written["stopped_early"].startswith(f"{failing} diverged at step 4")
    assert written["seeds"] == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"--train__steps": 0}, "--train.steps must be at least 1; got 0"),
        ({"--train__batch-size": 0}, "--train.batch-size must be at least 1; got 0"),
        ({"--model__dropout": 1.0}, "--model.dropout must be in [0, 1); got 1.0"),
        ({"--model__embed-dim": 33}, "--model.embed-dim must be a multiple of num_heads"),
        ({"--model__context-length": 100_000}, "needs at least 100001 tokens, has"),
        ({"--model__vocab-size": 100}, "--model.vocab-size is 100, but the tokenizer's ids go up to 255"),
        ({"--sample__num-texts": 0}, "--sample.num-texts must be at least 1; got 0"),
        ({"--seeds": 0}, "--seeds must be at least 1; got 0"),
        ({"--corpus": "/no/such/file.txt"}, "/no/such/file.txt"),
        ({"--preset": "large"}, "--preset must be one of 'small', 'model5'; got 'large'."),
    ],
)
def test_bad_value_is_one_line_and_exit_code_2_before_any_compilation(
    changed, message, corpus, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(script, "init_params", lambda *_: pytest.fail("got as far as the model"))
    assert run(corpus, tmp_path / "run", **changed) == 2
    shown = capfd.readouterr()
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert message in shown.err
    assert not (tmp_path / "run").exists()


def test_full_disk_is_told_before_any_compilation(corpus, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(script, "init_params", lambda *_: pytest.fail("got as far as the model"))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_100_000))
    assert run(corpus, tmp_path / "run") == 2
    message = "error: No space left on device: 1.4 MB are needed, 1.1 MB are free\n"
    assert capfd.readouterr().err == message


@pytest.mark.parametrize("text", ["", "   \n", "too short"])
def test_text_without_enough_tokens_is_refused(text, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(script, "init_params", lambda *_: pytest.fail("got as far as the model"))
    (tmp_path / "text.txt").write_text(text)
    assert run(tmp_path / "text.txt", tmp_path / "run") == 2
    shown = capfd.readouterr()
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_folder_that_holds_a_run_is_refused_and_kept(folder, corpus, monkeypatch, capfd):
    monkeypatch.setattr(script, "init_params", lambda *_: pytest.fail("got as far as the model"))
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert run(corpus, folder) == 2
    assert "already holds a run" in capfd.readouterr().err
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_bad_corpus_is_one_line_and_exit_code_2(tmp_path, capfd):
    for path, message in bad_files.write(tmp_path).items():
        assert run(path, tmp_path / "run") == 2
        shown = capfd.readouterr()
        assert shown.err.startswith(f"error: {message}")
        assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert not (tmp_path / "run").exists()


def test_full_size_preset_is_the_articles():
    preset = script.PRESETS["model5"]
    assert preset.model == model5.MODEL5
    assert (preset.train.steps, preset.train.batch_size) == (1234, 64)
    assert (preset.data.corpus, preset.data.tokenizer) == ("fineweb", "gpt2")
