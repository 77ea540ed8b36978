"""Planted faults: each is found, by the check and with the finding that it must be."""

from functools import cache

import numpy as np
import pytest

from jaxloss.doctor.checks import CHECKS
from jaxloss.doctor.inputs import KINDS
from jaxloss.doctor.report import Report
from jaxloss.doctor.subject import Subject
from parity_tests.doctor.careless import CARELESS, USUAL, finding_of
from parity_tests.doctor.planted import page


def test_there_are_thirty():
    assert len(CARELESS) == 30


@cache
def findings_of(loss, check, kind, dtypes):
    with np.errstate(all="ignore"):
        return CHECKS[check](Subject(loss, KINDS[kind], dtypes, 600.0)).findings


@pytest.mark.parametrize("name", CARELESS)
def test_is_found_out_and_its_right_twin_is_not(name):
    own = CARELESS[name]
    findings = findings_of(own.loss, own.check, own.kind, own.dtypes)
    assert finding_of(name, findings), findings
    of_twin = findings_of(own.twin or USUAL[own.kind], own.check, own.kind, own.dtypes)
    assert not finding_of(name, of_twin), of_twin


def test_the_page_counts_what_is_missed():
    empty = Report("1 - p", "classes", ("float32",), (), {}, {}, "", 0.0, dict)
    text = page({"1 - p": empty})
    assert "**0 of 1 are found.**" in text
    assert "| 1 - p | classes | - | - | missed |  |" in text
