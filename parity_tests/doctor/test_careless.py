"""Planted faults: each is found, by the check and with the finding that it must be."""

import numpy as np
import pytest

from jaxloss.doctor.checks import CHECKS
from jaxloss.doctor.inputs import KINDS
from jaxloss.doctor.report import Report
from jaxloss.doctor.subject import Subject
from parity_tests.doctor.careless import CARELESS, finding_of
from parity_tests.doctor.planted import page


def test_there_are_thirty():
    assert len(CARELESS) == 30


@pytest.mark.parametrize("name", CARELESS)
def test_is_found_out(name):
    careless = CARELESS[name]
    subject = Subject(careless.loss, KINDS[careless.kind], careless.dtypes, 600.0)
    with np.errstate(all="ignore"):
        result = CHECKS[careless.check](subject)
    assert finding_of(name, result.findings), result.findings


def test_the_page_counts_what_is_missed():
    empty = Report("1 - p", "classes", ("float32",), (), {}, {}, "", 0.0, dict)
    text = page({"1 - p": empty})
    assert "**0 of 1 are found.**" in text
    assert "| 1 - p | classes | - | - | missed |  |" in text
