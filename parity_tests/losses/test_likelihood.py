"""The Gaussian and Poisson likelihoods against torch, at the edges of variance and count."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import torch_ref.losses
from jaxloss import losses
from parity_tests.compare import assert_same
from parity_tests.losses.promises import (
    EACH_REDUCTION,
    assert_half_precision_is_rounded_once,
    assert_masking_deletes,
    assert_matches_torch,
    assert_transforms,
)

rng = np.random.default_rng(0)
MEANS, TARGETS = (
    rng.integers(-1, 3, (4, 3)).astype(np.float64),
    rng.integers(-1, 3, (4, 3)).astype(np.float64),
)
# Zero, below and at eps: the gradient passes the bound in all.
VARIANCES = np.array([[0.0, 1e-7, 1e-6], [1.0, 2.0, 0.5], [1e4, 3.0, 0.1], [0.25, 1.0, 1.0]])
COUNTS = np.array([[0.0, 1.0, 2.0], [1.5, 0.5, 30.0], [0.0, 3.0, 1.0], [7.0, 2.0, 1.0]])
RATES = rng.random((4, 3)) * 3
MASK = rng.random((4, 3)) > 0.4


def test_gaussian_matches_torch():
    cases = [{"full": full} | each for full in (False, True) for each in EACH_REDUCTION]
    ours, theirs = losses.gaussian_nll_loss, torch_ref.losses.gaussian_nll_loss
    arrays = {"input": MEANS, "target": TARGETS, "var": VARIANCES}
    assert_matches_torch(ours, theirs, arrays, cases, wrt=arrays)
    del arrays["var"]
    assert_matches_torch(ours, theirs, arrays, [case | {"var": 0.5} for case in cases], wrt=arrays)


@pytest.mark.parametrize("log_input", [True, False])
def test_poisson_matches_torch(log_input):
    cases = [
        {"log_input": log_input, "full": full} | each for full in (True, False) for each in EACH_REDUCTION
    ]
    arrays = {"input": MEANS if log_input else RATES, "target": COUNTS}
    ours, theirs = losses.poisson_nll_loss, torch_ref.losses.poisson_nll_loss
    assert_matches_torch(ours, theirs, arrays, cases)


def test_where_equals_deletion_and_keeps_nan_out():
    arrays = {"input": MEANS, "target": TARGETS, "var": VARIANCES + 1.0}
    ours, theirs = losses.gaussian_nll_loss, torch_ref.losses.gaussian_nll_loss
    assert_masking_deletes(ours, theirs, arrays, MASK, {"full": True}, wrt=arrays)
    arrays = {"input": MEANS, "target": COUNTS}
    ours, theirs = losses.poisson_nll_loss, torch_ref.losses.poisson_nll_loss
    assert_masking_deletes(ours, theirs, arrays, MASK, {"full": True})


def test_gradient_of_a_variance_that_many_elements_share_is_rounded_once():
    many = np.random.default_rng(1).uniform(0.1, 0.9, (2, 3, 16384))
    variances = np.array([[0.5], [1.0], [2.0]])
    assert_half_precision_is_rounded_once(losses.gaussian_nll_loss, *many, variances, num_floats=3)


def test_variances_may_have_any_axes_of_size_1():
    input, target = np.arange(24.0).reshape(2, 3, 4), np.ones((2, 3, 4))
    for shape in ((2, 3), (1, 3, 4), (1, 1, 4), (2, 1, 1), (1, 1, 1), ()):
        var = np.arange(1.0, 1 + math.prod(shape)).reshape(shape)
        full = np.broadcast_to(var[..., None] if shape == (2, 3) else var, input.shape)
        expected = losses.gaussian_nll_loss(input, target, full, reduction="none")
        assert_same(losses.gaussian_nll_loss(input, target, var, reduction="none"), expected)
    # A number for all has no dtype of its own; an array has.
    single = input.astype(np.float32), target.astype(np.float32)
    kinds = (0.5, np.float64(0.5), np.array(0.5), jnp.float32(0.5), jnp.ones(()))
    assert [losses.gaussian_nll_loss(*single, var).dtype.name for var in kinds] == ["float32"] * 4 + [
        "float64"
    ]


def test_a_number_for_all_variances_has_no_dtype_of_its_own():
    means, targets = jnp.asarray(MEANS, "float32"), jnp.asarray(TARGETS)
    assert_same(
        losses.gaussian_nll_loss(means, targets, 0.1),
        losses.gaussian_nll_loss(means, targets, jnp.full((4, 3), 0.1)),
    )
    assert losses.gaussian_nll_loss(means, means, 0.1).dtype == "float32"


def test_infinite_variance_is_torchs():
    arrays = {"input": np.array([1.0, 2.0]), "target": np.zeros(2), "var": np.array([np.inf, 1.0])}
    ours, theirs = losses.gaussian_nll_loss, torch_ref.losses.gaussian_nll_loss
    assert_matches_torch(ours, theirs, arrays, [{"reduction": "none"}], wrt=arrays)


def test_gradient_of_a_count_that_is_none_is_that_of_the_formula():
    counts = jnp.array([-1.0, 0.0])
    gradient = jax.grad(losses.poisson_nll_loss, 1)(jnp.full(2, 3.0), counts, full=True, reduction="sum")
    assert gradient.tolist() == [-3, -3]


def test_negative_variance_poisons_its_element():
    variances = jnp.array([1.0, -1.0])
    value, pullback = jax.vjp(
        lambda v: losses.gaussian_nll_loss(jnp.zeros(2), jnp.ones(2), v, reduction="none"), variances
    )
    assert np.isnan(value).tolist() == [False, True]
    assert np.isfinite(pullback(jnp.ones(2))[0][0])


def test_transforms():
    assert_transforms(losses.poisson_nll_loss, MEANS[:2] * 0.7, COUNTS[:2], full=True)
    assert_transforms(losses.gaussian_nll_loss, MEANS[:2], TARGETS[:2], VARIANCES[1:3])


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        (
            "gaussian_nll_loss",
            {"var": np.ones((3, 3))},
            ValueError,
            r"var must be a number or have the shape of input, \[2, 3\]",
        ),
        ("gaussian_nll_loss", {"var": np.ones(1)}, ValueError, "var must be a number or have the shape"),
        ("gaussian_nll_loss", {"var": "1"}, TypeError, "var must be a number; got '1'"),
        ("gaussian_nll_loss", {"var": -1.0}, ValueError, r"var must be in \[0, inf"),
        ("gaussian_nll_loss", {"eps": -1.0}, ValueError, r"eps must be in \[0, inf"),
        ("gaussian_nll_loss", {"target": np.ones(3)}, ValueError, r"target must have shape \[2, 3\]"),
        ("gaussian_nll_loss", {"full": None}, TypeError, "full must be True or False"),
        ("poisson_nll_loss", {"log_input": "yes"}, TypeError, "log_input must be True or False"),
        ("poisson_nll_loss", {"target": np.ones((2, 3), bool)}, TypeError, "target must be floating point"),
        ("poisson_nll_loss", {"reduction": "avg"}, ValueError, "reduction must be one of"),
    ],
)
def test_bad_input_is_named_at_trace_time(name, change, error, message):
    good = {"input": np.zeros((2, 3)), "target": np.zeros((2, 3))}
    good |= {"var": np.ones((2, 3))} if name == "gaussian_nll_loss" else {}
    with pytest.raises(error, match=message):
        getattr(losses, name)(**(good | change))
