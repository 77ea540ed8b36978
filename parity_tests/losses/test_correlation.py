"""correlation_loss against torch, and where torch gives NaN."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from jaxloss.losses import correlation as sources
from parity_tests.compare import assert_same, assert_within
from parity_tests.losses.promises import (
    as_a_whole,
    assert_accurate,
    assert_half_precision_is_rounded_once,
    assert_matches_torch,
    assert_transforms,
)
from parity_tests.tolerances import GRADIENT_EPS_OF_MAX, VALUE_EPS_OF_MAX
from torch_ref.losses import correlation as torch_side

correlation_loss = as_a_whole(sources.correlation_loss)

N, T = 4, 6
rng = np.random.default_rng(0)
INPUT = rng.standard_normal((N, T))
TARGET = INPUT + rng.standard_normal((N, T))
MASK = rng.uniform(size=(N, T)) < 0.7
MASK[0] = True
MASK[1] = False
WEIGHT = rng.uniform(0.5, 2.0, (N, T))


@pytest.mark.parametrize("axis", [-1, 0, None, (0, 1)])
def test_correlation_loss_matches_torch(axis):
    cases = [{"axis": axis, "reduction": reduction} for reduction in ("mean", "none")]
    arrays = {"input": INPUT, "target": TARGET}
    assert_matches_torch(
        correlation_loss, torch_side.correlation_loss, arrays, cases, wrt=("input", "target")
    )


def test_weighted_correlation_loss_matches_torch():
    arrays = {"input": INPUT, "target": TARGET, "sample_weight": WEIGHT}
    wrt = ("input", "target", "sample_weight")
    assert_matches_torch(
        correlation_loss, torch_side.correlation_loss, arrays, [{"reduction": "sum"}], wrt=wrt
    )


def test_where_equals_deletion_and_keeps_nan_out():
    poisoned = [jnp.asarray(np.where(MASK, a, np.nan)) for a in (INPUT, TARGET, WEIGHT)]

    @jax.jit
    def run(x, y, w):
        def loss(x, y, w, reduction):
            return correlation_loss(x, y, reduction=reduction, where=jnp.asarray(MASK), sample_weight=w)

        equal = [loss(x, y, weight, "mean") for weight in (None, jnp.ones_like(w))]
        return loss(x, y, w, "none"), jax.value_and_grad(loss, (0, 1, 2))(x, y, w, "mean"), equal

    rows, (mean, gradients), (unweighted, of_ones) = run(*poisoned)
    assert unweighted == of_ones
    expected, expected_gradients = [], np.zeros((3, N, T))
    for i in (0, 2, 3):
        deleted = [jnp.asarray(a[i, MASK[i]]) for a in (INPUT, TARGET, WEIGHT)]
        value, gradient = jax.value_and_grad(
            lambda x, y, w: correlation_loss(x, y, sample_weight=w), (0, 1, 2)
        )(*deleted)
        expected.append(value)
        expected_gradients[:, i, MASK[i]] = np.array(gradient) / 3
    # A series without any element counts as deleted too.
    assert rows[1] == 0
    assert_within(rows[np.array([0, 2, 3])], np.array(expected), VALUE_EPS_OF_MAX, "float64")
    assert_within(mean, np.mean(expected), VALUE_EPS_OF_MAX, "float64")
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        assert_same(gradient[~MASK], np.zeros((~MASK).sum()))
        assert_within(gradient, expected_gradient, GRADIENT_EPS_OF_MAX, "float64")


def test_half_precision_is_computed_in_float32_and_its_gradient_rounded_once():
    assert_half_precision_is_rounded_once(correlation_loss, INPUT, TARGET, num_floats=2)


def test_shift_and_positive_scale_change_nothing():
    rows = correlation_loss(jnp.asarray(INPUT), jnp.asarray(TARGET), reduction="none")
    moved = correlation_loss(jnp.asarray(INPUT * 3.0 - 7.0), jnp.asarray(TARGET), reduction="none")
    assert_within(moved, rows, 64)
    turned = correlation_loss(jnp.asarray(-INPUT), jnp.asarray(TARGET), reduction="none")
    assert_within(turned, 2 - rows, VALUE_EPS_OF_MAX)


def test_integer_weights_repeat_elements():
    weight = np.array([1.0, 2.0, 1.0, 3.0, 0.0, 1.0])
    repeated = np.repeat(np.arange(T), weight.astype(int))
    value = correlation_loss(jnp.asarray(INPUT[0]), jnp.asarray(TARGET[0]), sample_weight=jnp.asarray(weight))
    expected = correlation_loss(jnp.asarray(INPUT[0, repeated]), jnp.asarray(TARGET[0, repeated]))
    assert_within(value, expected, VALUE_EPS_OF_MAX)


def test_near_perfect_correlation_is_accurate():
    input, noise = rng.standard_normal((2, 5, 6))
    apart = np.array([1.0, 1e-2, 1e-3, 1.0, 1.0])[:, None]
    scale, mean = np.array([1.0, 1.0, 1.0, 1e30, 1e-30])[:, None], np.array([0, 1, 0, 0, 0])[:, None]
    arrays = [(scale * a).astype(np.float32) for a in (input + 100 * mean, input + apart * noise)]

    def exact(x, y):
        x, y = ([v - mpmath.fsum(a) / len(a) for v in a] for a in (x, y))
        over = mpmath.fsum(a * b for a, b in zip(x, y, strict=True))
        return 1 - over / mpmath.sqrt(mpmath.fsum(a * a for a in x) * mpmath.fsum(b * b for b in y))

    # A distance of 1e-3 between series that are rounded to begin with has lost 1e3 roundings of accuracy.
    assert_accurate(correlation_loss, exact, arrays, value_ulp=2000, gradient_eps_of_max=2000)


def test_a_series_may_span_all_of_float32():
    wide, target = jnp.array([3e38, -3e38, 1e38], jnp.float32), jnp.array([2.0, -1.0, -2.5], jnp.float32)
    expected = correlation_loss(jnp.array([3.0, -3.0, 1.0], jnp.float32), target)
    for x, y in ((wide, target), (target, wide)):
        value, gradients = jax.value_and_grad(correlation_loss, (0, 1))(x, y)
        assert_within(value, expected, VALUE_EPS_OF_MAX)
        assert all(jnp.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("constant", [0.0, 3.0, 0.1, 1e30])
def test_no_variance_is_no_correlation_with_a_zero_gradient(constant):
    flat = jnp.full((N, T), constant)
    for x, y in ((flat, jnp.asarray(TARGET)), (jnp.asarray(INPUT), flat), (flat, flat)):
        values, pullback = jax.vjp(lambda x, y: correlation_loss(x, y, reduction="none"), x, y)
        assert_same(values, np.ones(N))
        for gradient in pullback(jnp.ones(N)):
            assert_same(gradient, np.zeros((N, T)))


def test_one_element_and_none():
    one = jnp.asarray(INPUT[:, :1])
    assert_same(correlation_loss(one, one, reduction="none"), np.ones(N))
    assert jnp.isnan(correlation_loss(one, one, where=jnp.zeros((N, 1), bool)))
    assert jnp.isnan(correlation_loss(jnp.zeros((0, T)), jnp.zeros((0, T))))


def test_nan_and_infinity_poison_their_series_only():
    input = INPUT.copy()
    input[0, 1], input[2, 0] = np.nan, np.inf
    loss = correlation_loss(jnp.asarray(input), jnp.asarray(TARGET), reduction="none")
    assert_same(jnp.isnan(loss), [1, 0, 1, 0])


def test_transforms():
    assert_transforms(correlation_loss, INPUT, TARGET)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"target": np.zeros((1, 3))}, ValueError, r"target must have shape \[2, 3\], that of input"),
        ({"input": np.zeros((2, 3), int)}, TypeError, "input must be floating point"),
        ({"axis": 2}, ValueError, r"axis must be in \[-2, 2\) for input float64\[2, 3\]; got 2"),
        ({"axis": (0, -2)}, ValueError, "axis must name each axis once"),
        ({"axis": 0.0}, TypeError, "axis must be an int"),
        ({"sample_weight": np.ones(2)}, ValueError, r"sample_weight must have shape \[2, 3\]"),
        ({"where": np.ones((2, 3))}, TypeError, "where must be boolean"),
        ({"reduction": "avg"}, ValueError, "reduction must be one of"),
    ],
)
def test_bad_input_is_named_at_trace_time(change, error, message):
    with pytest.raises(error, match=message):
        correlation_loss(**({"input": np.zeros((2, 3)), "target": np.zeros((2, 3))} | change))
