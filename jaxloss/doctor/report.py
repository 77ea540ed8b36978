"""What an examination found: for a terminal, as Markdown, as JSON, and as one picture."""

from __future__ import annotations

import json
import math
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxloss.doctor.picture import Curve, draw

Severity = Literal["error", "warning", "note"]
_RANK: dict[Severity, int] = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True)
class Finding:
    """One thing to know about a loss before training with it.

    Args:
        check: the check that found it.
        severity: "error" where training goes wrong or does something other than the loss says; "warning"
            where it does at some inputs; "note" for a property to know.
        message: what is so, in a sentence.
        number: the figure behind it, or None.
        shown_by: the input that shows it.
        advice: what to do.
    """

    check: str
    severity: Severity
    message: str
    number: float | None
    shown_by: str
    advice: str


@dataclass(frozen=True)
class Result:
    """What one check returns: its findings, and what it measured by name."""

    findings: Sequence[Finding] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """All about one loss.

    Args:
        loss: its name.
        kind: the inputs it was given.
        dtypes: it was examined in.
        findings: errors first.
        measured: check -> figure's name -> its value; a check that was left out has none.
        left_out: check -> why.
        margin: what the margin is.
        seconds: the examination took.
        curves: called, returns dtype -> value, gradient and curvature over the margin.
    """

    loss: str
    kind: str
    dtypes: tuple[str, ...]
    findings: tuple[Finding, ...]
    measured: Mapping[str, Mapping[str, Any]]
    left_out: Mapping[str, str]
    margin: str
    seconds: float
    curves: Callable[[], Mapping[str, Curve]]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings of severity "error"."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def passed(self) -> bool:
        """Whether every check that was asked for ran, and none found an error."""
        return not self.errors and not self.left_out

    def __str__(self) -> str:
        lines = [self._title()]
        for finding in self.findings:
            lines += _wrapped(f"{finding.severity:8} {finding.check}: {finding.message}", "")
            lines += _wrapped(f"at {finding.shown_by}", " " * 9) if finding.shown_by else []
            lines += _wrapped(f"-> {finding.advice}", " " * 9)
        for check, figures in self.measured.items():
            listed = ", ".join(f"{name} {show(value)}" for name, value in figures.items())
            lines += _wrapped(f"measured {check}: {listed}", "") if listed else []
        for check, why in self.left_out.items():
            lines += _wrapped(f"left out {check}: {why}", "")
        return "\n".join(lines)

    def markdown(self) -> str:
        """The same as two tables: findings, then figures and what was left out."""
        lines = [f"**{_cell(self._title())}**", ""]
        if self.findings:
            lines += [
                "| severity | check | finding | shown by | what to do |",
                "| --- | --- | --- | --- | --- |",
            ]
            rows = [(f.severity, f.check, f.message, f.shown_by, f.advice) for f in self.findings]
            lines += [f"| {' | '.join(map(_cell, row))} |" for row in rows] + [""]
        lines += ["| check | figure | measured |", "| --- | --- | ---: |"]
        for check, figures in self.measured.items():
            lines += [f"| {check} | {_cell(name)} | {_cell(show(v))} |" for name, v in figures.items()]
        lines += [f"| {check} | left out | {_cell(why)} |" for check, why in self.left_out.items()]
        return "\n".join(lines) + "\n"

    def json(self) -> str:
        """All of it; numbers that JSON lacks are the strings "nan", "inf" and "-inf"."""
        content = {name: value for name, value in vars(self).items() if name not in ("findings", "curves")}
        content["findings"] = [asdict(finding) for finding in self.findings]
        return json.dumps(_plain(content), indent=1, allow_nan=False)

    def picture(self, path: str | Path) -> None:
        """Write a PNG: value, gradient and curvature over the margin in each dtype."""
        curves = self.curves()
        if not curves:
            raise ValueError(f"path was not written: {self._title()}, and no value to draw")
        draw(Path(path), curves, title=f"{self.loss} on {self.kind}", margin=self.margin)

    def _title(self) -> str:
        count = Counter(finding.severity for finding in self.findings)
        counts = [f"{n} {name}{'s' * (n > 1)}" for name in _RANK if (n := count[name])]
        num, ran = len({*self.measured, *self.left_out}), len(self.measured)
        part = f"; examined in part, {ran} of {num} checks" if self.left_out else ""
        found = ", ".join(counts) or "nothing found"
        return f"{self.loss} on {self.kind}: {found}{part} ({self.seconds:.0f} s)"


def in_order(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Errors first, otherwise as they came."""
    return tuple(sorted(findings, key=lambda finding: _RANK[finding.severity]))


def show(value: Any) -> str:
    """A figure as text: three digits of a number.

    >>> show(0.70710678), show(None), show(3.0), show("mean")
    ('0.707', '-', '3', 'mean')
    """
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {show(each)}" for name, each in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(show, value))
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, (float, np.floating)) else str(value)


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, 110, initial_indent=indent, subsequent_indent=indent or " " * 9)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _plain(value: Any) -> Any:
    """What JSON can hold."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
