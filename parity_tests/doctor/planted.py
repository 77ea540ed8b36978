"""Examine thirty careless losses by every check, and write docs/planted_faults.md: part of `make doctor`.

About four minutes on two CPU cores.
"""

import sys
from pathlib import Path

from tqdm import tqdm

from jaxloss.doctor import Report, examine
from parity_tests.doctor.careless import CARELESS, finding_of

PAGE = Path(__file__).parents[2] / "docs/planted_faults.md"

HEADER = """# Careless losses, examined

Written by `make doctor`: thirty losses of
[parity_tests/doctor/careless.py](../parity_tests/doctor/careless.py), each with one fault, run through all
checks of `jaxloss.doctor.examine`. The finding is the one that names the fault, which a right loss beside it
does not have; the last column has the other checks that warn.

"""


def main() -> int:
    """Examine them; 1 if one is not found out."""
    reports = {}
    for name, own in tqdm(CARELESS.items(), ncols=79):
        reports[name] = examine(own.loss, own.kind, dtypes=own.dtypes, budget_seconds=600, name=name)
    PAGE.write_text(page(reports))
    missed = [name for name, report in reports.items() if finding_of(name, report.findings) is None]
    print(f"{len(reports) - len(missed)} of {len(reports)} careless losses found: {PAGE.name}")
    print("".join(f"missed: {name}\n{reports[name]}\n" for name in missed), end="")
    return 1 if missed else 0


def page(reports: dict[str, Report]) -> str:
    """The count, then a row for each loss."""
    found = {name: finding_of(name, report.findings) for name, report in reports.items()}
    count = sum(finding is not None for finding in found.values())
    lines = [f"{HEADER}**{count} of {len(reports)} are found.**", ""]
    lines += [
        "| loss | inputs | severity | check | finding | also |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, report in reports.items():
        own = found[name]
        said = ("-", "-", "missed") if own is None else (own.severity, own.check, own.message)
        others = dict.fromkeys(f.check for f in report.findings if f.severity != "note")
        also = ", ".join(check for check in others if check != said[1])
        cells = (name, report.kind, *said, also)
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
