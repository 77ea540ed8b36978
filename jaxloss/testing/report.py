"""What a comparison found, as objects, as text and as tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from jaxloss.testing.measure import Difference


@dataclass(frozen=True)
class Comparison:
    """One array of one function, compared in one dtype. Errors are in eps of the largest entry.

    Args:
        what: "value" or "gradient of input 0", with a path where outputs or inputs are nested.
        dtype: in which both sides computed.
        error: JAX against torch.
        allowed: for `error`, or, in narrower dtypes, for `jax_error` if that is smaller.
        passed: whether they agree.
        difference: where they are furthest apart.
        jax_error: JAX against torch's float64 result; None in float64, where there is no better truth.
        torch_error: torch against its own float64 result.
        is_zero: both are rounding noise around zero; the errors are then relative to the largest gradient.
        condition: how far torch's float64 result moves, in the same unit, when the inputs move by one eps;
            None unless it was needed to decide.
        note: why more than usual was allowed; None where it was not.
        mismatch: why there was nothing to compare.
    """

    what: str
    dtype: str
    error: float
    allowed: float
    passed: bool = False
    difference: Difference | None = None
    jax_error: float | None = None
    torch_error: float | None = None
    is_zero: bool = False
    condition: float | None = None
    note: str | None = None
    mismatch: str | None = None


@dataclass(frozen=True)
class ParityReport:
    """The comparisons of one pair of functions.

    Args:
        name: of the pair.
        comparisons: all that were made.
        cause: the likely cause of the first failure, where a known trap matches.
        gradient_l2: for each dtype, the relative L2 distance of all gradients together from the float64
            truth, of JAX and of torch; in float64, of JAX from torch.
    """

    name: str
    comparisons: tuple[Comparison, ...]
    cause: str | None = None
    gradient_l2: Mapping[str, tuple[float, float | None]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether something was compared and all of it agrees."""
        return bool(self.comparisons) and all(comparison.passed for comparison in self.comparisons)

    def worst(self, dtype: str, what: str) -> Comparison | None:
        """The comparison with the largest error among values, or among gradients, of a dtype."""
        chosen = [c for c in self.comparisons if c.dtype == dtype and c.what.startswith(what)]
        return max(chosen, key=lambda comparison: comparison.error, default=None)

    def text(self) -> str:
        """The whole report, for people."""
        lines = [f"{self.name}: JAX and torch {'agree' if self.passed else 'DISAGREE'}"]
        rows = [
            [c.dtype, c.what, *map(number, (c.error, c.allowed, c.jax_error, c.torch_error)), _mark(c)]
            for c in self.comparisons
        ]
        lines.append("errors in eps of the largest entry:")
        lines.append(aligned([["dtype", "what", "error", "allowed", "JAX's own", "torch's own", ""], *rows]))
        failed = [c for c in self.comparisons if not c.passed]
        if failed:
            lines += [_where(failed[0]), f"likely cause: {self.cause or 'none of the known traps'}"]
        return "\n".join(lines)


@dataclass(frozen=True)
class Table:
    """A table that prints as aligned text and writes itself as Markdown."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def text(self) -> str:
        """Columns aligned with spaces."""
        return aligned([self.header, *self.rows])

    def markdown(self) -> str:
        """A Markdown table, the first column to the left and the others to the right."""
        line = ["---", *["---:"] * (len(self.header) - 1)]
        return "\n".join(f"| {' | '.join(row)} |" for row in [self.header, line, *self.rows])

    def __str__(self) -> str:
        return self.text()


def table_of(reports: Sequence[ParityReport]) -> Table:
    """One row for each pair and dtype: the worst errors of values and gradients, and each side's own."""
    header = ("function", "dtype", "value", "gradient", "JAX's own", "torch's own", "agree")
    rows = []
    for report in reports:
        for dtype in dict.fromkeys(c.dtype for c in report.comparisons):
            of_dtype = [c for c in report.comparisons if c.dtype == dtype]
            value, gradient = report.worst(dtype, "value"), report.worst(dtype, "gradient")
            own = [
                max((e for c in of_dtype if (e := getattr(c, side)) is not None), default=None)
                for side in ("jax_error", "torch_error")
            ]
            errors = [value.error if value else None, gradient.error if gradient else None, *own]
            agree = "yes" if all(c.passed for c in of_dtype) else "NO"
            notes = dict.fromkeys(c.note for c in of_dtype if c.note)
            if agree == "yes" and notes:
                agree = f"yes, {' and '.join(notes)}"
            rows.append((report.name, dtype, *map(number, errors), agree))
    return Table(header, tuple(rows))


def _mark(comparison: Comparison) -> str:
    if not comparison.passed:
        return "<-"
    if comparison.is_zero:
        return "zero but for rounding"
    if comparison.note is None and comparison.error > comparison.allowed:
        return "nearer the truth than torch"
    return comparison.note or ""


def number(value: float | None) -> str:
    """A number for a table: three digits, or a dash for none."""
    if value is None:
        return "-"
    return f"{value:.3g}" if 1e-2 <= value < 1e5 or value == 0.0 or not np.isfinite(value) else f"{value:.1e}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells with their columns aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _where(failed: Comparison) -> str:
    if failed.mismatch:
        return f"nothing to compare: {failed.mismatch}"
    worst = failed.difference
    assert worst is not None
    return (
        f"worst in {failed.dtype}: {failed.what} at {list(worst.index)}: JAX {worst.actual!r}, torch "
        f"{worst.expected!r}; {number(failed.error)} eps of max, {number(worst.ulp)} ULP"
    )
