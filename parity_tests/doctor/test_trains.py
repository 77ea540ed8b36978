"""The widths of working learning rates, on losses for which they are known to be alike or to vanish."""

import sys

import numpy as np
import pytest

import jaxloss
from jaxloss.doctor.checks import trains
from jaxloss.doctor.inputs import KINDS
from jaxloss.doctor.subject import Subject


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    """Few rates, steps and seeds; what is compiled is the same."""
    monkeypatch.setattr(trains, "RATES", 10.0 ** np.arange(-3.0, 2.01, 0.5))
    trains.usual_scores.cache_clear()
    yield
    trains.usual_scores.cache_clear()


def examined(loss, kind):
    return trains.check(Subject(loss, KINDS[kind], ("float32",), 600.0))


def test_a_factor_moves_the_rates_that_work_by_sgd_and_keeps_their_number():
    usual = trains.usual_scores("real")
    scaled = trains.scores(lambda x, y: 10.0 * jaxloss.mse_loss(x, y), "real")
    widths = [trains.decades(scores[0, 0], 0.8).mean() for scores in (usual, scaled)]
    assert widths[0] == pytest.approx(widths[1], abs=trains.DECADES_BETWEEN)
    works = usual[0, 0, 2:] > 0.8
    assert works.sum() > 5
    np.testing.assert_allclose(scaled[0, 0, :-2][works], usual[0, 0, 2:][works], rtol=1e-5)


def test_a_loss_with_its_sign_wrong_learns_at_no_rate():
    result = examined(lambda a, b: -jaxloss.bradley_terry_loss(a, b), "pairs")
    (finding,) = result.findings
    assert finding.severity == "error"
    assert "at no learning rate" in finding.message


def test_without_optax_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "optax", None)
    with pytest.raises(ImportError, match="pip install optax"):
        examined(jaxloss.mse_loss, "real")


def test_a_kind_of_ones_own_is_left_out():
    spec = KINDS["real"].__class__(draw=KINDS["real"].draw)
    assert not trains.check(Subject(jaxloss.mse_loss, spec, ("float32",), 600.0)).findings
