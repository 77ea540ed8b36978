"""What is known: a line of JSON for each mutant and each file of tests, valid while the code is as it was."""

import ast
import hashlib
import json
from pathlib import Path

from parity_tests.mutation.operators import Mutant, is_string
from parity_tests.mutation.trial import ROOT, Outcome


def fingerprint(source: str, test: str = "") -> str:
    """A digest of the code, which comments, docstrings and formatting do not change.

    Of a file of tests, that of one test with all that is no test, so that other tests may change.
    """
    tree = ast.parse(source)
    if test:
        tree.body = [s for s in tree.body if not _is_test(s) or s.name == test]
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            node.body = [s for s in node.body if not is_string(s)] or [ast.Pass()]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:12]


def _is_test(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name.startswith("test_")


class Results:
    """The lines of a file, which grows with each result and of which the last word on a thing counts."""

    def __init__(self, path: Path):
        self.path = path
        self.fingerprints: dict[Path, str] = {}
        self.of_tests: dict[str, dict] = {}
        self.of_mutants: dict[str, dict] = {}
        for line in path.read_text().splitlines() if path.exists() else []:
            # The last line of a run that was killed may be half a line.
            if line.endswith("}"):
                self._keep(json.loads(line))

    def _keep(self, record: dict) -> None:
        if "mutant" in record:
            self.of_mutants[record["mutant"]] = record
        else:
            self.of_tests[record["tests"]] = record

    def _add(self, record: dict) -> None:
        self._keep(record)
        self.path.parent.mkdir(exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def _is_as_it_was(self, fingerprints: dict[str, str]) -> bool:
        return all(self._fingerprint(path) == known for path, known in fingerprints.items())

    def _fingerprint(self, path: str) -> str:
        """Of a file below the repository's root, or of one test in it; "" of one that is no more."""
        if path not in self.fingerprints:
            file, _, test = path.partition("::")
            whole = ROOT / file
            self.fingerprints[path] = fingerprint(whole.read_text(), test) if whole.exists() else ""
        return self.fingerprints[path]

    def _helpers(self, test_file: str) -> list[str]:
        """The modules beside a file of tests that are no tests: what it may be built on."""
        folder = (ROOT / test_file).parent
        return [p.relative_to(ROOT).as_posix() for p in folder.glob("*.py") if not p.name.startswith("test_")]

    def add_tests(self, test_file: str, outcome: Outcome) -> None:
        """What running a file of tests without any mistake has said."""
        entered = {test: sorted(functions) for test, functions in outcome.entered.items()}
        sources = {
            f"jaxloss/{function.split()[0]}" for functions in entered.values() for function in functions
        }
        depends = {path: self._fingerprint(path) for path in [test_file, *self._helpers(test_file), *sources]}
        self._add({"tests": test_file, "depends": depends, "costs": outcome.costs, "entered": entered})

    def knows_tests(self, test_file: str) -> bool:
        record = self.of_tests.get(test_file)
        return record is not None and self._is_as_it_was(record["depends"])

    def costs(self, test_file: str) -> dict[str, float]:
        """The tests of a file, each with its processor time in seconds."""
        return self.of_tests[test_file]["costs"]

    def entering(self, test_file: str, file: str, function: str = "") -> set[str]:
        """The tests that enter a function of a file of the library; without a name, any of its functions."""
        record = self.of_tests[test_file]
        entered, names = record["entered"], set(record["costs"])
        found = {t for t, all_of in entered.items() if any(_is_function(e, file, function) for e in all_of)}
        # What importing the tests enters may serve each of them.
        return names if "collection" in found else found & names

    def add_mutant(self, mutant: Mutant, tests: list[str], outcome: Outcome) -> None:
        """The verdict of all these files of tests, or of one test that failed."""
        killer = outcome.failed
        depends = [f"jaxloss/{mutant.file}"]
        if killer is None:
            depends += [path for test in tests for path in (test, *self._helpers(test))]
        elif killer.endswith(".py") or "::" in killer:
            depends.append(killer.partition("[")[0])
        self._add(
            {
                "mutant": mutant.id,
                "killer": killer,
                "seconds": round(outcome.seconds, 2),
                "depends": {path: self._fingerprint(path) for path in depends},
            }
        )

    def verdict(self, mutant: Mutant) -> str | None:
        """ "killed" or "survived", if it is known."""
        record = self.of_mutants.get(mutant.id)
        if record is None or not self._is_as_it_was(record["depends"]):
            return None
        return "killed" if record["killer"] else "survived"


def _is_function(entry: str, file: str, function: str) -> bool:
    return entry == f"{file} {function}" if function else entry.startswith(f"{file} ")
