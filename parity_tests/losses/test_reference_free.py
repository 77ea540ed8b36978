"""CPO, ORPO and SimPO against torch, and the odds ratio against 50 digits where probabilities are near 1."""

from itertools import product

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import torch_ref.losses
from jaxloss import losses
from jaxloss.numerics.log_odds import odds_ratio_loss
from parity_tests.losses import oracle
from parity_tests.losses.promises import (
    EACH_REDUCTION,
    assert_masking_deletes,
    assert_matches_torch,
    assert_transforms,
    compiled,
)
from parity_tests.tolerances import ACCURATE_GRADIENT_ULP, ACCURATE_VALUE_ULP

rng = np.random.default_rng(0)
LOGPS = {name: -rng.uniform(0.01, 4.0, 8) for name in ("chosen_logps", "rejected_logps")}
OPTIONS = {
    "cpo_loss": {"label_smoothing": 0.1, "nll_weight": 0.5, "beta": 2.0},
    "orpo_loss": {"nll_weight": 0.5, "beta": 2.0},
    "simpo_loss": {"label_smoothing": 0.1, "gamma": -0.5, "beta": 2.5},
}


def _pair(name):
    return getattr(losses, name), getattr(torch_ref.losses, name)


@pytest.mark.parametrize("name", OPTIONS)
def test_matches_torch(name):
    arrays = LOGPS | {"sample_weight": rng.uniform(size=8)}
    assert_matches_torch(*_pair(name), LOGPS, [{}], wrt=LOGPS)
    cases = [OPTIONS[name] | reduction for reduction in EACH_REDUCTION]
    assert_matches_torch(*_pair(name), arrays, cases, wrt=arrays)


@pytest.mark.parametrize("name", ["orpo_loss", "simpo_loss"])
def test_masking_deletes(name):
    assert_masking_deletes(*_pair(name), LOGPS, rng.random(8) > 0.4, wrt=LOGPS)


def test_cpo_without_imitation_is_dpo_of_a_uniform_reference():
    logps = [jnp.asarray(a) for a in LOGPS.values()]
    cpo = losses.cpo_loss(*logps, nll_weight=0.0)
    np.testing.assert_allclose(cpo, losses.dpo_loss(*logps, *[jnp.full(8, -2.0)] * 2), rtol=1e-14)


# From nearly certain, past even odds at log 1/2, to whole sequences without averages.
LOG_P = [-1e-9, -1e-7, -1e-3, -0.3, np.log(0.5), -1.0, -9.0, -30.0, -80.0]


def test_the_odds_ratio_has_all_its_digits():
    points = np.array([*product(LOG_P, LOG_P)], np.float32)
    both = jax.value_and_grad(odds_ratio_loss, (0, 1))
    value, gradient = compiled(jax.vmap(both))(*points.T)

    def exact(log_p, log_q):
        return mpmath.log1p(mpmath.expm1(-log_p[0]) / mpmath.expm1(-log_q[0]))

    truths = [oracle.derivatives(exact, *point[:, None]) for point in points]
    assert oracle.error_in_ulp(value, [truth[0] for truth in truths]).max() <= ACCURATE_VALUE_ULP
    expected = np.array([truth[1] for truth in truths], object).T
    assert oracle.error_in_ulp(np.stack(gradient), expected).max() <= ACCURATE_GRADIENT_ULP


def test_the_odds_ratio_of_improbable_sequences_is_that_of_the_probabilities():
    log_p, log_q = np.float32([-4000.0, -1e-30, -1.0]), np.float32([-3000.0, -2e-30, -1e-30])
    value, gradient = compiled(jax.vmap(jax.value_and_grad(odds_ratio_loss, (0, 1))))(log_p, log_q)
    np.testing.assert_allclose(value, [1000.0, np.log(1.5), np.log(1e30 * np.expm1(1.0))], rtol=5e-7)
    np.testing.assert_allclose(gradient[0], [-1.0, -1 / 3e-30, -1 / (1 - np.exp(-1.0))], rtol=5e-7)
    np.testing.assert_allclose(gradient[1], [1.0, 1 / 6e-30, 1e30], rtol=5e-7)


def test_a_certain_answer_still_has_the_gradient_of_its_odds():
    slope = compiled(jax.grad(odds_ratio_loss))(np.float32(0.0), np.float32(np.log(0.75)))
    np.testing.assert_allclose(slope, -3.0, rtol=1e-6)


@pytest.mark.parametrize("log_p", [0.0, -np.inf])
def test_answers_that_are_both_certain_or_both_impossible_have_no_odds_ratio(log_p):
    assert np.isnan(odds_ratio_loss(jnp.float32(log_p), jnp.float32(log_p)))


def test_transforms():
    assert_transforms(losses.orpo_loss, *LOGPS.values())


@pytest.mark.parametrize("name", OPTIONS)
def test_bad_arguments_are_named(name):
    loss, logps = getattr(losses, name), jnp.full(8, -1.0)
    with pytest.raises(ValueError, match=r"beta must be in \(0, inf\); got 0"):
        loss(logps, logps, beta=0)
    with pytest.raises(ValueError, match=r"rejected_logps must have shape \[8\], that of chosen_logps; got"):
        loss(logps, jnp.zeros(7))


def test_what_rounding_leaves_above_0_is_0():
    chosen, rejected = jnp.array([1e-5, 0.0]), jnp.array([-1.0, -1.0])
    rows = jax.vmap(jax.value_and_grad(losses.orpo_loss, (0, 1)))(chosen, rejected)
    for above, at in np.stack(jax.tree.leaves(rows)):
        assert above == at


def test_a_positive_number_is_no_log_probability():
    with pytest.raises(
        ValueError, match=r"chosen_logps\[1\] is 0.5, above 0, as no log-probability is; 1 of 2"
    ):
        losses.make_checked(losses.orpo_loss)(jnp.array([-0.5, 0.5]), jnp.full(2, -1.0))
