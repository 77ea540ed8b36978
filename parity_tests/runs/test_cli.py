"""The command line: errors in one line, exit codes, presets."""

import io
import subprocess
import sys
from dataclasses import dataclass, field

import jax
import pytest

from jaxloss.runs.cli import describe_error, run_cli
from parity_tests.scripts import ROOT


@dataclass(frozen=True)
class Inner:
    dropout: float = 0.1
    num_blocks: int = 2

    def __post_init__(self):
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1); got {self.dropout}")


@dataclass(frozen=True)
class Config:
    """Do something."""

    model: Inner = field(default_factory=Inner)
    preset: str = "small"

    def __post_init__(self):
        if self.preset == "refused":
            raise TypeError("preset is of the wrong\n  type")


PRESETS = {"small": Config(), "large": Config(Inner(0.2, 12), "large")}


def test_nested_flags_reach_main():
    seen = []
    assert run_cli(seen.append, Config, argv=["--model.num-blocks", "6"]) == 0
    assert seen == [Config(Inner(0.1, 6))]


@pytest.mark.parametrize("argv", [["--preset", "large"], ["--preset=large"]])
def test_preset_is_the_starting_point_and_other_flags_override_it(argv):
    seen = []
    run_cli(seen.append, Config, presets=PRESETS, argv=[*argv, "--model.num-blocks", "3"])
    assert seen == [Config(Inner(0.2, 3), "large")]


def test_exit_code_is_that_of_main():
    assert run_cli(lambda config: 130, Config, argv=[]) == 130


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model.dropout", "1.5"], "error: --model.dropout must be in [0, 1); got 1.5\n"),
        (
            ["--preset", "lrage"],
            "error: --preset must be one of 'small', 'large'; got 'lrage'. Did you mean 'large'?\n",
        ),
    ],
)
def test_value_refused_by_a_config_is_one_line_and_exit_code_2(argv, message, capfd):
    assert run_cli(pytest.fail, Config, presets=PRESETS, argv=argv) == 2
    assert capfd.readouterr() == ("", message)


def test_message_of_several_lines_is_joined(capfd):
    assert run_cli(pytest.fail, Config, argv=["--preset", "refused"]) == 2
    assert capfd.readouterr().err == "error: --preset is of the wrong type\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--model.num-block", "6"],
            "Unrecognized options: --model.num-block, 6: did you mean --model.num",
        ),
        (["extra"], "Unrecognized options: extra (--help lists all options)"),
        (["--mesh.fsdp", "2"], "Unrecognized options: --mesh.fsdp, 2: train_model5.py takes --mesh.fsdp\n"),
        (["--log", "wandb"], "Unrecognized options: --log, wandb: train_model5.py takes --log\n"),
        (["--model.num-blocks", "six"], "Error parsing --model.num-blocks: invalid literal for int()"),
        (["--model.num-blocks"], "Missing value for argument '--model.num-blocks'. Expected 1 values."),
    ],
)
@pytest.mark.parametrize("terminal", [None, "utf-8", "ascii"])
def test_arguments_that_cannot_be_parsed_are_one_line_with_a_suggestion(
    argv, message, terminal, capfd, monkeypatch
):
    if terminal:
        # Where standard output is a terminal, tyro draws in colours; where it is not UTF-8, without a frame.
        stream = io.TextIOWrapper(io.BytesIO(), encoding=terminal)
        monkeypatch.setattr(stream, "isatty", lambda: True)
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setenv("TERM", "xterm")
    assert run_cli(pytest.fail, Config, argv=argv) == 2
    shown = capfd.readouterr().err
    assert shown.startswith(f"error: {message}")
    assert shown.count("\n") == 1


def test_help_is_exit_code_0(capfd):
    assert run_cli(pytest.fail, Config, argv=["--help"]) == 0
    assert "--model.num-blocks" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("the text is too short"), "the text is too short"),
        (TypeError("the text is too short"), "the text is too short"),
        (OSError("the text is too short"), "the text is too short"),
        (MemoryError(), "a size is too large: MemoryError"),
        (OverflowError("int too big to convert"), "a size is too large: int too big to convert"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
            "the device's memory does not suffice: RESOURCE_EXHAUSTED: Out of memory",
        ),
    ],
)
def test_mistake_found_by_main_is_one_line_and_exit_code_2(error, message, capfd, monkeypatch):
    def main(config):
        raise error

    assert run_cli(main, Config, argv=[]) == 2
    assert capfd.readouterr() == ("", f"error: {message}\n")
    monkeypatch.setenv("JAXLOSS_TRACEBACK", "1")
    with pytest.raises(type(error)):
        run_cli(main, Config, argv=[])


@pytest.mark.parametrize("error", [KeyError("a bug"), RuntimeError("a bug")])
def test_bug_keeps_its_traceback(error):
    def main(config):
        raise error

    with pytest.raises(type(error)):
        run_cli(main, Config, argv=[])


def test_characters_that_the_terminal_lacks_do_not_end_a_run(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert run_cli(lambda config: print("4.5 \u00b1 0.1 \udcff"), Config, argv=[]) == 0
    stream.flush()
    assert stream.buffer.getvalue() == b"4.5 ? 0.1 ?\n"


def test_ctrl_c_before_training_is_exit_code_130(capfd):
    def main(config):
        raise KeyboardInterrupt

    assert run_cli(main, Config, argv=[]) == 130
    assert capfd.readouterr().err == "interrupted\n"


def test_error_of_the_system_names_the_file():
    error = FileNotFoundError(2, "No such file or directory", "/no/such/file")
    assert describe_error(error) == "No such file or directory: '/no/such/file'"


def test_ctrl_c_while_a_script_imports_its_libraries_is_one_line_and_exit_code_130():
    # A shell starts what runs in the background with Ctrl-C ignored, and Python then leaves it so.
    program = (
        "import os, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "import interrupt; os.kill(os.getpid(), signal.SIGINT); signal.pause()"
    )
    command = [sys.executable, "-S", "-c", program]
    ended = subprocess.run(command, cwd=ROOT / "experiments", capture_output=True, text=True)
    assert (ended.returncode, ended.stderr, ended.stdout) == (130, "interrupted\n", "")
