"""The README's tables that are made from the code: `make readme` writes them, a test compares them."""

import importlib
import inspect
from pathlib import Path

import torch

import jaxloss
from parity_tests.divergences import DIVERGENCES

README = Path(__file__).parents[1] / "README.md"


def losses() -> str:
    """A row for each file of losses: its first sentence, torch's own names, and the others."""
    rows: dict[str, tuple[list[str], list[str]]] = {}
    for name in (*jaxloss.losses.__all__, *jaxloss.fused.__all__):
        in_torch, beyond = rows.setdefault(getattr(jaxloss, name).__module__, ([], []))
        (in_torch if hasattr(torch.nn.functional, name) else beyond).append(f"`{name}`")
    lines = ["| | torch's | beyond torch |", "| --- | --- | --- |"]
    for module, groups in sorted(rows.items(), key=lambda row: not row[1][0]):
        kind = inspect.getdoc(importlib.import_module(module)).partition("\n")[0].removesuffix(".")
        lines.append(f"| {kind} | {' | '.join(', '.join(group) for group in groups)} |")
    return "\n".join(lines)


def divergences() -> str:
    """The deliberate differences from torch."""
    rows = [f"| {row.what} | {row.torch} | {row.jaxloss} |" for row in DIVERGENCES]
    return "\n".join(["| | torch | jaxloss |", "| --- | --- | --- |", *rows])


def written(text: str) -> str:
    """The README with its tables as they should be."""
    for table in (losses, divergences):
        start, end = f"<!-- make readme: {table.__name__} -->\n", "<!-- end -->"
        before, found, rest = text.partition(start)
        assert found, f"the README has no place for the table of {table.__name__}"
        text = f"{before}{start}{table()}\n{end}{rest.partition(end)[2]}"
    return text


if __name__ == "__main__":
    README.write_text(written(README.read_text()))
