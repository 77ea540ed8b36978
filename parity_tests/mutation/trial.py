"""One run of tests in a process of its own, against the library as it is or with one mistake in it."""

import ast
import builtins
import contextlib
import importlib.machinery
import multiprocessing
import os
import resource
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "jaxloss"
# Imported once, in the process from which all others fork. None may import the library, or run a program.
PRELOADED = ["beartype", "hypothesis", "jax.numpy", "jaxtyping", "mpmath", "torch"]
PRELOADED += ["torch.testing._internal.common_methods_invocations"]


@dataclass(frozen=True)
class Trial:
    """Files of tests; `chosen` are the tests in them that run, in that order, by default all."""

    files: tuple[str, ...]
    chosen: tuple[str, ...] = ()
    # The file below jaxloss/ that has a mistake, and its whole text.
    file: str = ""
    source: str = ""
    # Of processor time, which a loop that never ends would use up.
    seconds: int = 0


@dataclass
class Outcome:
    """The first test to fail; and for each test its processor time and the functions that it entered."""

    failed: str | None
    seconds: float
    costs: dict[str, float]
    entered: dict[str, set[str]]
    printed: str = ""


def run_all(
    trials: dict[str, Callable[[], Trial]], jobs: int, programs: str
) -> Iterator[tuple[str, Outcome]]:
    """Run each trial, made when its turn comes, in a process of its own; yield outcomes as they come."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED, __name__])
    waiting, running = list(reversed(trials.items())), {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                name, make = waiting.pop()
                answer, theirs = context.Pipe(duplex=False)
                process = context.Process(target=run, args=(make(), theirs, programs))
                process.start()
                theirs.close()
                running[answer] = (name, process)
            for answer in wait(running):
                name, process = running.pop(answer)
                try:
                    outcome = answer.recv()
                except EOFError:
                    outcome = Outcome("out of time, or crashed", 0.0, {}, {})
                process.join()
                yield name, outcome
    finally:
        for _, process in running.values():
            process.kill()


def run(trial: Trial, answer: Connection, programs: str) -> None:
    """What a process does: run the trial and send its outcome. Compiled programs are kept in a folder."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if trial.seconds:
        resource.setrlimit(resource.RLIMIT_CPU, (trial.seconds, trial.seconds))
        # Of a process that waits for ever; it may have to share its core with many.
        signal.alarm(30 * trial.seconds)
    jax.config.update("jax_compilation_cache_dir", programs)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    os.chdir(ROOT)
    plugin = Plugin(trial)
    _change_sources(plugin.changed)
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--override-ini=addopts="]
    options += ["--import-mode=importlib", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    # Another process may be writing the program that this one wants to read: it is then compiled again.
    options += ["-W", "ignore:Error (reading|writing) persistent compilation cache"]
    with open(f"{programs}/printed-{os.getpid()}", "w+") as printed:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            code = pytest.main([*options, *trial.files], plugins=[plugin])
        printed.seek(0)
        text = printed.read()[-3000:]
        os.unlink(printed.name)
    failed = None if code in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) else plugin.failed
    answer.send(Outcome(failed, time.process_time(), plugin.costs, dict(plugin.entered), text))
    answer.close()


class Plugin:
    """Chooses and orders the tests, and notes what fails; without a mistake, also what each test enters."""

    def __init__(self, trial: Trial):
        self.trial = trial
        self.failed = "collection"
        self.costs: dict[str, float] = {}
        self.entered: defaultdict[str, set[str]] = defaultdict(set)
        self.current = "collection"
        builtins.note_entry = lambda function: self.entered[self.current].add(function)  # type: ignore[attr-defined]

    def changed(self, file: str) -> str | None:
        """The source of a file of the library, for this trial; None leaves it as it is."""
        if not self.trial.file:
            return noting_entries(file, (LIBRARY / file).read_text())
        return self.trial.source if file == self.trial.file else None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        if self.trial.chosen:
            rank = {name: i for i, name in enumerate(self.trial.chosen)}
            items[:] = sorted((i for i in items if i.nodeid in rank), key=lambda item: rank[item.nodeid])

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item):
        start, self.current = time.process_time(), item.nodeid
        if not self.trial.file:
            # A function that an earlier test has traced is not entered again.
            jax.clear_caches()
        yield
        self.costs[item.nodeid], self.current = time.process_time() - start, "collection"

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report):
        if report.failed:
            self.failed = report.nodeid


def noting_entries(file: str, source: str) -> str:
    """The source, with a note at the start of each function that it was entered."""
    tree = ast.parse(source)

    def visit(node: ast.AST, name: str) -> None:
        for child in ast.iter_child_nodes(node):
            is_named = isinstance(child, ast.FunctionDef | ast.ClassDef)
            inner = (f"{name}.{child.name}" if name else child.name) if is_named else name
            visit(child, inner)
            if isinstance(child, ast.FunctionDef):
                note = ast.parse(f"note_entry({f'{file} {inner}'!r})").body
                place = 1 if ast.get_docstring(child) else 0
                child.body = [*child.body[:place], *note, *child.body[place:]]

    visit(tree, "")
    return ast.unparse(ast.fix_missing_locations(tree))


def _change_sources(changed: Callable[[str], str | None]) -> None:
    """Have the library imported from what `changed` gives as each file's text; nothing changes on disk."""
    loader = importlib.machinery.SourceFileLoader
    get_code = loader.get_code

    def get_changed_code(self, fullname):
        path = Path(self.path)
        is_ours = path.is_relative_to(LIBRARY)
        source = changed(path.relative_to(LIBRARY).as_posix()) if is_ours else None
        return get_code(self, fullname) if source is None else compile(source, self.path, "exec")

    loader.get_code = get_changed_code  # type: ignore[method-assign]
