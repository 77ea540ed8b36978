"""Make each deliberate mistake of `mutants.py` in turn and see whether the tests notice.

    python -m parity_tests.mutation                   all of them
    python -m parity_tests.mutation divergence focal  those in files whose name contains one of the words

Each core takes one mistake at a time, and nothing changes on disk. Programs that JAX has compiled are kept in
a temporary folder, so that a mutant compiles only what it changes. Exits with 1 if any mistake survives.
"""

import contextlib
import importlib.machinery
import io
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path

import jax
import pytest

from parity_tests.mutants import MUTANTS

TESTS = Path(__file__).parent
SOURCE = TESTS.parent / "jaxloss"


def forget() -> None:
    """Drop the library, and all tests that have imported it, so that both are read again."""
    stale = ("jaxloss", "parity_tests.losses", "parity_tests.fused")
    for name in list(sys.modules):
        if name in stale or name.startswith(tuple(f"{s}." for s in stale)):
            del sys.modules[name]


def passes(tests: str) -> bool:
    """Do the tests pass, with the library as it would be imported now?"""
    forget()
    options = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        outcome = pytest.main([*options, str(TESTS / tests)])
    if outcome not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"pytest ended with {outcome!r}:\n{printed.getvalue()[-2000:]}")
    return outcome == pytest.ExitCode.OK


def survives(file: str, right: str, wrong: str, tests: str) -> bool:
    """Do the tests pass with `wrong` in place of `right`?"""
    source = (SOURCE / file).read_text()
    code = compile(source.replace(right, wrong, 1), str(SOURCE / file), "exec")
    name = "jaxloss." + file.removesuffix(".py").replace("/", ".")
    loader = importlib.machinery.SourceFileLoader
    get_code = loader.get_code

    def mutated(self, fullname):
        return code if fullname == name else get_code(self, fullname)

    loader.get_code = mutated
    try:
        return passes(tests)
    finally:
        loader.get_code = get_code


def prepare(folder: str) -> None:
    """In each process: keep compiled programs in the folder."""
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def judge(mutant: tuple[str, str, str, str]) -> tuple[bool, float]:
    """Does this mistake survive, and how many seconds did the answer take?"""
    start = time.perf_counter()
    alive = survives(*mutant)
    return alive, time.perf_counter() - start


def main() -> int:
    words = sys.argv[1:] or [""]
    chosen = [mutant for mutant in MUTANTS if any(word in mutant[0] for word in words)]
    if not chosen:
        files = sorted({mutant[0] for mutant in MUTANTS})
        print(f"no file is called {' or '.join(words)}; there are: {', '.join(files)}", file=sys.stderr)
        return 2
    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as folder,
        # Each mutant has its own jitted functions; a hundred of them would fill a process's memory. Not
        # concurrent.futures, whose pool then hangs (https://github.com/python/cpython/issues/115634).
        spawn.Pool(os.cpu_count(), prepare, (folder,), maxtasksperchild=10) as pool,
    ):
        files = sorted({mutant[3] for mutant in chosen})
        for tests, ok in zip(files, pool.imap(passes, files), strict=True):
            if not ok:
                print(f"{tests} fails as it is: mend that first", file=sys.stderr)
                return 1
        survivors = 0
        for number, (mutant, (alive, seconds)) in enumerate(
            zip(chosen, pool.imap(judge, chosen), strict=True), 1
        ):
            survivors += alive
            verdict = f"{'SURVIVED' if alive else 'killed':8} {seconds:5.1f} s"
            print(f"{number:3}/{len(chosen)} {verdict}  {mutant[0]}: {mutant[2]}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} mistakes noticed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
