"""Penalties on logits against torch, and where torch does not reach."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import torch

from jaxloss.losses import penalties as sources
from jaxloss.losses.classification import cross_entropy
from parity_tests.compare import assert_same, assert_within
from parity_tests.losses.promises import (
    EACH_REDUCTION,
    as_a_whole,
    assert_accurate,
    assert_class_axis_is_free,
    assert_half_precision_is_rounded_once,
    assert_masking_deletes,
    assert_matches_torch,
    assert_transforms,
    exact_softmax,
)
from parity_tests.tolerances import ACCURATE_VALUE_ULP, VALUE_EPS_OF_MAX
from torch_ref.losses import penalties as torch_side

entropy_loss = as_a_whole(sources.entropy_loss)
z_loss = as_a_whole(sources.z_loss)
unlikelihood_loss = as_a_whole(sources.unlikelihood_loss)
token_set_loss = as_a_whole(sources.token_set_loss)
previous_tokens = as_a_whole(sources.previous_tokens)

N, V = 7, 5
rng = np.random.default_rng(0)
LOGITS = rng.standard_normal((N, V)) * 3.0
GRID = rng.integers(-1, 2, (N, V)).astype(np.float64)
AVOID = np.array([[0, 1, -100], [4, 4, 2], [3, -100, -100], [-100] * 3, [1, 2, 3], [0, 3, -100], [2, 1, 4]])
SET = np.array([True, False, True, False, False])
SETS = rng.integers(0, 2, (N, V)).astype(bool)
SETS[:, :2] = [True, False]
SAMPLE_WEIGHT = np.array([1.0, 0.5, 2.0, 1.0, 3.0, 0.0, 0.25])
MASK = np.array([True, False, True, True, True, False, True])


def test_penalties_match_torch():
    arrays = {"input": LOGITS, "sample_weight": SAMPLE_WEIGHT}
    wrt = ("input", "sample_weight")
    assert_matches_torch(z_loss, torch_side.z_loss, arrays, EACH_REDUCTION, wrt=wrt)
    assert_matches_torch(entropy_loss, torch_side.entropy_loss, arrays, EACH_REDUCTION, wrt=wrt)
    arrays |= {"input": GRID, "target": AVOID}
    assert_matches_torch(unlikelihood_loss, torch_side.unlikelihood_loss, arrays, EACH_REDUCTION, wrt=wrt)


def test_token_set_loss_matches_torch():
    arrays = {"input": LOGITS, "sample_weight": SAMPLE_WEIGHT, "token_set": SETS}
    cases = [{"mass": 0.3, "reduction": "none"}, {"mass": 1.0}, {"mass": 0.0}]
    wrt = ("input", "sample_weight")
    assert_matches_torch(token_set_loss, torch_side.token_set_loss, arrays, cases, wrt=wrt)


def test_previous_tokens_match_torch():
    tokens = rng.integers(0, 4, (2, 3, 9))
    tokens[0, 1, 2:4] = -100
    expected = torch_side.previous_tokens(torch.tensor(tokens))
    assert_same(jax.jit(previous_tokens)(jnp.asarray(tokens)), expected)


@pytest.mark.parametrize("loss", [entropy_loss, z_loss])
def test_penalties_without_labels_take_any_class_axis(loss):
    assert_class_axis_is_free(loss, LOGITS)


def test_entropy_loss_is_accurate_from_near_uniform_to_confident():
    """Its gradient is `p (log p + H)`, of which the bracket cancels near-uniform, and `H` where confident."""
    logits = rng.standard_normal((6, 5)) * [[1e-3], [0.02], [1.0], [5.0], [1.0], [1.0]]
    logits[3:, 2] += [20.0, 60.0, 85.0]
    logits[4] += 1000.0

    def exact(z):
        return mpmath.fsum(p * mpmath.log(p) for p in exact_softmax(z) if p)

    arrays = [np.float32(logits)]
    assert_accurate(entropy_loss, exact, arrays, value_ulp=ACCURATE_VALUE_ULP, gradient_eps_of_max=64)


@pytest.mark.parametrize("loss", [entropy_loss, z_loss, unlikelihood_loss, token_set_loss])
def test_where_equals_deletion_and_keeps_nan_out(loss):
    arrays = {"input": LOGITS, "sample_weight": SAMPLE_WEIGHT}
    arrays |= {"target": AVOID} if loss is unlikelihood_loss else {}
    arrays |= {"token_set": SET} if loss is token_set_loss else {}
    theirs = getattr(torch_side, loss.__name__)
    assert_masking_deletes(loss, theirs, arrays, MASK, wrt=("input", "sample_weight"))


def test_half_precision_is_computed_in_float32_and_its_gradient_rounded_once():
    assert_half_precision_is_rounded_once(z_loss, LOGITS)
    assert_half_precision_is_rounded_once(unlikelihood_loss, LOGITS, AVOID)
    assert_half_precision_is_rounded_once(token_set_loss, LOGITS, SET)


def test_z_loss_is_0_for_log_probabilities_and_sees_a_shift():
    log_probs = jax.nn.log_softmax(jnp.asarray(LOGITS))
    assert z_loss(log_probs) < 1e-30
    assert_within(z_loss(log_probs - 2.0), 4.0, 64, "float64")


def test_avoiding_all_but_one_of_two_classes_is_cross_entropy():
    logits = jnp.asarray(LOGITS[:, :2])
    value = unlikelihood_loss(logits, jnp.zeros((N, 1), int), reduction="none")
    assert_within(value, cross_entropy(logits, jnp.ones(N, int), reduction="none"), VALUE_EPS_OF_MAX)


def test_a_set_of_one_token_is_cross_entropy_and_its_opposite_unlikelihood():
    logits, token_set = jnp.asarray(LOGITS), jnp.arange(V) == 3
    label = jnp.full(N, 3)
    towards = token_set_loss(logits, token_set, reduction="none")
    assert_within(towards, cross_entropy(logits, label, reduction="none"), VALUE_EPS_OF_MAX)
    away = token_set_loss(logits, token_set, mass=0.0, reduction="none")
    expected = unlikelihood_loss(logits, label[:, None], reduction="none")
    assert_within(away, expected, VALUE_EPS_OF_MAX)
    assert_within(
        token_set_loss(logits, ~token_set, mass=0.25), token_set_loss(logits, token_set, mass=0.75), 16
    )


def test_the_wanted_mass_is_the_minimum():
    logits = jnp.log(jnp.array([[0.2, 0.1, 0.3, 0.4, 1e-300]]))
    value, gradient = jax.value_and_grad(token_set_loss)(logits, jnp.asarray(SET), mass=0.5)
    assert 0 <= value < 1e-30
    assert jnp.abs(gradient).max() < 1e-15


def test_a_model_sure_of_a_token_to_avoid_is_accurate():
    margins = [-80.0, -17.0, 0.0, 1.0, 17.0, 80.0, 1e4]
    logits = np.array([[margin, 0.5, -1.0, 0.5] for margin in margins], np.float32)
    logits = np.concatenate([logits, logits - 100.0])

    def exact(z):
        p = exact_softmax(z)
        others = [mpmath.fsum(p[:k] + p[k + 1 :]) for k in range(4)]
        return -mpmath.log(others[0]) - mpmath.log(others[1])

    labels = np.array([0, 1, -100])
    assert_accurate(
        lambda z: unlikelihood_loss(z, labels), exact, [logits], value_ulp=8, gradient_eps_of_max=32
    )
    together = unlikelihood_loss(jnp.asarray(logits), np.tile(labels, (14, 1)), reduction="none")
    alone = jax.vmap(lambda z: unlikelihood_loss(z, labels))(jnp.asarray(logits))
    np.testing.assert_allclose(together, alone, rtol=1e-6)


@pytest.mark.parametrize("mass", [0.0, 0.5, 1.0])
def test_token_set_loss_is_accurate_when_the_set_has_all_or_nothing(mass):
    logits = np.array([[m, m - 1, 0.5, -1.0] for m in (-80.0, -17.0, 0.0, 5.0, 40.0, 1e4)], np.float32)

    def exact(z):
        p = exact_softmax(z)
        masses = [mpmath.fsum(p[:2]), mpmath.fsum(p[2:])]
        wanted = [mpmath.mpf(mass), 1 - mpmath.mpf(mass)]
        return mpmath.fsum(w * mpmath.log(w / m) for w, m in zip(wanted, masses, strict=True) if w > 0)

    assert_accurate(
        lambda z: token_set_loss(z, jnp.array([True, True, False, False]), mass=mass),
        exact,
        [logits],
        value_ulp=64,
        gradient_eps_of_max=64,
    )


def test_the_only_possible_token_cannot_be_avoided_but_harms_no_other_row():
    logits = np.zeros((N, V))
    logits[1] = [0.0, -np.inf, -np.inf, -np.inf, -np.inf]
    logits[2] = [-np.inf, 0.0, -np.inf, 1.0, 2.0]
    rows, pullback = jax.vjp(
        lambda z: unlikelihood_loss(z, jnp.zeros((N, 1), int), reduction="none"), jnp.asarray(logits)
    )
    assert_same(jnp.isposinf(rows), np.arange(N) == 1)
    assert rows[2] == 0
    assert jnp.isfinite(pullback(jnp.ones(N))[0]).all()


def test_token_outside_the_vocabulary_poisons_value_and_gradient():
    avoid = np.where(AVOID == 4, V, AVOID)
    rows, pullback = jax.vjp(
        lambda z: unlikelihood_loss(z, jnp.asarray(avoid), reduction="none"), jnp.asarray(LOGITS)
    )
    is_wrong = (avoid == V).any(-1)
    assert_same(jnp.isnan(rows), is_wrong)
    assert_same(jnp.isnan(pullback(jnp.ones(N))[0]).any(-1), is_wrong)


def test_empty_and_full_token_sets():
    logits, nothing = jnp.asarray(LOGITS), jnp.zeros(V, bool)
    assert token_set_loss(logits, nothing) == jnp.inf
    value, gradient = jax.value_and_grad(token_set_loss)(logits, nothing, mass=0.0)
    assert value == 0
    assert_same(gradient, np.zeros((N, V)))
    assert token_set_loss(logits, ~nothing, mass=1.0) == 0


def test_nothing_to_average_is_nan():
    nowhere = jnp.zeros(N, bool)
    assert jnp.isnan(z_loss(jnp.asarray(LOGITS), where=nowhere))
    assert jnp.isnan(unlikelihood_loss(jnp.asarray(LOGITS), jnp.asarray(AVOID), where=nowhere))
    assert token_set_loss(jnp.asarray(LOGITS), jnp.asarray(SET), reduction="sum", where=nowhere) == 0
    assert unlikelihood_loss(jnp.asarray(LOGITS), jnp.zeros((N, 0), int)) == 0


@pytest.mark.parametrize("members", [[True, False, False], [False, True, True]])
def test_a_set_of_impossible_tokens_has_a_finite_gradient(members):
    logits, token_set = jnp.array([[-jnp.inf, 0.0, 1.0]]), jnp.array(members)
    within_reach = 0.0 if members[0] else 1.0
    value, gradient = jax.value_and_grad(token_set_loss)(logits, token_set, mass=within_reach)
    assert value == 0
    assert_same(gradient, np.zeros((1, 3)))
    value, gradient = jax.value_and_grad(token_set_loss)(logits, token_set, mass=1 - within_reach)
    assert value == jnp.inf
    assert not jnp.isnan(gradient).any()


def test_transforms():
    assert_transforms(z_loss, LOGITS)
    assert_transforms(unlikelihood_loss, LOGITS, AVOID)
    assert_transforms(token_set_loss, LOGITS, SETS, mass=0.3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: z_loss(np.zeros((2, 3), int)), TypeError, "input must be floating point"),
        (lambda: z_loss(np.zeros(())), ValueError, "input must have a class axis"),
        (
            lambda: unlikelihood_loss(np.zeros((2, 3)), np.zeros(2, int)),
            ValueError,
            r"shape \[2, 'K'\].*int64\[2\]",
        ),
        (lambda: unlikelihood_loss(np.zeros((2, 3)), np.zeros((3, 1), int)), ValueError, r"\[2, 'K'\]"),
        (lambda: unlikelihood_loss(np.zeros((2, 3)), np.zeros((2, 1))), TypeError, "target must hold class"),
        (
            lambda: token_set_loss(np.zeros((2, 3)), np.ones(2, bool)),
            ValueError,
            r"token_set must have shape \[3\]",
        ),
        (lambda: token_set_loss(np.zeros((2, 3)), np.ones(3)), TypeError, "token_set must be boolean"),
        (
            lambda: token_set_loss(np.zeros((2, 3)), None),
            TypeError,
            "token_set must be a boolean array; got None",
        ),
        (
            lambda: token_set_loss(np.zeros((2, 3)), np.ones(3, bool), mass=1.5),
            ValueError,
            r"mass must be in \[0, 1\]",
        ),
        (lambda: z_loss(np.zeros((2, 0))), ValueError, r"at least one class; got float64\[2, 0\]"),
        (
            lambda: unlikelihood_loss(np.zeros((2, 0)), np.zeros((2, 1), int)),
            ValueError,
            "input must have at least one class",
        ),
        (
            lambda: token_set_loss(np.zeros((2, 0)), np.ones(0, bool)),
            ValueError,
            "input must have at least one class",
        ),
        (lambda: previous_tokens(np.zeros(3)), TypeError, "target must hold class indices"),
        (lambda: previous_tokens(np.array(3)), ValueError, r"target must have shape \[..., T\]"),
    ],
)
def test_bad_input_is_named_at_trace_time(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(("members", "mass", "slope"), [(False, 0.0, np.inf), (True, 1.0, -np.inf)])
def test_the_slope_of_a_mass_that_a_set_cannot_leave_is_infinite(members, mass, slope):
    token_set = jnp.full(3, members)
    for logits in (jnp.array([[1.0, 0.0, 2.0]]), jnp.array([[5.0, 0.0, 2.0]])):
        of_mass = jax.grad(lambda mass, x=logits: sources.token_set_loss(x, token_set, mass=mass))
        assert of_mass(mass) == slope
