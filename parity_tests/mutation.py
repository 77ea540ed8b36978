"""Make each deliberate mistake of `mutants.py` in turn and see whether the tests notice.

    python -m parity_tests.mutation             all of them
    python -m parity_tests.mutation divergence  those in files whose name contains the word

Runs in one process, so that the programs that JAX has compiled serve every mutant; nothing on disk is
changed. Exits with 1 if any mistake survives.
"""

import contextlib
import importlib
import io
import pkgutil
import sys
import time
from pathlib import Path

import pytest

import jaxloss
from parity_tests.mutants import MUTANTS

ROOT = Path(jaxloss.__file__).parent
TESTS = Path(__file__).parent / "losses"


def reload_losses() -> None:
    """Every module of the losses again, so that each sees the others as they are now."""
    package = importlib.import_module("jaxloss.losses")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.reload(importlib.import_module(f"jaxloss.losses.{module.name}"))
    importlib.reload(package)


def passes(tests: str) -> bool:
    """Do the tests pass as the modules are now?"""
    # Pytest would take the test modules of the run before, and with them the losses that those imported.
    for name in [name for name in sys.modules if name.startswith("parity_tests.losses.")]:
        del sys.modules[name]
    options = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        outcome = pytest.main([*options, str(TESTS / tests)])
    if outcome not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"pytest ended with {outcome!r}:\n{printed.getvalue()[-2000:]}")
    return outcome == pytest.ExitCode.OK


def survives(file: str, right: str, wrong: str, tests: str) -> bool:
    """Do the tests pass with `wrong` in place of `right`?"""
    name = "jaxloss." + file.removesuffix(".py").replace("/", ".")
    module = importlib.import_module(name)
    source = (ROOT / file).read_text()
    code = compile(source.replace(right, wrong, 1), str(ROOT / file), "exec")
    loader = type(module.__loader__)
    get_code = loader.get_code

    def mutated(self, fullname):
        return code if fullname == name else get_code(self, fullname)

    loader.get_code = mutated
    try:
        importlib.reload(module)
        reload_losses()
        return passes(tests)
    finally:
        loader.get_code = get_code
        importlib.reload(module)
        reload_losses()


def main() -> int:
    chosen = [mutant for mutant in MUTANTS if len(sys.argv) < 2 or sys.argv[1] in mutant[0]]
    for tests in sorted({mutant[3] for mutant in chosen}):
        if not passes(tests):
            print(f"{tests} fails as it is: mend that first", file=sys.stderr)
            return 1
    survivors = []
    for number, mutant in enumerate(chosen, 1):
        start = time.perf_counter()
        alive = survives(*mutant)
        verdict = "SURVIVED" if alive else "killed"
        seconds = time.perf_counter() - start
        print(f"{number:3}/{len(chosen)} {verdict:8} {seconds:5.1f} s  {mutant[0]}: {mutant[2]}", flush=True)
        survivors += [mutant] if alive else []
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mistakes noticed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
