"""The harness finds planted bugs, names their causes, and leaves correct pairs alone."""

import pytest

from jaxloss.testing import assert_parity
from parity_tests.testing.broken_pairs import BUGS
from parity_tests.testing.correct_pairs import CORRECT
from parity_tests.testing.reported_pairs import REPORTED


def test_there_are_at_least_25_of_each():
    assert len(BUGS) >= 25
    assert len(CORRECT) >= 25


@pytest.mark.parametrize(("pair", "cause"), BUGS + REPORTED, ids=[pair.name for pair, _ in BUGS + REPORTED])
def test_planted_bug_is_found_and_its_cause_named(pair, cause):
    # float64 alone separates all but the smallest from rounding, and halves the time.
    report = pair.check(dtypes="float64")
    assert not report.passed, report.text()
    if cause is not None:
        assert cause in (report.cause or ""), report.text()


@pytest.mark.parametrize("pair", CORRECT, ids=[pair.name for pair in CORRECT])
def test_correct_pair_raises_no_alarm(pair):
    report = pair.check()
    assert report.passed, report.text()


def test_assert_parity_says_where_both_values_and_why():
    pair, _ = BUGS[0]
    with pytest.raises(AssertionError) as caught:
        assert_parity(pair.jax_fn, pair.torch_fn, *pair.inputs, name=pair.name)
    message = str(caught.value)
    for expected in (
        "mse over rows",
        "DISAGREE",
        "gradient of input 1",
        "worst in float64: value at []",
        "ULP",
    ):
        assert expected in message
