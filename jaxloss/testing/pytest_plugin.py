"""Parity and the doctor as pytest fixtures, with a table of everything compared at the end of the run.

In a `conftest.py`:

    pytest_plugins = ["jaxloss.testing.pytest_plugin"]

and then, in a test module, each test is one line:

    def test_my_loss(parity):
        parity(my_jax_loss, my_torch_loss, normal(8, 10), integers(8, high=10))

    def test_my_loss_is_sound(examine_loss):
        examine_loss(my_jax_loss, "classes", checks=["finite", "gradient"])

The table is printed with `--parity-table`, and `--parity-report FILE` writes it as Markdown.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jaxloss.testing.parity import check_parity
from jaxloss.testing.report import ParityReport, table_of

_Function = Callable[..., Any]
_REPORTS = pytest.StashKey[list[ParityReport]]()


@pytest.fixture
def parity(request: pytest.FixtureRequest) -> Callable[..., ParityReport]:
    """`assert_parity`, whose report is named after the test and collected for the table."""

    def check(
        jax_fn: Callable[..., Any], torch_fn: Callable[..., Any], *inputs: Any, **options: Any
    ) -> ParityReport:
        __tracebackhide__ = True
        report = check_parity(jax_fn, torch_fn, *inputs, **{"name": request.node.name, **options})
        request.config.stash[_REPORTS].append(report)
        if not report.passed:
            pytest.fail(report.text(), pytrace=False)
        return report

    return check


@pytest.fixture
def examine_loss() -> Callable[..., Any]:
    """`jaxloss.doctor.examine`; the test fails where the report has errors or checks that did not run."""
    from jaxloss.doctor import Report, examine

    def check(loss: Callable[..., Any], *arguments: Any, **options: Any) -> Report:
        __tracebackhide__ = True
        report = examine(loss, *arguments, **options)
        if not report.passed:
            pytest.fail(str(report), pytrace=False)
        return report

    return check


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the two options."""
    group = parser.getgroup("jaxloss")
    group.addoption("--parity-table", action="store_true", help="print a table of the parity errors")
    group.addoption("--parity-report", metavar="FILE", help="write that table to FILE as Markdown")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a report that cannot be written before any test runs."""
    config.stash[_REPORTS] = []
    path = config.getoption("--parity-report")
    if path and not Path(path).absolute().parent.is_dir():
        raise pytest.UsageError(f"--parity-report must be in a folder that exists; got {path}")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Show and write the table."""
    reports = config.stash[_REPORTS]
    if not reports:
        return
    table = table_of(reports)
    if config.getoption("--parity-table"):
        terminalreporter.section("parity of JAX and torch, errors in eps of the largest entry")
        terminalreporter.write_line(table.text())
    if path := config.getoption("--parity-report"):
        Path(path).write_text(table.markdown() + "\n")
