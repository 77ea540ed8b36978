"""kl_div against torch, and where torch is wrong."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloss.losses import kl_div
from parity_tests.compare import assert_same, assert_within
from parity_tests.losses.promises import (
    assert_masking_deletes,
    assert_matches_torch,
    assert_transforms,
    run_jax,
    run_torch,
)
from parity_tests.tolerances import GRADIENT_EPS_OF_MAX, VALUE_EPS_OF_MAX
from torch_ref.losses import kl_div as torch_kl_div

REDUCTIONS = ["mean", "sum", "none", "batchmean"]
SHAPE = (4, 5)
rng = np.random.default_rng(0)
LOG_Q = np.log(rng.dirichlet(np.ones(5), 4))
P = rng.dirichlet(np.ones(5), 4)
MASK = rng.random(SHAPE) > 0.4
MASK[2] = False


@pytest.mark.parametrize("log_target", [False, True])
def test_matches_torch(log_target):
    arrays = {"input": LOG_Q, "target": np.log(P) if log_target else P}
    cases = [{"reduction": reduction, "log_target": log_target} for reduction in REDUCTIONS]
    assert_matches_torch(kl_div, torch_kl_div, arrays, cases, wrt=arrays)


def test_of_a_scalar_matches_torch():
    arrays = {"input": np.array(LOG_Q[0, 0]), "target": np.array(P[0, 0])}
    cases = [{"reduction": reduction} for reduction in REDUCTIONS]
    assert_matches_torch(kl_div, torch_kl_div, arrays, cases, wrt=arrays)


@pytest.mark.parametrize("log_target", [False, True])
def test_where_equals_deletion_and_keeps_nan_out(log_target):
    arrays = {"input": LOG_Q, "target": np.log(P) if log_target else P}
    options = {"log_target": log_target}
    assert_masking_deletes(kl_div, torch_kl_div, arrays, MASK, options, wrt=arrays)
    # A row of which nothing is left counts no more: 3 of 4 rows have elements.
    clean = arrays | {"where": MASK}
    poisoned = clean | {name: np.where(MASK, array, np.nan) for name, array in arrays.items()}
    total, total_gradients = run_jax(kl_div, poisoned, options | {"reduction": "sum"}, arrays)
    options |= {"reduction": "batchmean"}
    for value, gradients in (
        run_jax(kl_div, poisoned, options, arrays),
        run_torch(torch_kl_div, clean, options, arrays),
    ):
        assert_within(value, total / 3, VALUE_EPS_OF_MAX)
        for gradient, of_total in zip(gradients, total_gradients, strict=True):
            assert_within(gradient, of_total / 3, GRADIENT_EPS_OF_MAX)


def test_batchmean_is_the_divergence():
    expected = np.sum(P * (np.log(P) - LOG_Q), axis=1).mean()
    assert_within(kl_div(jnp.asarray(LOG_Q), jnp.asarray(P), "batchmean"), expected, VALUE_EPS_OF_MAX)
    assert expected > 0
    assert_within(kl_div(jnp.log(P), jnp.asarray(P), "sum"), 0.0, VALUE_EPS_OF_MAX, scale=1.0)


def test_log_target_is_the_same_divergence():
    for reduction in REDUCTIONS:
        plain = kl_div(jnp.asarray(LOG_Q), jnp.asarray(P), reduction)
        assert_within(kl_div(jnp.asarray(LOG_Q), jnp.log(P), reduction, log_target=True), plain, 16)


def test_zero_target_contributes_zero_and_has_a_finite_gradient():
    arrays = {"input": np.array([-1.0, -np.inf, -2.0]), "target": np.array([0.0, 0.0, 0.5])}
    value, (d_input, d_target) = run_jax(kl_div, arrays, {"reduction": "none"}, ["input", "target"])
    assert_same(value[:2], [0.0, 0.0])
    assert_same(d_input, [0.0, 0.0, -0.5])
    assert_within(d_target[:2], [np.log(np.finfo(np.float64).tiny) + 2, 0.0], 4)
    # The slope at small targets leads there.
    slopes = jax.vmap(jax.grad(kl_div, 1), (None, 0))(jnp.array(-1.0), jnp.array([1e-3, 1e-30, 1e-300]))
    assert_within(slopes, np.log([1e-3, 1e-30, 1e-300]) + 2, 4)


def test_zero_target_leaves_the_input_gradient_clean_under_jit():
    gradient = jax.jit(jax.grad(kl_div))(jnp.array([-1.0, -jnp.inf, -2.0]), jnp.array([0.0, 0.0, 0.5]))
    assert_same(gradient, np.array([0.0, 0.0, -0.5]) / 3)


def test_log_target_of_minus_infinity_contributes_zero_in_value_and_gradient():
    arrays = {"input": np.array([-1.0, -np.inf, -2.0]), "target": np.array([-np.inf, -np.inf, -0.5])}
    options = {"reduction": "none", "log_target": True}
    value, (d_input, d_target) = run_jax(kl_div, arrays, options, ["input", "target"])
    for got in (value, d_input, d_target):
        assert_same(got[:2], [0.0, 0.0])
        assert jnp.isfinite(got[2])


@pytest.mark.parametrize("log_target", [False, True])
def test_other_infinities_and_nan_are_torchs(log_target):
    inputs = [0.0, -1.0, np.inf, -np.inf, np.nan]
    # An infinite probability is none; what torch makes of it depends on how it multiplies the formula out.
    targets = [0.5, -0.5, np.nan] + ([np.inf] if log_target else [])
    input, target = (np.array(v) for v in zip(*itertools.product(inputs, targets), strict=True))
    arrays = {"input": input, "target": target}
    options = {"reduction": "none", "log_target": log_target}
    value, (gradient,) = run_jax(kl_div, arrays, options, ["input"])
    expected, (expected_gradient,) = run_torch(torch_kl_div, arrays, options, ["input"])
    assert_within(value, expected, 4)
    assert_within(gradient, expected_gradient, 4)


def test_half_precision_returns_float32_and_gradients_in_the_input_dtype():
    arrays = (jnp.asarray(LOG_Q, jnp.bfloat16), jnp.asarray(P, jnp.float16))
    value, gradients = jax.value_and_grad(kl_div, (0, 1))(*arrays)
    assert value.dtype == jnp.float32
    assert [g.dtype for g in gradients] == [jnp.bfloat16, jnp.float16]
    assert_same(value, kl_div(*(a.astype(jnp.float32) for a in arrays)))


def test_nothing_to_average_is_nan():
    empty = jnp.zeros((0, 3))
    for reduction in ("mean", "batchmean"):
        assert jnp.isnan(kl_div(empty, empty, reduction))
        assert jnp.isnan(kl_div(jnp.ones(3), jnp.ones(3), reduction, where=jnp.zeros(3, bool)))
    assert kl_div(empty, empty, "sum") == 0


@pytest.mark.parametrize("log_target", [False, True])
def test_transforms(log_target):
    target = np.log(P[:2]) if log_target else P[:2]
    assert_transforms(kl_div, LOG_Q[:2], target, log_target=log_target)
    # Away from 0, where third derivatives would spoil the central difference.
    target = np.log(P[:2] + 0.1) if log_target else P[:2] + 0.1
    assert_transforms(lambda t, x: kl_div(x, t, log_target=log_target), target, LOG_Q[:2])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"target": np.zeros((1, 3))}, ValueError, r"target must have shape \[2, 3\].*got float64\[1, 3\]"),
        ({"target": np.zeros((2, 3), int)}, TypeError, "target must be floating point"),
        ({"reduction": "batch_mean"}, ValueError, "Did you mean 'batchmean'"),
        ({"log_target": "yes"}, TypeError, "log_target must be True or False; got 'yes'"),
        ({"where": np.ones(2, bool)}, ValueError, r"where must have shape \[2, 3\]"),
    ],
)
def test_bad_input_is_named_at_trace_time(change, error, message):
    with pytest.raises(error, match=message):
        kl_div(**({"input": np.zeros((2, 3)), "target": np.zeros((2, 3))} | change))
