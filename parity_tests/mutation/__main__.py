"""Make deliberate mistakes in the library, one at a time, and see whether the tests notice each.

    python -m parity_tests.mutation                       a sample of 400
    python -m parity_tests.mutation divergence focal      of the files whose name contains one of the words
    python -m parity_tests.mutation --seed 1 --count 800

The mistakes are made from the syntax tree (`operators.py`); a seed chooses among them, and each file has its
share. Results are kept in runs/mutation.jsonl: what is known and has not changed since is not run again.
Exits with 1 if a mistake survives without a reason in `known.py`.
"""

import argparse
import hashlib
import os
import sys
import tempfile
from collections import Counter, defaultdict
from functools import partial

from tqdm import tqdm

from parity_tests.mutation.known import EQUIVALENT
from parity_tests.mutation.operators import Mutant, mutants, mutate
from parity_tests.mutation.results import Results
from parity_tests.mutation.trial import LIBRARY, ROOT, Trial, run_all

ROOMS = ("losses", "numerics", "fused")
# The tests most likely to notice a mistake in a file that has none of its own name. All others come second.
NEAREST = {
    "_reduction.py": ["losses/test_regression.py", "losses/test_divergence.py"],
    "losses/_elements.py": ["losses/test_regression.py", "losses/test_binary.py", "losses/test_options.py"],
    "losses/_log_probs.py": ["losses/test_reference_free.py", "losses/test_policy.py"],
    "losses/_rows.py": [
        "losses/test_rows.py",
        "losses/test_classification.py",
        "losses/test_sample_weight.py",
    ],
    "numerics/softmax.py": [
        "losses/test_split_classes.py",
        "losses/test_accuracy.py",
        "losses/test_classification.py",
    ],
    "numerics/divergence.py": ["losses/test_softmax_divergence.py"],
    "numerics/focal.py": ["losses/test_focal.py", "losses/test_focal_derivatives.py"],
    "numerics/tangent.py": ["losses/test_options.py", "losses/test_regression.py"],
    "numerics/two_sum.py": ["losses/test_two_sum.py", "losses/test_divergence.py"],
    "numerics/log_odds.py": [
        "losses/test_penalties.py",
        "losses/test_reference_free.py",
        "losses/test_second_derivatives.py",
    ],
    "fused/_arguments.py": ["fused/test_api.py"],
    "fused/_evaluate.py": ["fused/test_api.py"],
    "fused/_opaque.py": ["fused/test_api.py"],
    "fused/_token_loss.py": ["fused/test_api.py", "fused/test_distillation.py", "fused/test_scalars.py"],
}
# What it compares, such as the default of an option, no test has to enter.
SIGNATURES = "parity_tests/test_mirror.py"


def all_mutants() -> list[Mutant]:
    """Of every file with code of the losses, their arithmetic and the fused head."""
    paths = [LIBRARY / "_reduction.py", *(p for room in ROOMS for p in sorted((LIBRARY / room).glob("*.py")))]
    files = {path.relative_to(LIBRARY).as_posix(): path.read_text() for path in paths}
    return [mutant for file, source in files.items() for mutant in mutants(file, source)]


def sample(candidates: list[Mutant], count: int, seed: int) -> list[Mutant]:
    """About `count` of the mutants: of each file in proportion, at least three.

    Seed and identifier alone say which come first, so that other code may change without drawing anew.
    """
    by_file = defaultdict(list)
    for mutant in candidates:
        by_file[mutant.file].append(mutant)
    chosen = []
    for group in by_file.values():
        share = max(3, round(count * len(group) / len(candidates)))
        chosen += sorted(group, key=lambda m: hashlib.sha256(f"{seed} {m.id}".encode()).digest())[:share]
    return chosen


def nearest_tests(file: str) -> list[str]:
    """The files of tests to try first, by their names."""
    room, _, name = file.rpartition("/")
    named = f"{room}/test_{name.removeprefix('_')}"
    default = [named] if (ROOT / "parity_tests" / named).exists() else []
    return [f"parity_tests/{path}" for path in NEAREST.get(file, default)]


def further_tests(file: str) -> list[str]:
    """All others, of which those that enter the mistaken function run."""
    rooms = ("losses",) if file.startswith("losses/") else ("losses", "fused")
    paths = [path for room in rooms for path in sorted((ROOT / "parity_tests" / room).glob("test_*.py"))]
    return [SIGNATURES, *(p.relative_to(ROOT).as_posix() for p in paths)]


class Run:
    """Tests on mutants, in several processes, with what is known of both."""

    def __init__(self, results: Results, jobs: int, programs: str):
        self.results, self.jobs, self.programs = results, jobs, programs
        self.killers: defaultdict[str, Counter] = defaultdict(Counter)

    def examine(self, chosen: list[Mutant]) -> None:
        """Try the nearest tests on each mutant that is not known; on survivors, all tests that reach it."""
        unknown = [mutant for mutant in chosen if self.results.verdict(mutant) is None]
        survivors = self._try(unknown, nearest_tests, is_last=False)
        self._try(survivors, further_tests, is_last=True)

    def _try(self, chosen: list[Mutant], tests_of, is_last: bool) -> list[Mutant]:
        tests = {mutant.id: tests_of(mutant.file) for mutant in chosen}
        self._examine_tests(sorted({file for files in tests.values() for file in files}))
        trials = {m.id: partial(self._trial, m, tests[m.id], is_last) for m in chosen}
        by_id, survivors = {m.id: m for m in chosen}, []
        with tqdm(
            total=len(chosen), desc="further tests" if is_last else "mutants", disable=not chosen
        ) as bar:
            for name, outcome in run_all(trials, self.jobs, self.programs):
                mutant = by_id[name]
                if outcome.failed:
                    self.killers[f"{mutant.file} {mutant.function}"][outcome.failed] += 1
                else:
                    survivors.append(mutant)
                if outcome.failed or is_last:
                    self.results.add_mutant(mutant, [*nearest_tests(mutant.file), *tests[name]], outcome)
                bar.set_postfix_str(f"{len(survivors)} survive", refresh=False)
                bar.update()
        return survivors

    def _examine_tests(self, files: list[str]) -> None:
        """Run tests without any mistake: they must pass, and say what each costs and enters."""
        unknown = [file for file in files if not self.results.knows_tests(file)]
        trials = {file: partial(Trial, (file,)) for file in unknown}
        with tqdm(total=len(unknown), desc="tests as they are", disable=not unknown) as bar:
            for file, outcome in run_all(trials, self.jobs, self.programs):
                if outcome.failed:
                    sys.exit(
                        f"{outcome.failed} fails without any mistake: mend that first\n{outcome.printed}"
                    )
                self.results.add_tests(file, outcome)
                bar.update()

    def _trial(self, mutant: Mutant, tests: list[str], only_entering: bool) -> Trial:
        """The tests that enter the mistaken function come first, of those the likeliest and the cheapest."""
        costs = {name: cost for file in tests for name, cost in self.results.costs(file).items()}
        entering = {t for file in tests for t in self.results.entering(file, mutant.file, mutant.function)}
        if not entering:
            # What a module or a class holds belongs to no function.
            entering = {t for file in tests for t in self.results.entering(file, mutant.file)}
        entering |= {name for name in costs if name.startswith(SIGNATURES)}
        killers = self.killers[f"{mutant.file} {mutant.function}"]
        names = sorted(
            entering if only_entering else costs, key=lambda t: (t not in entering, -killers[t], costs[t])
        )
        source = mutate((LIBRARY / mutant.file).read_text(), mutant)
        # Enough for tests that must compile all anew; a loop that never ends takes it all.
        seconds = 30 + 4 * int(sum(costs[name] for name in names))
        return Trial(
            tuple(dict.fromkeys(n.partition("::")[0] for n in names)),
            tuple(names),
            mutant.file,
            source,
            seconds,
        )


def report(chosen: list[Mutant], possible: list[Mutant], results: Results) -> bool:
    """Print what survives and the score; say whether all is well."""
    verdicts = {mutant: results.verdict(mutant) for mutant in chosen}
    survivors = [mutant for mutant, verdict in verdicts.items() if verdict == "survived"]
    for mutant in survivors:
        print(f"{mutant}\n    {mutant.id}")
    stale = sorted(set(EQUIVALENT) - {mutant.id for mutant in possible})
    for name in stale:
        print(f"known.py: no mutant is called {name} any more")
    equivalent = sum(mutant.id in EQUIVALENT for mutant in chosen)
    unknown = list(verdicts.values()).count(None) - equivalent
    killed = len(chosen) - equivalent - unknown - len(survivors)
    if unknown:
        print(f"{unknown} were not tried")
    print(f"{killed} of {len(chosen)} mutants noticed, {equivalent} equivalent, {len(survivors)} survive")
    return not (survivors or stale or unknown)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", default=[""])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    possible = all_mutants()
    wanted = [mutant for mutant in possible if any(word in mutant.file for word in options.words)]
    if not wanted:
        parser.error(f"no file is called {' or '.join(options.words)}")
    chosen = sample(wanted, options.count, options.seed)
    results = Results(ROOT / "runs" / "mutation.jsonl")
    # For the processes of the tests: no accelerator, and no threads beside them.
    os.environ |= {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1"}
    os.environ["XLA_FLAGS"] = f"--xla_cpu_parallel_codegen_split_count=1 {os.environ.get('XLA_FLAGS', '')}"
    with tempfile.TemporaryDirectory() as programs:
        programs = os.environ.get("JAX_COMPILATION_CACHE_DIR", programs)
        os.makedirs(programs, exist_ok=True)
        run = Run(results, options.jobs, programs)
        try:
            run.examine([mutant for mutant in chosen if mutant.id not in EQUIVALENT])
        except KeyboardInterrupt:
            print("stopped; run again to go on", file=sys.stderr)
    return 0 if report(chosen, possible, results) else 1


if __name__ == "__main__":
    sys.exit(main())
