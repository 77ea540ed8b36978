"""Examine a loss from the command line: `python -m jaxloss.doctor module:loss --kind classes`."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tqdm import tqdm

from jaxloss.doctor import InputSpec, examine
from jaxloss.runs.cli import describe_error, run_cli


@dataclasses.dataclass(frozen=True)
class Config:
    """Examine a loss as a function, before anything is trained with it.

    Exit code: 0 if every check ran and found no error, 1 if not, 2 for a mistake in the arguments.
    """

    loss: Annotated[str, tyro.conf.Positional]
    """Where the loss is, as module:name; modules are also looked for in the current folder."""
    kind: str = "classes"
    """classes, yes_no, real or pairs; or module:name of an InputSpec."""
    checks: tuple[str, ...] = ()
    """Run these checks only."""
    dtypes: tuple[Literal["float32", "bfloat16", "float16"], ...] = ("float32", "bfloat16", "float16")
    """To examine the loss in, each against float64."""
    budget_seconds: float = 30.0
    """After which the rest is left out, and named."""
    json: bool = False
    """Print the report as JSON."""
    markdown: bool = False
    """Print the report as Markdown."""
    plot: str | None = None
    """Write a PNG of value, gradient and curvature here."""

    def __post_init__(self) -> None:
        if self.json and self.markdown:
            raise ValueError("--json and --markdown exclude each other; pass one.")
        if self.plot is not None and not Path(self.plot).absolute().parent.is_dir():
            raise ValueError(f"--plot must be in a folder that exists; got {self.plot}")


def main(config: Config) -> int:
    """Print the report."""
    sys.path.insert(0, os.getcwd())
    kind: str | InputSpec = _load("--kind", config.kind) if ":" in config.kind else config.kind
    report = examine(
        _load("loss", config.loss),
        kind,
        dtypes=config.dtypes,
        checks=config.checks or None,
        budget_seconds=config.budget_seconds,
        name=config.loss.partition(":")[2],
        progress=partial(tqdm, desc="examining", unit="check", leave=False, disable=None),
    )
    print(report.json() if config.json else report.markdown() if config.markdown else report)
    if config.plot is not None:
        report.picture(config.plot)
    return 0 if report.passed else 1


def _load(argument: str, place: str) -> Any:
    """What stands at module:name."""
    module, colon, name = place.partition(":")
    if not (module and colon and name):
        raise ValueError(f"{argument} must be module:name, such as jaxloss:cross_entropy; got {place!r}.")
    try:
        # What the module prints would break --json.
        with contextlib.redirect_stdout(sys.stderr):
            found: Any = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        said = f"{type(error).__name__}: {describe_error(error)}"
        raise ValueError(f"{argument} cannot be imported from {module}: {said}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{argument} must name something in {module}; it has no {name!r}.")
        found = getattr(found, part)
    return found


if __name__ == "__main__":
    sys.exit(run_cli(main, Config))
