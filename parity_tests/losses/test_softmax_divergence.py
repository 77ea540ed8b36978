"""Divergences of two softmaxes against torch, and where torch cancels."""

import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from jaxloss.losses.divergence import kl_div
from jaxloss.losses.softmax_divergence import (
    forward_kl_div,
    jensen_shannon_div,
    reverse_kl_div,
    total_variation_div,
)
from parity_tests.compare import assert_same, assert_within
from parity_tests.losses.promises import (
    assert_accurate,
    assert_class_axis_is_free,
    assert_half_precision_is_rounded_once,
    assert_masking_deletes,
    assert_matches_torch,
    assert_transforms,
    exact_softmax,
)
from parity_tests.tolerances import VALUE_EPS_OF_MAX
from torch_ref.losses import softmax_divergence as torch_side

N, C = 7, 5
LOSSES = [forward_kl_div, reverse_kl_div, jensen_shannon_div, total_variation_div]
rng = np.random.default_rng(0)
PAIRS = {
    "near-uniform": rng.standard_normal((2, N, C)) * 0.02,
    "spread": rng.standard_normal((2, N, C)) * 2.0,
    "grid": rng.integers(-1, 2, (2, N, C)).astype(np.float64),
}
SAMPLE_WEIGHT = np.array([1.0, 0.5, 2.0, 1.0, 3.0, 0.0, 0.25])
MASK = np.array([True, False, True, True, True, False, True])


def _exact_kl(p, q):
    return mpmath.fsum(a * mpmath.log(a / b) for a, b in zip(p, q, strict=True))


def _exact_js(p, q):
    m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return (_exact_kl(p, m) + _exact_kl(q, m)) / 2


def _exact_tv(p, q):
    return mpmath.fsum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2


EXACT = {
    forward_kl_div: lambda x, y: _exact_kl(exact_softmax(y), exact_softmax(x)),
    reverse_kl_div: lambda x, y: _exact_kl(exact_softmax(x), exact_softmax(y)),
    jensen_shannon_div: lambda x, y: _exact_js(exact_softmax(x), exact_softmax(y)),
    total_variation_div: lambda x, y: _exact_tv(exact_softmax(x), exact_softmax(y)),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_divergences_match_torch(loss):
    # Near-uniform pairs are left to mpmath below: torch's gradient of a small divergence is noise.
    input, target = PAIRS["spread"]
    arrays = {"input": input, "target": target, "sample_weight": SAMPLE_WEIGHT}
    cases = [{"reduction": reduction} for reduction in ("mean", "none")]
    theirs = getattr(torch_side, loss.__name__)
    assert_matches_torch(loss, theirs, arrays, cases, wrt=("input", "target", "sample_weight"))


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.99, 1.0])
def test_generalised_jensen_shannon_matches_torch_and_is_accurate(beta):
    arrays = dict(zip(("input", "target"), PAIRS["spread"], strict=True))
    loss = functools.partial(jensen_shannon_div, beta=beta)
    cases, theirs = [{"reduction": "none"}], functools.partial(torch_side.jensen_shannon_div, beta=beta)
    assert_matches_torch(loss, theirs, arrays, cases, wrt=("input", "target"))
    if beta != 0.99:
        return

    def exact(x, y):
        q, p = exact_softmax(x), exact_softmax(y)
        share = mpmath.mpf(beta)
        m = [share * a + (1 - share) * b for a, b in zip(p, q, strict=True)]
        return share * _exact_kl(p, m) + (1 - share) * _exact_kl(q, m)

    assert_accurate(
        loss, exact, list(nearly_equal_and_confident()[:, :5]), value_ulp=8, gradient_eps_of_max=32
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_class_axis_may_be_any(loss):
    assert_class_axis_is_free(loss, *PAIRS["spread"])


@pytest.mark.parametrize("loss", LOSSES)
def test_where_equals_deletion_and_keeps_nan_out(loss):
    input, target = PAIRS["spread"]
    arrays = {"input": input, "target": target, "sample_weight": SAMPLE_WEIGHT}
    assert_masking_deletes(
        loss, getattr(torch_side, loss.__name__), arrays, MASK, wrt=("input", "target", "sample_weight")
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_is_computed_in_float32_and_its_gradient_rounded_once(loss):
    assert_half_precision_is_rounded_once(loss, *PAIRS["spread"], num_floats=2)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_distribution_is_no_distance_from_itself(loss):
    logits = PAIRS["spread"][0]
    rows, _, (value, gradient) = _compiled(loss)(logits, logits + 3.0, np.ones(N, bool))
    assert (rows >= 0).all()
    assert (rows < 1e-15).all()
    rows, _, (value, gradient) = _compiled(loss)(logits, logits, np.ones(N, bool))
    assert value == 0
    assert_same(gradient, np.zeros((N, C)))


def test_forward_kl_is_kl_div_of_log_softmaxes_and_reverse_kl_exchanges():
    input, target = PAIRS["grid"]
    expected = kl_div(jax.nn.log_softmax(input), jax.nn.softmax(target), reduction="none").sum(-1)
    everywhere = np.ones(N, bool)
    assert_within(_compiled(forward_kl_div)(input, target, everywhere)[0], expected, VALUE_EPS_OF_MAX)
    assert_within(_compiled(reverse_kl_div)(target, input, everywhere)[0], expected, VALUE_EPS_OF_MAX)


@pytest.mark.parametrize("loss", [jensen_shannon_div, total_variation_div])
@pytest.mark.parametrize("kind", PAIRS)
def test_symmetric_to_the_last_bit(loss, kind):
    run = jax.value_and_grad(lambda *both: loss(*both, reduction="sum"), (0, 1))
    input, target = PAIRS[kind]
    target = np.where(np.arange(N)[:, None] < 2, input + 1e-6 * target, target)
    value, (by_input, by_target) = run(input, target)
    exchanged, (by_first, by_second) = run(target, input)
    assert value == exchanged
    assert_same(by_input, by_second)
    assert_same(by_target, by_first)


def test_pinskers_inequality():
    input, target = PAIRS["spread"]
    everywhere = np.ones(N, bool)
    kl, _, symmetric, distance = (_compiled(loss)(input, target, everywhere)[0] for loss in LOSSES)
    assert (2 * distance**2 <= kl).all()
    assert (symmetric <= np.log(2)).all()


def nearly_equal_and_confident() -> np.ndarray:
    """Logits of both."""
    # How spread the logits are, how far the target's are from them, and a constant that changes nothing.
    cases = [(3.0, 3.0, 0.0), (1.0, 1e-3, 7.0), (3.0, 1e-6, 0.0), (0.02, 0.02, 0.0)]
    cases += [(20.0, 20.0, 0.0), (20.0, 1e-2, -5.0), (200.0, 200.0, 1e4)]
    random = np.random.default_rng(11)
    input = np.stack([random.standard_normal(6) * spread for spread, _, _ in cases]).astype(np.float32)
    apart = np.stack([random.standard_normal(6) * apart + shift for _, apart, shift in cases])
    return np.stack([input, (input + apart).astype(np.float32)])


@pytest.mark.parametrize("loss", LOSSES)
def test_nearly_equal_and_confident_distributions_are_accurate(loss):
    arrays = list(nearly_equal_and_confident())
    assert_accurate(loss, EXACT[loss], arrays, value_ulp=8, gradient_eps_of_max=32)


NONE = -np.inf
# Rows: neither allows class 2; no class in common; then only the target, only the input allows a class, which
# has next to nothing, much, nearly all.
ONLY = [-20.0, 2.0, 30.0]
IMPOSSIBLE_INPUT = np.array(
    [[0.0, 1.0, NONE], [1.0, NONE, NONE]] + [[0.0, 1.0, z] for z in [NONE] * 3 + ONLY]
)
IMPOSSIBLE_TARGET = np.array([[1.0, 1.0, NONE], [NONE, 1.0, NONE], *IMPOSSIBLE_INPUT[[5, 6, 7, 2, 3, 4]]])


@pytest.mark.parametrize("loss", LOSSES)
def test_impossible_classes(loss):
    @jax.jit
    def run(x, y):
        rows, pullback = jax.vjp(lambda x, y: loss(x, y, reduction="none"), x, y)
        return rows, pullback(jnp.ones_like(rows)), loss(x[:1, :2], y[:1, :2])

    rows, (gradient, of_target), of_two_classes = run(IMPOSSIBLE_INPUT, IMPOSSIBLE_TARGET)
    np.testing.assert_allclose(rows[0], of_two_classes, rtol=1e-13)
    odds = np.exp(ONLY) / (1 + np.e)
    infinite = [np.inf] * 3
    disjoint, *expected = {
        forward_kl_div: (np.inf, *infinite, *np.log1p(odds)),
        reverse_kl_div: (np.inf, *np.log1p(odds), *infinite),
        jensen_shannon_div: (np.log(2), *rows[2:5], *rows[2:5]),
        total_variation_div: (1, *(odds / (1 + odds)), *(odds / (1 + odds))),
    }[loss]
    np.testing.assert_allclose(rows[1:], [disjoint, *expected], rtol=1e-14)
    is_finite = jnp.isfinite(rows)
    assert jnp.isfinite(gradient[is_finite]).all()
    assert jnp.isfinite(of_target[is_finite]).all()
    if loss is forward_kl_div:
        # The less of what the input excludes, the less infinite.
        assert_same(of_target[1:5], [[0, np.inf, 0], *[[-np.inf, -np.inf, np.inf]] * 3])


@functools.cache
def _compiled(loss):
    """Rows, their gradient, and the masked mean and its gradient."""

    @jax.jit
    def run(x, y, where):
        rows, pullback = jax.vjp(lambda x: loss(x, y, reduction="none"), x)
        return rows, pullback(jnp.ones_like(rows))[0], jax.value_and_grad(loss)(x, y, where=where)

    return run


@pytest.mark.parametrize("loss", LOSSES)
def test_a_probability_that_underflows_costs_nothing_even_of_an_impossible_class(loss):
    input, target = np.zeros((2, N, C))
    input[0, 1], target[0, 1] = -1e4, NONE
    input[1, 1], target[1, 1] = NONE, -1e4
    rows, *_ = _compiled(loss)(input, target, np.ones(N, bool))
    assert_same(rows, np.zeros(N))


@pytest.mark.parametrize("loss", LOSSES)
def test_nan_and_infinity_poison_their_row_only(loss):
    input, target = (array.copy() for array in PAIRS["spread"])
    input[0, 1], target[2, 0], input[4, 4] = np.nan, np.nan, np.inf
    rows, gradient, _ = _compiled(loss)(input, target, np.ones(N, bool))
    poisoned = np.isin(np.arange(N), [0, 2, 4])
    assert_same(jnp.isnan(rows), poisoned)
    assert_same(jnp.isnan(gradient).any(-1), poisoned)


@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_to_average_is_nan_with_a_zero_gradient(loss):
    _, _, (value, gradient) = _compiled(loss)(*PAIRS["spread"], np.zeros(N, bool))
    assert jnp.isnan(value)
    assert_same(gradient, np.zeros((N, C)))


@pytest.mark.parametrize("loss", LOSSES)
def test_transforms(loss):
    assert_transforms(lambda both: loss(*both), PAIRS["spread"])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"target": np.zeros((2, 4))}, ValueError, r"target must have shape \[2, 3\], that of input"),
        ({"target": np.zeros((2, 3), int)}, TypeError, "target must be floating point"),
        ({"input": np.zeros((2, 3), int)}, TypeError, "input must be floating point"),
        ({"sample_weight": np.ones((2, 3))}, ValueError, r"sample_weight must have shape \[2\]"),
        ({"where": np.ones((2, 3), bool)}, ValueError, r"where must have shape \[2\]"),
        ({"reduction": "batchmean"}, ValueError, "reduction must be one of"),
        ({"axis": 2}, ValueError, r"axis must be in \[-2, 2\)"),
        (
            {"input": np.zeros((2, 0)), "target": np.zeros((2, 0))},
            ValueError,
            "input must have at least one class",
        ),
    ],
)
def test_bad_input_is_named_at_trace_time(change, error, message):
    for loss in LOSSES:
        with pytest.raises(error, match=message):
            loss(**({"input": np.zeros((2, 3)), "target": np.zeros((2, 3))} | change))
