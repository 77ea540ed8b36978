"""Which of the articles' claims hold? Runs every experiment at its CPU size and writes docs/claims.md.

    make experiments
    make experiments ARGS="correlation bias"       # these anew, the others as they were last measured

The page is written from the runs' `results.json`, whose findings and verdicts the experiments themselves make
from their figures; the README's table of the main experiment from its `table.md`. Takes about half an hour on
two CPU cores.
"""

import argparse
import difflib
import json
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
RUNS, PAGE, PLOTS = ROOT / "runs" / "claims", ROOT / "docs" / "claims.md", ROOT / "docs" / "claims"
README, MAIN = ROOT / "README.md", "final_vs_all_token"
TABLE_START, TABLE_END = f"<!-- make experiments: the table of {MAIN} -->\n", "<!-- end -->"

TEST = "parity_tests/"
OPEN = "not measured yet"
# Each claim in a sentence, and where it is measured: experiments, or tests for what is exact.
CLAIMS = {
    "L1": ("Training minimises -log of the target's probability.", f"{TEST}losses/test_classification.py"),
    "L2": ("Cross entropy of logits is NLL of log-softmax.", f"{TEST}losses/test_classification.py"),
    "L3": ("A loss is anything called with (y_hat, y), one's own included.", f"{TEST}losses/test_compose.py"),
    "L4": ("Prediction 2, target 5: L1 is 3, L2 is 9.", "l1_vs_l2"),
    "L5": ("L1 ends in an oscillation as wide as the step; L2 settles.", "l1_vs_l2"),
    "L6": ("L1 is less smooth, less sensitive to outliers, slower and less stable than L2.", "l1_l2_huber"),
    "L7, correlation": ("A custom loss can optimise a correlation.", "correlation"),
    "L7, bias": ("A custom loss can penalise a biased model.", "bias"),
    "L7, token set": ("A KL pull moves a model towards or away from a set of tokens.", "steering"),
    "L7, overfitting": ("A custom loss can regularise against overfitting.", "overfitting"),
    "L7, unequal classes": ("A custom loss can balance unequal classes.", "unequal_classes"),
    "L7, steering": ("A custom loss can steer learning to a wanted property.", "steering"),
    "L8": ("A careless loss explodes, vanishes or does not converge: check it first.", "check_a_loss"),
    "L9, learnt": ("A loss found by meta-learning beats a tuned cross entropy.", "learnt_loss"),
    "L9, hybrid": ("Hybrid losses, with weights fixed, scheduled or learnt.", "hybrid_loss"),
    "F1": ("The final-token objective looks at the last position only.", f"{TEST}losses/test_language.py"),
    "F2": ("Model 5 is GPT-2 small, 124 M parameters.", f"{TEST}model5/test_model.py"),
    "F3": ("Dropout in four places, in training only.", f"{TEST}model5/test_dropout.py"),
    "F4": ("Initialisation: normal(0, 0.02); Xavier positions.", f"{TEST}model5/test_model.py"),
    "F5": ("Leaving out the log-softmax before an NLL loss breaks training.", "missing_log_softmax"),
    "F6": ("Mixed devices: the program places, or explains.", f"{TEST}training/test_placement.py"),
    "F7": ("Attention keeps dropping out in eval() unless dropout_p is set from the mode.", "eval_dropout"),
    "F8": ("The training procedure, evaluated every 80 iterations.", f"{TEST}training/test_step.py"),
    "F9": ("A book is homogeneous, the web is not.", "book_vs_web"),
    "F10": ("Train and test loss over the iterations.", f"{TEST}experiments/test_final_vs_all_token.py"),
    "F11": ("Final-token training ends higher, fluctuates more and is slower.", "final_vs_all_token"),
    "F12": ("Its text lacks spaces and sense, more than that of a model of one book.", "book_vs_web"),
    "F13, noise": ("Its signal is T times smaller.", "gradient_noise"),
    "F13, data": ("Heterogeneous data makes its loss higher.", "book_vs_web"),
    "F14": ("All tokens: fast, stable, dear; final token: slow, noisy, cheap.", "final_vs_all_token"),
    "beyond, tokens": ("A supervised token teaches alike wherever it stands.", "supervised_tokens"),
    "beyond, recipes": ("Other recipes serve the final token better at equal cost.", "final_token_recipes"),
}  # fmt: skip


def experiments() -> list[str]:
    """The scripts that the claims name, each once, in the claims' order."""
    return list(
        dict.fromkeys(where for _, where in CLAIMS.values() if where != OPEN and not where.startswith(TEST))
    )


def run(name: str) -> str:
    """Run one experiment into its folder, in place of an earlier run; what to say of it."""
    new = RUNS / f".{name}"
    shutil.rmtree(new, ignore_errors=True)
    start = time.monotonic()
    with open(RUNS / f"{name}.log", "w") as log:
        script = [sys.executable, str(ROOT / "experiments" / f"{name}.py"), "--out", str(new)]
        done = subprocess.run(script, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)
    if done.returncode:
        return f"error: {name} ended with {done.returncode}: {RUNS / f'{name}.log'}"
    shutil.rmtree(RUNS / name, ignore_errors=True)
    new.rename(RUNS / name)
    return f"{name}: {time.monotonic() - start:.0f} s"


def read_results() -> tuple[dict[str, dict[str, str]], list[str]]:
    """The findings by claim, and the experiments that have run."""
    findings, ran = {}, []
    for name in experiments():
        results = RUNS / name / "results.json"
        if results.exists():
            findings |= {finding["claim"]: finding for finding in json.loads(results.read_text())["findings"]}
            ran.append(name)
    unknown = set(findings) - set(CLAIMS)
    assert not unknown, f"findings on no claim: {unknown}"
    return findings, ran


def row(claim: str, finding: dict[str, str] | None, before: dict[str, str]) -> str:
    """A claim's line of the table; one that is not measured here stays as it was on the page `before`."""
    sentence, where = CLAIMS[claim]
    if where == OPEN:
        return f"| {claim} | {sentence} | {where} | open | |"
    if where.startswith(TEST):
        return f"| {claim} | {sentence} | by test: [{where.removeprefix(TEST)}](../{where}) | tested | |"
    link = f"[{where}.py](../experiments/{where}.py)"
    if finding is None and link in before.get(claim, ""):
        return before[claim]
    if finding is None:
        return f"| {claim} | {sentence} | {link}: {OPEN} | open | |"
    plot = f"[plot](claims/{where}.png)"
    return f"| {claim} | {sentence} | {link}: {finding['result']} | {finding['verdict']} | {plot} |"


def write_page() -> None:
    """docs/claims.md and its plots."""
    findings, ran = read_results()
    page = PAGE.read_text().splitlines() if PAGE.exists() else []
    before = {line.split(" | ")[0].removeprefix("| "): line for line in page}
    PLOTS.mkdir(exist_ok=True)
    for name in ran:
        (picture,) = (RUNS / name).glob("*.png")
        shutil.copy(picture, PLOTS / f"{name}.png")
    lines = [
        "# The claims of the two articles, measured",
        "",
        "Written by `make experiments` from the runs' figures, never by hand. ± is the standard deviation",
        "over seeds, or the standard error where the experiment says so. A comparison counts if Student's",
        "paired test over the seeds finds it at 5 %, one-sided; a claim of several parts holds in part if",
        "some do.",
        "All at the size that two CPU cores bear: what a larger model does, these figures do not say. The",
        "book is the longest document of Python's documentation and the web its others, a weak contrast.",
        "",
        "| claim | | measured | verdict | |",
        "| --- | --- | --- | --- | --- |",
        *(row(claim, findings.get(claim), before) for claim in CLAIMS),
        "",
        f"{platform.machine()}, Python {platform.python_version()}, jax {jax.__version__}, "
        f"{time.strftime('%Y-%m-%d')}.",
    ]
    PAGE.write_text("\n".join(lines) + "\n")


def write_table() -> None:
    """The README's table of the main experiment, if that has run."""
    table = RUNS / MAIN / "table.md"
    if table.exists():
        before, _, rest = README.read_text().partition(TABLE_START)
        README.write_text(
            f"{before}{TABLE_START}{table.read_text()}{TABLE_END}{rest.partition(TABLE_END)[2]}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="EXPERIMENT", help=f"of {', '.join(experiments())}")
    names = parser.parse_args().names or experiments()
    for name in names:
        if name not in experiments():
            near = difflib.get_close_matches(name, experiments(), n=1)
            parser.error(f"no experiment is called {name!r}{f': did you mean {near[0]}?' if near else ''}")
    RUNS.mkdir(parents=True, exist_ok=True)
    failures = []
    with tqdm(names, ncols=79) as bar:
        for name in bar:
            bar.set_description(name)
            said = run(name)
            tqdm.write(said)
            failures += [said] if said.startswith("error") else []
    write_page()
    write_table()
    print(f"written: {PAGE.relative_to(ROOT)}")
    if failures:
        sys.exit("\n".join([*failures, "what they measured before stands on the page"]))


if __name__ == "__main__":
    main()
