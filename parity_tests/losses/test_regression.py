"""l1_loss, mse_loss, smooth_l1_loss and huber_loss against torch, and where torch does not reach."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import torch_ref.losses
from jaxloss import losses
from parity_tests.compare import assert_same
from parity_tests.losses.promises import (
    EACH_REDUCTION,
    assert_masking_deletes,
    assert_matches_torch,
    assert_transforms,
    run_jax,
    run_torch,
)

LOSSES = ["l1_loss", "mse_loss"]
SHAPE = (4, 3)
rng = np.random.default_rng(0)
MASK = rng.random(SHAPE) > 0.4
WEIGHT = rng.random(SHAPE)
INPUTS = {
    "small": (rng.standard_normal(SHAPE) * 0.02, rng.standard_normal(SHAPE) * 0.02),
    "large": (rng.standard_normal(SHAPE) * 1e4, rng.standard_normal(SHAPE)),
    # Ties, where the gradient has its kink.
    "grid": tuple(rng.integers(-1, 2, SHAPE).astype(np.float64) for _ in range(2)),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", INPUTS)
def test_matches_torch(name, scale):
    input, target = INPUTS[scale]
    for weighted in ({}, {"weight": WEIGHT}):
        arrays = {"input": input, "target": target} | weighted
        ours, theirs = getattr(losses, name), getattr(torch_ref.losses, name)
        assert_matches_torch(ours, theirs, arrays, EACH_REDUCTION, wrt=arrays)


# Where the square ends: at the kinks of the grid, between them, and nowhere.
@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(("smooth_l1_loss", {"beta": beta}) for beta in (0.0, 0.5, 1.0, 2.5)),
        *(("huber_loss", {"delta": delta}) for delta in (0.5, 1.0, 2.5)),
    ],
)
def test_rounded_off_losses_match_torch(name, options):
    ours, theirs = getattr(losses, name), getattr(torch_ref.losses, name)
    input, target = (np.concatenate(arrays) for arrays in zip(*INPUTS.values(), strict=True))
    weighted = {"weight": np.tile(WEIGHT, (len(INPUTS), 1))} if name == "huber_loss" else {}
    cases = [options, options | {"reduction": "none"}]
    for more in ({}, weighted)[: 1 + bool(weighted)]:
        arrays = {"input": input, "target": target} | more
        assert_matches_torch(ours, theirs, arrays, cases, wrt=arrays)


def test_smooth_l1_loss_has_a_second_derivative_at_beta_0():
    def loss(x):
        return losses.smooth_l1_loss(x, jnp.zeros(2), beta=0.0, reduction="sum")

    # In reverse mode twice, where a division by beta would give 0 / 0.
    hessian = jax.jacrev(jax.grad(loss))(jnp.array([1.0, -2.0]))
    np.testing.assert_array_equal(hessian, np.zeros((2, 2)))


@pytest.mark.parametrize("beta", [1e-50, 1e-30, 1.0, 1e20, 1e30])
def test_smooth_l1_loss_is_accurate_for_any_beta(beta):
    error = np.array([0.0, 1e-35, 1e-10, 0.5, 1e10, 1e25, -1e10], np.float32)
    value, (gradient,) = run_jax(
        losses.smooth_l1_loss,
        {"input": error, "target": error * 0},
        {"reduction": "none", "beta": beta},
        ["input"],
    )
    size = np.abs(error).astype(np.float64)
    expected = np.where(size < beta, size**2 / (2 * beta), size - beta / 2)
    np.testing.assert_allclose(value, expected, rtol=3e-7, atol=1e-37)
    np.testing.assert_allclose(gradient, np.sign(error) * np.minimum(size / beta, 1.0), rtol=3e-7, atol=1e-37)


@pytest.mark.parametrize("name", ["smooth_l1_loss", "huber_loss"])
def test_rounded_off_losses_pull_no_harder_from_infinity(name):
    arrays = {"input": np.array([np.inf, -np.inf, np.nan, 3.0]), "target": np.zeros(4)}
    options = {"reduction": "none"}
    value, (gradient,) = run_jax(getattr(losses, name), arrays, options, ["input"])
    expected, (expected_gradient,) = run_torch(getattr(torch_ref.losses, name), arrays, options, ["input"])
    assert_same(value, expected)
    assert_same(gradient[:2], expected_gradient[:2])
    assert_same(gradient[3], expected_gradient[3])
    assert jnp.isnan(gradient[2])


@pytest.mark.parametrize("name", [*LOSSES, "smooth_l1_loss", "huber_loss"])
def test_where_equals_deletion_and_keeps_nan_out(name):
    input, target = INPUTS["grid"]
    weighted = {} if name == "smooth_l1_loss" else {"weight": WEIGHT}
    for arrays in ({"input": input, "target": target}, {"input": input, "target": target} | weighted):
        assert_masking_deletes(
            getattr(losses, name), getattr(torch_ref.losses, name), arrays, MASK, wrt=arrays
        )


def test_target_five_prediction_two_is_three_and_nine():
    assert losses.l1_loss(jnp.array(2.0), jnp.array(5.0)) == 3
    assert losses.mse_loss(jnp.array(2.0), jnp.array(5.0)) == 9


def test_l1_gradient_is_zero_where_the_error_is():
    assert jax.grad(losses.l1_loss)(jnp.array(3.0), jnp.array(3.0)) == 0


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_neither_overflows_nor_rounds_the_loss(name, dtype):
    input = jnp.asarray([6e4, -6e4, 1.0], dtype)
    target = jnp.asarray([-6e4, 6e4, 0.0], dtype)
    value, gradient = jax.value_and_grad(getattr(losses, name))(input, target)
    assert value.dtype == jnp.float32
    assert gradient.dtype == dtype
    assert_same(value, getattr(losses, name)(input.astype(jnp.float32), target.astype(jnp.float32)))


def test_mixed_dtypes_are_computed_in_the_wider():
    input, target = jnp.ones(3, jnp.float32) / 3, jnp.ones(3, jnp.float64) / 3
    assert losses.l1_loss(input, target).dtype == jnp.float64
    gradient = jax.grad(losses.l1_loss, (0, 1))(input, target)
    assert [g.dtype for g in gradient] == [jnp.float32, jnp.float64]


@pytest.mark.parametrize("name", LOSSES)
def test_infinities_are_torchs_and_nan_stays_visible(name):
    values = [0.0, 1.0, np.inf, -np.inf, np.nan]
    input, target = (np.array(v) for v in zip(*itertools.product(values, values), strict=True))
    arrays, options = {"input": input, "target": target}, {"reduction": "none"}
    value, (gradient,) = run_jax(getattr(losses, name), arrays, options, ["input"])
    expected, (expected_gradient,) = run_torch(getattr(torch_ref.losses, name), arrays, options, ["input"])
    assert_same(value, expected)
    finite_or_mse = ~np.isnan(expected.detach().numpy()) | (name == "mse_loss")
    assert_same(gradient[finite_or_mse], expected_gradient[torch.tensor(finite_or_mse)])
    assert jnp.isnan(gradient[~finite_or_mse]).all()


@pytest.mark.parametrize("name", LOSSES)
def test_empty_input_averages_to_nan_and_sums_to_zero(name):
    loss, empty = getattr(losses, name), jnp.zeros((0, 3))
    assert jnp.isnan(loss(empty, empty))
    assert loss(empty, empty, reduction="sum") == 0
    assert jnp.isnan(loss(jnp.ones(3), jnp.ones(3), where=jnp.zeros(3, bool)))
    assert_same(jax.grad(loss)(jnp.ones(3), jnp.zeros(3), where=jnp.zeros(3, bool)), np.zeros(3))


@pytest.mark.parametrize("name", LOSSES)
def test_transforms(name):
    input, target = INPUTS["small"]
    assert_transforms(getattr(losses, name), input[:2] * 50, target[:2] * 50)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"target": np.zeros((1, 3))}, ValueError, r"target must have shape \[2, 3\].*got float64\[1, 3\]"),
        ({"target": np.zeros(())}, ValueError, r"target must have shape \[2, 3\].*got float64\[\]"),
        ({"target": np.zeros((2, 3), bool)}, TypeError, r"target must be floating point; got bool\[2, 3\]"),
        ({"input": np.zeros((2, 3), complex)}, TypeError, "input must be floating point; got complex128"),
        ({"input": np.array(1)}, TypeError, r"input must be floating point"),
        ({"weight": np.zeros(3)}, ValueError, r"weight must have shape \[2, 3\]"),
        ({"where": np.ones((2, 1), bool)}, ValueError, r"where must have shape \[2, 3\]"),
        ({"where": np.ones((2, 3))}, TypeError, "where must be boolean"),
        ({"reduction": "batchmean"}, ValueError, "reduction must be one of 'none', 'mean', 'sum'"),
    ],
)
def test_bad_input_is_named_at_trace_time(name, change, error, message):
    with pytest.raises(error, match=message):
        getattr(losses, name)(**({"input": np.zeros((2, 3)), "target": np.zeros((2, 3))} | change))
