"""focal_loss, poly_loss and sigmoid_focal_loss against torch, and where torch does not reach."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from jaxloss.losses.classification import cross_entropy
from jaxloss.losses.focal import focal_loss, poly_loss, sigmoid_focal_loss
from jaxloss.numerics.focal import scale_down_easy
from parity_tests.compare import assert_same, assert_within
from parity_tests.losses.promises import (
    REDUCTIONS,
    assert_accurate,
    assert_class_axis_is_free,
    assert_half_precision_is_rounded_once,
    assert_masking_deletes,
    assert_matches_torch,
    assert_transforms,
    exact_softmax,
)
from parity_tests.tolerances import EPS, GRADIENT_EPS_OF_MAX, VALUE_EPS_OF_MAX
from torch_ref.losses import focal as torch_focal

N, C = 7, 5
rng = np.random.default_rng(0)
LABELS = np.array([0, 4, 3, 2, -100, 3, 1])
LOGITS = {
    "near-uniform": rng.standard_normal((N, C)) * 0.02,
    "spread": rng.standard_normal((N, C)) * 3.0,
    "grid": rng.integers(-1, 2, (N, C)).astype(np.float64),
}
WEIGHT = np.array([0.5, 1.0, 0.0, 2.0, 1.5])
SAMPLE_WEIGHT = np.array([1.0, 0.5, 2.0, 1.0, 3.0, 0.0, 0.25])
MASK = np.array([True, False, True, True, True, False, True])
OPTIONS = {focal_loss: [{"gamma": 0.0}, {"gamma": 0.5}, {"gamma": 2.0}], poly_loss: [{"epsilon": -1.0}, {}]}
TORCH = {focal_loss: torch_focal.focal_loss, poly_loss: torch_focal.poly_loss}
CASES = [(loss, options) for loss, cases in OPTIONS.items() for options in cases]


@pytest.mark.parametrize("scale", LOGITS)
@pytest.mark.parametrize("loss", OPTIONS)
def test_losses_of_labels_match_torch(loss, scale):
    arrays = {"input": LOGITS[scale], "target": LABELS, "weight": WEIGHT, "sample_weight": SAMPLE_WEIGHT}
    # Near-uniform rows lose nearly the same: a mean's gradient by their weights is a difference of equals.
    reductions = REDUCTIONS if scale == "spread" else ("sum",)
    cases = [options | {"reduction": reduction} for options in OPTIONS[loss] for reduction in reductions]
    assert_matches_torch(loss, TORCH[loss], arrays, cases, wrt=("input", "sample_weight"))


@pytest.mark.parametrize("loss", OPTIONS)
def test_unweighted_losses_match_torch(loss):
    assert_matches_torch(loss, TORCH[loss], {"input": LOGITS["grid"], "target": LABELS}, [{}])


@pytest.mark.parametrize("loss", [focal_loss, poly_loss])
def test_class_axis_may_be_any(loss):
    assert_class_axis_is_free(loss, LOGITS["grid"], LABELS, weight=jnp.asarray(WEIGHT))


def test_poly_loss_coefficients_are_differentiable():
    arrays = {"input": LOGITS["spread"], "target": LABELS, "epsilon": np.array([2.0, -0.5, 0.25])}
    assert_matches_torch(poly_loss, torch_focal.poly_loss, arrays, [{}], wrt=("input", "epsilon"))


@pytest.mark.parametrize("target", ["hard", "soft"])
def test_sigmoid_focal_loss_matches_torch(target):
    targets = rng.uniform(size=(N, C)) if target == "soft" else rng.integers(0, 2, (N, C)).astype(float)
    arrays = {"input": LOGITS["spread"], "target": targets, "sample_weight": rng.uniform(size=(N, C))}
    cases = [
        {"alpha": None, "gamma": 2.0, "reduction": "sum"},
        {"alpha": 0.25, "gamma": 0.5, "reduction": "mean"},
        {"alpha": 0.0, "gamma": 0.0, "reduction": "none"},
    ]
    wrt = ("input", "target", "sample_weight")
    assert_matches_torch(sigmoid_focal_loss, torch_focal.sigmoid_focal_loss, arrays, cases, wrt=wrt)


@pytest.mark.parametrize("loss", [focal_loss, poly_loss])
def test_where_equals_deletion_and_keeps_nan_out(loss):
    arrays = {"input": LOGITS["grid"], "target": LABELS, "sample_weight": SAMPLE_WEIGHT}
    arrays["target"] = np.abs(LABELS) % C
    assert_masking_deletes(loss, TORCH[loss], arrays, MASK, wrt=("input", "sample_weight"))


def test_where_equals_deletion_of_elements():
    mask = np.resize(MASK, N * C)
    arrays = {"input": LOGITS["spread"].ravel(), "target": np.abs(LOGITS["grid"]).ravel()}
    assert_masking_deletes(
        sigmoid_focal_loss, torch_focal.sigmoid_focal_loss, arrays, mask, wrt=("input", "target")
    )
    arrays["sample_weight"] = rng.uniform(size=N * C)
    assert_masking_deletes(
        sigmoid_focal_loss,
        torch_focal.sigmoid_focal_loss,
        arrays,
        mask,
        wrt=("input", "target", "sample_weight"),
    )


def test_half_precision_is_computed_in_float32_and_its_gradient_rounded_once():
    assert_half_precision_is_rounded_once(focal_loss, LOGITS["spread"], LABELS)
    assert_half_precision_is_rounded_once(poly_loss, LOGITS["spread"], LABELS)
    positives = np.abs(LOGITS["grid"])
    assert_half_precision_is_rounded_once(sigmoid_focal_loss, LOGITS["spread"], positives, num_floats=2)


def test_without_their_own_term_both_are_cross_entropy():
    logits, labels, weight = jnp.asarray(LOGITS["grid"]), jnp.asarray(LABELS), jnp.asarray(WEIGHT)
    for reduction in REDUCTIONS:
        options = {"weight": weight, "reduction": reduction}
        expected = cross_entropy(logits, labels, **options)
        assert_within(focal_loss(logits, labels, gamma=0.0, **options), expected, VALUE_EPS_OF_MAX)
        assert_within(poly_loss(logits, labels, epsilon=0.0, **options), expected, VALUE_EPS_OF_MAX)


def test_sigmoid_focal_loss_is_the_softmax_one_on_two_classes():
    logits, labels = jnp.asarray(LOGITS["spread"].ravel()), jnp.asarray(LOGITS["grid"].ravel() > 0)
    two = jnp.stack([jnp.zeros_like(logits), logits], -1)
    for gamma in (0.5, 3.0):
        binary = sigmoid_focal_loss(logits, labels.astype(float), alpha=None, gamma=gamma, reduction="none")
        assert_within(
            binary, focal_loss(two, labels.astype(int), gamma=gamma, reduction="none"), VALUE_EPS_OF_MAX
        )


def test_focal_loss_falls_with_gamma_and_easy_rows_fall_most():
    logits, labels = jnp.array([[3.0, 0.0], [-3.0, 0.0]]), jnp.array([0, 0])
    easy, hard = (focal_loss(logits, labels, gamma=g, reduction="none") for g in (0.0, 2.0))
    kept = hard / easy
    assert kept[0] < 0.01
    assert 0.9 < kept[1] < 1.0


MARGINS = [-80.0, -5.0, 0.0, 5.0, 17.0, 40.0, 80.0, 1e4]


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_confident_focal_loss_is_accurate(gamma):
    def exact(z):
        p = exact_softmax(z)
        return -(mpmath.fsum(p[1:]) ** gamma) * mpmath.log(p[0])

    assert_accurate(
        lambda z: focal_loss(z, jnp.array(0), gamma=gamma),
        exact,
        [np.array([[margin, 0.0, 0.5, -1.0] for margin in MARGINS], np.float32)],
        value_ulp=8,
        gradient_eps_of_max=16,
    )


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_second_derivative_is_accurate_for_confident_wrong_and_ignored_rows(gamma):
    # Not along the label's own logit, where softmax's curvature itself cancels.
    direction = np.array([0.0, -0.5, 0.25, 1.0], np.float32)
    logits = np.array([[margin, 0.0, 0.5, -1.0] for margin in [*MARGINS, 45.0, -100.0, 3.0, 3.0]], np.float32)
    labels = np.array([0] * (len(logits) - 2) + [-100, 0])
    where = np.arange(len(logits)) < len(logits) - 1

    @jax.jit
    def product(z):
        gradient = jax.grad(partial(focal_loss, target=labels, gamma=gamma, reduction="sum", where=where))
        return jax.jvp(gradient, (z,), (jnp.broadcast_to(direction, z.shape),))[1]

    def exact(z, step):
        p = exact_softmax([a + step * float(d) for a, d in zip(z, direction, strict=True)])
        return -(mpmath.fsum(p[1:]) ** gamma) * mpmath.log(p[0])

    products = np.asarray(product(jnp.asarray(logits)), np.float64)
    assert_same(products[-2:], np.zeros((2, 4)))
    step = mpmath.mpf(10) ** -200
    with mpmath.workdps(1100):
        for z, row in zip(logits[:-2].astype(float), products, strict=False):
            truth = float((exact(z, step) + exact(z, -step) - 2 * exact(z, 0)) / step**2)
            allowed = GRADIENT_EPS_OF_MAX * EPS["float32"] * np.abs(row * direction).sum()
            assert abs(row @ direction - truth) <= allowed + 1e-37, (z, row @ direction, truth)
    # By a large loss s itself it is gamma (2 - s) exp(-s), but for exp(-2 s).
    second = jax.grad(jax.grad(scale_down_easy))(jnp.float32(50.0), gamma)
    np.testing.assert_allclose(second, -48 * gamma * np.exp(-50.0), rtol=1e-6)


def test_confident_poly_loss_is_accurate():
    assert_accurate(
        lambda z: poly_loss(z, jnp.array(0)),
        lambda z: -mpmath.log(exact_softmax(z)[0]) + 2 * mpmath.fsum(exact_softmax(z)[1:]),
        [np.array([[margin, 0.0, 0.5, -1.0] for margin in MARGINS], np.float32)],
        value_ulp=4,
        gradient_eps_of_max=16,
    )


def test_confident_sigmoid_is_accurate():
    def exact(x, y):
        p, y = 1 / (1 + mpmath.exp(-x[0])), y[0]
        loss = -y * mpmath.log(p) - (1 - y) * mpmath.log(1 - p)
        return (y / 4 + 3 * (1 - y) / 4) * loss * (p * (1 - y) + (1 - p) * y) ** 2

    logits, targets = zip(*itertools.product([-80.0, -17.0, 0.0, 5.0, 40.0], [0.0, 1.0, 0.25]), strict=True)
    arrays = [np.array(a, np.float32)[:, None] for a in (logits, targets)]
    assert_accurate(sigmoid_focal_loss, exact, arrays, value_ulp=64, gradient_eps_of_max=64)


@pytest.mark.parametrize(("loss", "options"), CASES)
def test_saturated_logits_have_finite_gradients(loss, options):
    logits = np.zeros((N, C), np.float32)
    logits[:5, :2] = [[1e4, 0.0], [-1e4, 0.0], [0.0, -np.inf], [-1e38, 1e38], [-np.inf, 0.0]]
    rows, pullback = jax.vjp(
        lambda z: loss(z, jnp.zeros(N, int), reduction="none", **options), jnp.asarray(logits)
    )
    assert_same(jnp.isposinf(rows), np.arange(N) == 4)
    assert not jnp.isnan(rows).any()
    assert jnp.isfinite(pullback(jnp.ones_like(rows))[0]).all()


def test_infinite_logit_on_the_right_side_costs_nothing_and_on_the_wrong_side_everything():
    logits, targets = np.meshgrid([np.inf, -np.inf], [1.0, 0.0])
    for alpha, gamma in ((0.25, 2.0), (None, 0.5), (1.0, 0.0)):
        weight = np.array([[1.0], [1.0]] if alpha is None else [[alpha], [1 - alpha]])
        loss = partial(sigmoid_focal_loss, target=targets, alpha=alpha, gamma=gamma, reduction="none")
        value, pullback = jax.vjp(loss, jnp.asarray(logits))
        is_wrong = np.array([[0.0, 1.0], [1.0, 0.0]])
        assert_same(value, np.where(is_wrong * weight > 0, np.inf, 0.0))
        assert_same(pullback(jnp.ones((2, 2)))[0], np.sign(logits) * is_wrong * weight)


def test_saturated_sigmoid_has_finite_gradients():
    logits, targets = np.meshgrid([-1e4, -200.0, 200.0, 1e4], [0.0, 1.0])
    for gamma in (0.0, 0.5, 1.0, 2.0):
        gradient = jax.jit(jax.grad(lambda x, gamma=gamma: sigmoid_focal_loss(x, targets, gamma=gamma)))
        assert jnp.isfinite(gradient(logits.astype(np.float32))).all(), gamma


@pytest.mark.parametrize("loss", [focal_loss, poly_loss])
def test_label_out_of_range_poisons_value_and_gradient(loss):
    labels = jnp.array([0, C, 1, -1, -100, 2, 3])
    rows, pullback = jax.vjp(lambda z: loss(z, labels, reduction="none"), jnp.asarray(LOGITS["grid"]))
    is_wrong = np.array([False, True, False, True, False, False, False])
    assert_same(jnp.isnan(rows), is_wrong)
    assert_same(jnp.isnan(pullback(jnp.ones(N))[0]).all(-1), is_wrong)
    assert jnp.isnan(loss(jnp.asarray(LOGITS["grid"]), labels))


@pytest.mark.parametrize("loss", [focal_loss, poly_loss])
def test_nothing_to_average_is_nan_with_a_zero_gradient_and_sums_to_zero(loss):
    logits, ignored = jnp.asarray(LOGITS["grid"]), jnp.full(N, -100)
    value, gradient = jax.value_and_grad(loss)(logits, ignored)
    assert jnp.isnan(value)
    assert_same(gradient, np.zeros((N, C)))
    assert loss(logits, ignored, reduction="sum") == 0


@pytest.mark.parametrize("loss", [focal_loss, poly_loss])
def test_transforms(loss):
    assert_transforms(loss, LOGITS["spread"], np.abs(LABELS) % C)


def test_transforms_of_the_sigmoid():
    assert_transforms(sigmoid_focal_loss, LOGITS["spread"], rng.uniform(size=(N, C)))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"gamma": -1.0}, ValueError, r"gamma must be in \[0, inf\); got -1.0"),
        ({"gamma": "2"}, TypeError, "gamma must be a number"),
        ({"target": np.zeros(2)}, TypeError, "target must hold class indices"),
        ({"target": np.zeros(3, int)}, ValueError, r"target must have shape \[2\]"),
        ({"sample_weight": np.ones(3)}, ValueError, r"sample_weight must have shape \[2\], one number"),
        ({"sample_weight": np.ones(2, int)}, TypeError, "sample_weight must be floating point"),
        ({"weight": np.ones(2)}, ValueError, r"weight must have shape \[3\]"),
        ({"where": np.ones(2)}, TypeError, "where must be boolean"),
        ({"reduction": "avg"}, ValueError, "reduction must be one of"),
    ],
)
def test_bad_input_is_named_at_trace_time(change, error, message):
    with pytest.raises(error, match=message):
        focal_loss(**({"input": np.zeros((2, 3)), "target": np.array([0, 1])} | change))


def test_bad_options_of_the_others_are_named():
    logits = np.zeros((2, 3))
    with pytest.raises(ValueError, match=r"epsilon must be in \[-1, inf\); got -2"):
        poly_loss(logits, np.array([0, 1]), epsilon=-2)
    with pytest.raises(ValueError, match=r"epsilon must be a number or have shape \[J\]"):
        poly_loss(logits, np.array([0, 1]), epsilon=np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\]; got -1"):
        sigmoid_focal_loss(logits, logits, alpha=-1)
    with pytest.raises(ValueError, match=r"target must have shape \[2, 3\]"):
        sigmoid_focal_loss(logits, logits[:1])
