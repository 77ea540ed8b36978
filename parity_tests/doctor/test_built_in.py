"""The library's own losses have no error; all checks of all of them are `make doctor`."""

import re

import pytest

from jaxloss.doctor import Finding, Report, examine
from jaxloss.doctor.checks import CHECKS
from parity_tests.doctor.__main__ import PAGE, page
from parity_tests.doctor.built_in import EXPECTED, LOSSES


@pytest.mark.parametrize("name", ["smooth_l1_loss", "gaussian_nll_loss", "margin_ranking_loss", "cpo_loss"])
def test_has_no_error(name):
    loss, kind = LOSSES[name]
    checks = ["gradient", "gradient_size", "kinks", "invariances"]
    report = examine(loss, kind, checks=checks, dtypes=["float32"], budget_seconds=600)
    assert (report.errors, report.left_out) == ((), {})
    assert report.measured["gradient"]["error against differences"] < 1e-9


def test_expected_errors_are_of_losses_and_checks_that_there_are():
    assert all(name in LOSSES and check in CHECKS for name, check in EXPECTED)


def test_the_page_has_a_row_for_each_loss():
    rows = re.findall(r"^\| `(.*?)` \|", PAGE.read_text().partition("## Rates")[0], re.MULTILINE)
    assert rows == list(LOSSES)


def test_the_page_is_made_of_the_reports():
    finding = Finding("kinks", "note", "a kink at 0", 2.0, "(0.)", "smooth it")
    measured = {"curvature": {"Lipschitz constant": 1.25}, "meaning": {"best prediction": "the median"}}
    report = Report("l1", "real", (), (finding,), measured, {"trains": "no time"}, "", 1.0, dict)
    text = page({"l1": report})
    assert "| `l1` | real | the median | - | 1.25 |" in text
    assert "- `l1`, note, kinks: a kink at 0\n- `l1`, left out, trains: no time" in text
    assert all(f"- `{name}`, {check}: {why}" in text for (name, check), why in EXPECTED.items())
