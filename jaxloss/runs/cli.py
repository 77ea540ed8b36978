"""The command line of an experiment: a typed config in, one line and exit code 2 out when it is wrong."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TypeVar

import jax

from jaxloss._checks import check_choice
from jaxloss.runs.stopping import quit_now

Config = TypeVar("Config")

_STYLE = re.compile(r"\x1b\[[0-9;]*m")
# What a script that cannot resume a run is asked for in vain.
_OF_LONG_RUNS = ("--checkpoint.", "--init", "--mesh.", "--objective", "--resume")


def run_cli(
    main: Callable[[Config], int | None],
    config_type: type[Config],
    *,
    presets: Mapping[str, Config] | None = None,
    resume: Callable[[str, type[Config]], Config] | None = None,
    argv: Sequence[str] | None = None,
) -> int:
    """Parse the arguments into a config, run `main` on it, and turn a user's mistake into one line.

    Args:
        main: called with the config; returns the exit code, None meaning 0.
        config_type: dataclass that the arguments fill; its docstring is the help text.
        presets: starting points that `--preset NAME` chooses from; the first is the default, and
            `config_type` then has a field `preset`.
        resume: reads the config of the run that `--resume FOLDER` names, the starting point then.
        argv: the arguments, `sys.argv[1:]` if None.

    Returns:
        The exit code: that of `main`; 2 after a mistake in the arguments, the files they name or the data
        (`ValueError`, `TypeError`, `OSError`, or sizes for which the memory does not suffice, told in one
        line on stderr); 130 after Ctrl-C; 141 if whoever reads the output went away. With
        `JAXLOSS_TRACEBACK` set, a mistake keeps its traceback.
    """
    quieten_libraries()
    is_main = threading.current_thread() is threading.main_thread()
    if argv is None and is_main and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        # While it imported its libraries, the script had a handler of its own.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    for stream in (sys.stdout, sys.stderr):
        # A terminal or a pipe that is not UTF-8 must not end a run because of a character.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        default = _starting_point(config_type, presets or {}, resume, arguments)
        return main(_parse(config_type, default, arguments, is_for_long_runs=resume is not None)) or 0
    except BrokenPipeError:
        # The reader of our output is gone (`| head`): there is nobody to tell, also not at interpreter exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, TypeError, OSError) as error:
        return _report(error, _as_typed(describe_error(error), arguments))
    except (MemoryError, OverflowError) as error:
        return _report(error, f"a size is too large: {describe_error(error)}")
    except RuntimeError as error:
        # An error of XLA's, which names no size.
        if str(error).startswith("RESOURCE_EXHAUSTED"):
            return _report(error, f"the device's memory does not suffice: {describe_error(error)}")
        if jax.distributed.is_initialized() and isinstance(error, jax.errors.JaxRuntimeError):
            lost = "another process ended or cannot be reached, see what it says"
            return _report(error, f"{lost}: {describe_error(error)}")
        raise
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        if argv is None:
            quit_now(130)
        return 130
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2


def _report(error: Exception, message: str) -> int:
    if os.environ.get("JAXLOSS_TRACEBACK"):
        raise error
    print(f"error: {message}", file=sys.stderr)
    if jax.distributed.is_initialized():
        # The others wait for this process in an exchange, and JAX would wait for them: its end tells them.
        quit_now(2)
    return 2


def quieten_libraries() -> None:
    """Keep notices of the libraries underneath, which a user can do nothing about, off the terminal."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    sys.excepthook = _show_error


def _show_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    # Where a disk fills up, each write of a checkpoint fails: the first is reported and closes Orbax's loop,
    # to which the threads of the others then report in vain.
    if not (kind is RuntimeError and str(error) == "Event loop is closed"):
        sys.__excepthook__(kind, error, trace)


def describe_error(error: BaseException) -> str:
    """The error's message on one line, with the file named where the message leaves it out."""
    if isinstance(error, OSError) and error.strerror:
        where = f" {error.filename!r}" if error.filename else ""
        return f"{error.strerror}:{where}" if where else error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _as_typed(message: str, arguments: Sequence[str]) -> str:
    """The message, with the option that it begins with named as it was typed.

    >>> _as_typed("batch_size must be at least 1; got 0.", ["--train.batch-size=0"])
    '--train.batch-size must be at least 1; got 0.'
    """
    name, space, rest = message.partition(" ")
    for flag in (argument.partition("=")[0] for argument in reversed(arguments)):
        words = flag.removeprefix("--").replace("-", "_")
        if flag.startswith("--") and words.rpartition(".")[2] == name.rpartition(".")[2]:
            return f"{flag}{space}{rest}"
    return message


def _parse(
    config_type: type[Config], default: Config | None, arguments: list[str], *, is_for_long_runs: bool
) -> Config:
    import tyro

    # tyro draws a box of several lines around every mistake.
    with contextlib.redirect_stderr(io.StringIO()) as drawn:
        try:
            if default is None:
                return tyro.cli(config_type, args=arguments)
            return tyro.cli(config_type, default=default, args=arguments)
        except SystemExit as stop:
            refusal = _own_refusal(stop)
    if refusal is not None:
        raise refusal
    if drawn.getvalue():
        raise ValueError(_in_one_line(drawn.getvalue(), () if is_for_long_runs else _OF_LONG_RUNS))
    raise SystemExit(0)


def _in_one_line(box: str, of_another: tuple[str, ...]) -> str:
    """What tyro says in a box: its first paragraph, and what to type in place of options that are none.

    The box has colours on a terminal, and no frame but spaces on one that is not UTF-8.
    """
    drawn = _STYLE.sub("", box).splitlines()
    lines = [line[2:].rstrip(" \u2502") for line in drawn if line.startswith(("\u2502 ", "  "))]
    is_rule = [bool(line) and not line.strip(" \u2500-") for line in lines]
    first = is_rule.index(True) if True in is_rule else len(lines)
    message = " ".join(line.strip() for line in lines[:first]) or " ".join(box.split())
    if message.startswith("Unrecognized"):
        for word in message.split():
            if word.startswith(of_another) or (of_another and word.rstrip(",") == "--log"):
                return f"{message}: train_model5.py takes {word.rstrip(',')}"
        options = [line.split()[0].rstrip(",") for line in lines[first:] if line.startswith("    --")]
        if options:
            return f"{message}: did you mean {' or '.join(options[:2])}?"
    return f"{message} (--help lists all options)"


def _starting_point(
    config_type: type[Config],
    presets: Mapping[str, Config],
    resume: Callable[[str, type[Config]], Config] | None,
    arguments: Sequence[str],
) -> Config | None:
    """The config that the other flags override, and whose values `--help` shows."""
    earlier = _value_of("--resume", arguments) if resume is not None else None
    if resume is not None and earlier is not None:
        return resume(earlier, config_type)
    if not presets:
        return None
    name = _value_of("--preset", arguments) or next(iter(presets))
    check_choice("--preset", name, tuple(presets))
    return presets[name]


def _value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """What stands after a flag the last time, as `flag value` or `flag=value`."""
    value = None
    for index, argument in enumerate(arguments):
        if argument == flag and index + 1 < len(arguments):
            value = arguments[index + 1]
        elif argument.startswith(f"{flag}="):
            value = argument.removeprefix(f"{flag}=")
    return value


def _own_refusal(stop: SystemExit) -> ValueError | TypeError | None:
    """The error that a config raised about its own values, if that is what made tyro stop."""
    error: BaseException | None = stop
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        if isinstance(error, ValueError | TypeError) and any(f.name == "__post_init__" for f in frames):
            return error
        error = error.__cause__ or error.__context__
    return None
