"""Examine the library's own losses and write docs/doctor.md: `make doctor`.

About five minutes on two CPU cores.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxloss.doctor import Report, examine
from jaxloss.doctor.report import show
from parity_tests.doctor.built_in import EXPECTED, LOSSES

PAGE = Path(__file__).parents[2] / "docs/doctor.md"

HEADER = """# The losses, examined

Written by `make doctor`, which runs [`jaxloss.doctor.examine`](examine.md) on the library's losses.
Constants are those of one example in the space of its predictions, the largest that was found; the
safe step is that of plain gradient descent there. "Stuck" is the share of inputs with a large loss
that have less than a hundredth of the usual gradient; "explosion" is the largest gradient over the
usual one, at predictions from 0.02 to 10 times the usual size.
"""

RATES = """Decades of learning rates at which two toy problems are learnt, beside those of cross entropy or
its like, ± the standard deviation over seeds."""

SHAPE = {
    "best prediction": ("meaning", "best prediction"),
    "over a batch": ("reductions", "over the batch"),
    "Lipschitz": ("curvature", "Lipschitz constant"),
    "smoothness": ("curvature", "smoothness constant"),
    "safe step": ("curvature", "largest safe SGD step"),
    "convex": ("curvature", "convex"),
    "kinks": ("kinks", "on the margin"),
    "right in float32": ("finite", "float32 accurate"),
    "stuck": ("gradient_size", "large loss without gradient"),
    "explosion": ("gradient_size", "explosion ratio"),
}
"""Column -> check and figure."""

TRAINING = {
    f"{optimizer}, {data}": ("trains", f"{optimizer}, {data}")
    for data in ("separable", "noisy")
    for optimizer in ("SGD", "AdamW")
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine them; 1 if one has an error that is not expected."""
    parser = argparse.ArgumentParser(prog="python -m parity_tests.doctor", description="Examine the losses.")
    parser.add_argument("--only", nargs="+", choices=LOSSES, help="these losses, and write no page")
    only = parser.parse_args(arguments).only
    reports = {}
    for name in only or LOSSES:
        loss, kind = LOSSES[name]
        reports[name] = report = examine(loss, kind, budget_seconds=600, name=name)
        print(f"{report}\n", flush=True)
    if not only:
        PAGE.write_text(page(reports))
    errors = [(name, finding) for name, report in reports.items() for finding in report.errors]
    surprises = [f"{name}: {f.check}: {f.message}" for name, f in errors if (name, f.check) not in EXPECTED]
    print("\n".join(surprises) or f"no error in {len(reports)} losses but {len(errors)} expected ones")
    return 1 if surprises else 0


def page(reports: dict[str, Report]) -> str:
    """A row for each loss, then what was found in words."""
    lines = [HEADER, *_table(reports, SHAPE), "", "## Rates that work", "", RATES, ""]
    lines += [*_table(reports, TRAINING), "", "## What was found", ""]
    for name, report in reports.items():
        lines += [f"- `{name}`, {f.severity}, {f.check}: {f.message}" for f in report.findings]
        lines += [f"- `{name}`, left out, {check}: {why}" for check, why in report.left_out.items()]
    lines += ["", "Expected errors:" if EXPECTED else "No error is expected, and none was found.", ""]
    lines += [f"- `{name}`, {check}: {why}" for (name, check), why in EXPECTED.items()]
    return "\n".join(lines).rstrip() + "\n"


def _table(reports: dict[str, Report], columns: dict[str, tuple[str, str]]) -> list[str]:
    """A row for each loss that has one of the figures."""
    lines = [f"| loss | inputs | {' | '.join(columns)} |", f"| --- | --- |{' ---: |' * len(columns)}"]
    for name, report in reports.items():
        cells = [_cell(report, *at) for at in columns.values()]
        if set(cells) != {"-"}:
            lines.append(f"| `{name}` | {report.kind} | {' | '.join(cells)} |")
    return lines


def _cell(report: Report, check: str, figure: str) -> str:
    text = show(report.measured.get(check, {}).get(figure))
    return text.removesuffix(": the targets are of your own kind").replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
