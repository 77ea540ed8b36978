"""What an experiment found out about a claim: figures over seeds, and whether the claim holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxloss.runs.folder import RunFolder


class Finding(NamedTuple):
    """One claim's row of the table of claims; a run's `results.json` lists them under "findings".

    Attributes:
        claim: its number, such as "L6".
        result: the figures, with their spread, in a sentence.
        verdict: "holds", "holds in part" or "does not hold".
    """

    claim: str
    result: str
    verdict: str

    @classmethod
    def of(cls, claim: str, result: str, parts: Sequence[bool]) -> Finding:
        """Holds if every part of the claim does, in part if some do.

        >>> Finding.of("L6", "L1 is slow and stable", [True, False]).verdict
        'holds in part'
        """
        verdict = "holds" if all(parts) else "holds in part" if any(parts) else "does not hold"
        return cls(claim, result, verdict)


def spread(values: Sequence[float] | np.ndarray, digits: int = 3) -> str:
    """The mean over seeds and their standard deviation, for a table; "-" if a seed has no finite value.

    >>> spread([1.0, 2.0, 3.0], digits=1)
    '2.0 ± 1.0'
    """
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all():
        return "-"
    deviation = f" ± {values.std(ddof=1):,.{digits}f}" if values.size > 1 else ""
    return f"{values.mean():,.{digits}f}{deviation}"


def is_above(larger: Sequence[float] | np.ndarray, smaller: Sequence[float] | np.ndarray) -> bool:
    """Whether one quantity is above another over shared seeds: Student's paired test, one-sided, at 5 %.

    A single seed proves nothing, and neither do seeds without a finite value.

    >>> is_above([2.0, 2.1, 2.2], [1.0, 1.2, 1.1]), is_above([2.0, 1.0, 2.2], [1.0, 2.2, 1.1])
    (True, False)
    """
    from scipy.stats import ttest_rel

    a, b = np.asarray(larger, np.float64), np.asarray(smaller, np.float64)
    if a.size < 2 or not np.isfinite([a, b]).all():
        return False
    difference = a - b
    if np.ptp(difference) == 0.0:  # without spread, as between runs that are not random
        return bool(difference[0] > 0.0)
    return bool(ttest_rel(a, b, alternative="greater").pvalue < 0.05)


def write_results(
    folder: RunFolder, config: Any, table: str, findings: Sequence[Finding], numbers: Mapping[str, Any]
) -> None:
    """Print the table, and leave behind what comes beside the plot: config, table and `results.json`.

    Args:
        folder: made already.
        config: the experiment's, a dataclass.
        table: the figures, in Markdown.
        findings: rows of the table of claims.
        numbers: all that the findings and the plot were made from.
    """
    folder.write_json("config.json", dataclasses.asdict(config))
    folder.write_text("table.md", table)
    folder.write_json("results.json", {"findings": [finding._asdict() for finding in findings], **numbers})
    print(f"{table}\n\nwritten to {folder.path}/")
