"""The command for GPU and TPU hosts, at toy sizes and in this process, so that it works when it is needed."""

import contextlib
import io
from pathlib import Path

import pytest

from jaxloss.runs.cli import run_cli
from jaxloss.runs.folder import RunFolder
from jaxloss.runs.recorder import Recorder
from jaxloss.training import Estimate, step
from parity_tests.quick_compilation import jit
from parity_tests.report import __main__ as report
from parity_tests.scripts import ROOT, load

DEVICE = {"platform": "cpu", "kind": "cpu", "number": 1, "has_torch": False}


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = load("accelerator", "benchmarks")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(module, "find_device", lambda: DEVICE)
    # What costs most to compile, and is tested elsewhere.
    monkeypatch.delitem(load("train_step", "benchmarks").OBJECTIVES, "all")
    for way in ("remat", "scan"):
        monkeypatch.delitem(load("blocks", "benchmarks").WAYS, way)
    monkeypatch.setitem(report.SECTIONS, "layers", lambda: layers()[:1])
    monkeypatch.setattr(load("train_model5"), "main", train)
    monkeypatch.setattr(step, "jit_with_barriers", jit)
    monkeypatch.setattr(module, "run", run_here)
    return module


layers = report.SECTIONS["layers"]


def train(config):
    """What a training leaves."""
    folder = RunFolder(config.out, "train_model5").create()
    folder.write_json("config.json", load("accelerator", "benchmarks").dataclasses.asdict(config))
    with Recorder(folder, {"all": "all"}, config.model, config.train) as record:
        record.test("all", 0, {"all": Estimate(5.5, 0.1)})
        for step in range(1, config.train.steps + 1):
            record.update("all", step, loss=6.0 - step, grad_norm=1.0, seconds=2.0 / step)
    return 0


def run_here(command, log, env):
    name, arguments = Path(command[0]).stem, command[1:]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if command[:2] == ["-m", "parity_tests.report"]:
            code = report.main(command[2:])
        elif name == "train_model5":
            training = load(name)
            code = run_cli(training.main, training.Config, presets=training.PRESETS, argv=arguments)
        else:
            code = load(name, "benchmarks").main(arguments) or 0
    return code, printed.getvalue()


def cli(script, *argv):
    return run_cli(script.main, script.Config, argv=list(map(str, argv)))


def test_everything_runs_at_toy_sizes_and_the_page_holds_it(script, tmp_path):
    page = tmp_path / "page.md"
    assert cli(script, "--toy", "--page", page, "--out", tmp_path / "run") == 0
    text = page.read_text()
    for expected in (
        "1 x cpu (cpu)",
        "| Layers of Model 5 |",
        "1 of 1 agree.",
        "N = 32, D = 8, V = 64, bfloat16",
        "| jaxloss, chunks of 16 |",
        "batch 4 x 8, bfloat16, 2 rounds",
        "| final | jaxloss |",
        "| final     |       1 | scan, remat |",
        "1,000.0 ms",  # the median without the first, which compiles
        "5.000, 4.000",
    ):
        assert expected in text
    assert str(tmp_path) not in text


def test_part_that_fails_is_named_and_the_others_go_on(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "run", lambda command, log, env: (3, "out of memory\n"))
    page = tmp_path / "page.md"
    assert cli(script, "--toy", "--page", page, "--out", tmp_path / "run") == 1
    assert page.read_text().count("It ended with exit code 3.") == 5
    assert "failed: Parity with PyTorch on the CPU, The fused head, " in capsys.readouterr().out


def test_full_sizes_are_options_of_the_scripts(script, tmp_path, monkeypatch):
    def offline(*_):
        raise ConnectionError("no network")

    monkeypatch.setattr(script.DataConfig, "prepare", offline)
    *_, training = script.full_parts(tmp_path, None, has_torch=False)
    code, _ = run_here(training.command, None, None)
    assert code == 0
    assert "| 12 block(s), width 768, 50,304 tokens |" in training.result("")
    assert "200" in training.result("")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "JAX finds no GPU or TPU, only the CPU: install jax[cuda13] or jax[tpu]"),
        (["--toy"], "--toy needs --page FILE, so that toy figures do not replace docs/accelerator.md"),
        (["--page", "/nowhere/x.md"], "--page must be a file in a folder that exists; got '/nowhere/x.md'"),
    ],
)
def test_what_cannot_be_measured_is_one_line(script, flags, message, capsys):
    assert cli(script, *flags) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


def test_children_and_their_device(tmp_path, monkeypatch, capfd):
    module = load("accelerator", "benchmarks")
    program = ["-c", "import sys; print('shown', flush=True); sys.exit(3)"]
    assert module.run(program, tmp_path / "1.log", {}) == (3, "shown\n")
    assert (tmp_path / "1.log").read_text() == capfd.readouterr().out == "shown\n"
    monkeypatch.setattr(module, "ASK", "import nothing_of_that_name")
    with pytest.raises(ValueError, match="JAX finds no device: ModuleNotFoundError"):
        module.find_device()
