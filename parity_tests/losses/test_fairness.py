"""group_gap_penalty against torch, and where groups are empty or wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloss.losses.fairness import group_gap_penalty
from parity_tests.compare import assert_same, assert_within
from parity_tests.losses.promises import (
    assert_half_precision_is_rounded_once,
    assert_matches_torch,
    assert_transforms,
)
from parity_tests.tolerances import GRADIENT_EPS_OF_MAX, VALUE_EPS_OF_MAX
from torch_ref.losses import fairness as torch_side

rng = np.random.default_rng(0)
LOSSES = rng.uniform(size=9) * 3
GROUPS = np.array([0, 2, 2, 0, -100, 4, 4, 0, 2])
WEIGHT = np.array([1.0, 2.0, 0.5, 1.0, 1.0, 3.0, 1.0, 0.0, 1.0])
MASK = np.array([True, True, False, True, True, True, True, False, True])
MEASURES = ["range", "variance"]


@pytest.mark.parametrize("measure", MEASURES)
def test_group_gap_penalty_matches_torch(measure):
    arrays = {"input": LOSSES, "group": GROUPS, "sample_weight": WEIGHT}
    cases = [{"num_groups": num_groups, "measure": measure} for num_groups in (5, 7)]
    wrt = ("input", "sample_weight")
    assert_matches_torch(group_gap_penalty, torch_side.group_gap_penalty, arrays, cases, wrt=wrt)
    arrays = {"input": np.round(LOSSES).reshape(3, 3), "group": np.abs(GROUPS).reshape(3, 3) % 2}
    assert_matches_torch(group_gap_penalty, torch_side.group_gap_penalty, arrays, [{"num_groups": 2}])


@pytest.mark.parametrize("measure", MEASURES)
def test_where_equals_deletion_and_keeps_nan_out(measure):
    @jax.jit
    def run(x, group, weight, where=None):
        def loss(x, weight):
            return group_gap_penalty(x, group, 5, measure=measure, where=where, sample_weight=weight)

        return jax.value_and_grad(loss, (0, 1))(x, weight)

    poisoned = [np.where(MASK, a, np.nan) for a in (LOSSES, WEIGHT)]
    value, gradients = run(poisoned[0], np.where(MASK, GROUPS, 99), poisoned[1], MASK)
    expected, expected_gradients = run(LOSSES[MASK], GROUPS[MASK], WEIGHT[MASK])
    assert_within(value, expected, VALUE_EPS_OF_MAX)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        assert_same(gradient[~MASK], np.zeros(2))
        assert_within(gradient[MASK], expected_gradient, GRADIENT_EPS_OF_MAX)


def test_half_precision_is_computed_in_float32_and_its_gradient_rounded_once():
    assert_half_precision_is_rounded_once(lambda x: group_gap_penalty(x, GROUPS, 5), LOSSES)


def test_a_shift_of_all_losses_changes_nothing_and_size_of_a_group_neither():
    losses, groups = jnp.asarray(LOSSES), jnp.asarray(GROUPS)
    for measure in MEASURES:
        value = group_gap_penalty(losses, groups, 5, measure=measure)
        assert_within(group_gap_penalty(losses + 4.0, groups, 5, measure=measure), value, 64)
        twice = [jnp.concatenate([a, a[groups == 2]]) for a in (losses, groups)]
        assert_within(group_gap_penalty(*twice, 5, measure=measure), value, VALUE_EPS_OF_MAX)


def test_descending_the_penalty_closes_the_gap():
    losses, groups = jnp.asarray(LOSSES), jnp.asarray(GROUPS)
    step = jax.jit(lambda x: x - 0.5 * jax.grad(group_gap_penalty)(x, groups, 5, measure="variance"))
    gaps = [float(group_gap_penalty(losses, groups, 5))]
    for _ in range(200):
        losses = step(losses)
    gaps.append(float(group_gap_penalty(losses, groups, 5)))
    assert gaps[1] < 1e-3 * gaps[0]


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("groups", [[1, 1, 1], [-100, 1, 1], [-100, -100, -100]])
def test_fewer_than_two_groups_have_no_gap(groups, measure):
    losses = jnp.array([1.0, 5.0, np.inf if groups[2] == -100 else 2.0])
    value, gradient = jax.value_and_grad(group_gap_penalty)(losses, jnp.array(groups), 3, measure=measure)
    assert value == 0
    assert_same(gradient, np.zeros(3))


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("wrong", [5, -1, 10**6])
def test_group_out_of_range_poisons_value_and_gradient(wrong, measure):
    groups = jnp.array([0, 1, wrong, -100])
    value, gradient = jax.value_and_grad(group_gap_penalty)(jnp.arange(4.0), groups, 5, measure=measure)
    assert jnp.isnan(value)
    assert jnp.isnan(gradient[2])


@pytest.mark.parametrize("measure", MEASURES)
def test_group_out_of_range_poisons_without_weight_too(measure):
    groups, weight = jnp.array([1, 2, 5]), jnp.array([1.0, 1.0, 0.0])

    def penalty(losses, weight):
        return group_gap_penalty(losses, groups, 5, measure=measure, sample_weight=weight)

    value, gradients = jax.value_and_grad(penalty, (0, 1))(jnp.arange(3.0), weight)
    assert jnp.isnan(value)
    assert all(jnp.isnan(gradient[2]) for gradient in gradients)


def test_a_group_without_weight_is_no_extreme_and_has_no_gradient():
    losses, groups = jnp.array([-1.0, -2.0, -3.0, 5.0]), jnp.array([0, 0, 1, 3])
    weight = jnp.array([1.0, 1.0, 1.0, 0.0])
    for measure, gap in (("range", 1.5), ("variance", 0.75**2)):

        def penalty(losses, weight, measure=measure):
            return group_gap_penalty(losses, groups, 4, measure=measure, sample_weight=weight)

        value, gradients = jax.value_and_grad(penalty, (0, 1))(losses, weight)
        assert value == gap
        assert penalty(losses.at[3].set(jnp.nan), weight) == gap
        assert all(gradient[3] == 0 for gradient in gradients)
        assert all(jnp.isfinite(gradient).all() for gradient in gradients)


def test_transforms():
    for measure in MEASURES:
        assert_transforms(
            lambda x, measure=measure: group_gap_penalty(x, jnp.asarray(GROUPS), 5, measure=measure), LOSSES
        )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"group": np.array([0])}, ValueError, r"group must have shape \[2\], that of input"),
        ({"group": np.zeros(2)}, TypeError, "group must hold class indices of an integer dtype"),
        ({"num_groups": 0}, ValueError, "num_groups must be at least 1; got 0"),
        ({"num_groups": 2.0}, TypeError, "num_groups must be an int"),
        ({"measure": "gap"}, ValueError, "measure must be one of 'range', 'variance'"),
        ({"sample_weight": np.ones(3)}, ValueError, r"sample_weight must have shape \[2\]"),
        ({"where": np.ones(2)}, TypeError, "where must be boolean"),
    ],
)
def test_bad_input_is_named_at_trace_time(change, error, message):
    with pytest.raises(error, match=message):
        group_gap_penalty(**({"input": np.zeros(2), "group": np.array([0, 1]), "num_groups": 2} | change))
