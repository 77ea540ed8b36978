"""The logistic losses against torch, and where torch overflows or cancels."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import torch_ref.losses
from jaxloss import losses
from parity_tests.compare import assert_same, assert_within
from parity_tests.losses.promises import (
    EACH_REDUCTION,
    assert_half_precision_is_rounded_once,
    assert_masking_deletes,
    assert_matches_torch,
    assert_transforms,
    run_jax,
)

rng = np.random.default_rng(0)
SHAPE = (4, 3)
TARGET = np.array([[0, 1, 0.5], [1, 0, 0.25], [1, 1, 0], [0, 0, 1]])
SIGNS = np.where(TARGET >= 0.5, 1.0, -1.0)
PROBABILITIES = np.array([[0, 1, 0.5], [1e-3, 1, 0], [0, 1e-9, 1 - 1e-9], [0.25, 0.5, 0.75]])
LOGITS = np.concatenate(
    [rng.integers(-1, 2, (2, 3)), rng.standard_normal((1, 3)) * 0.02, [[30, -30, 500]]]
).astype(np.float64)
WEIGHT, ROW_WEIGHT = rng.random(SHAPE), rng.random(3)
MASK = rng.random(SHAPE) > 0.4
CASES = {
    "binary_cross_entropy": {"input": PROBABILITIES, "target": TARGET, "weight": WEIGHT},
    "binary_cross_entropy_with_logits": {
        "input": LOGITS,
        "target": TARGET,
        "weight": WEIGHT,
        "pos_weight": ROW_WEIGHT,
    },
    "soft_margin_loss": {"input": LOGITS, "target": SIGNS},
    "multilabel_soft_margin_loss": {"input": LOGITS, "target": TARGET, "weight": ROW_WEIGHT},
}


@pytest.mark.parametrize("name", CASES)
def test_matches_torch(name):
    for arrays in (CASES[name], {key: CASES[name][key] for key in ("input", "target")}):
        if name == "soft_margin_loss":
            arrays = arrays | {"input": np.clip(arrays["input"], -50, 50)}
        ours, theirs = getattr(losses, name), getattr(torch_ref.losses, name)
        assert_matches_torch(ours, theirs, arrays, EACH_REDUCTION)


@pytest.mark.parametrize("name", ["binary_cross_entropy_with_logits", "multilabel_soft_margin_loss"])
def test_gradient_of_the_target_matches_torch(name):
    ours, theirs = getattr(losses, name), getattr(torch_ref.losses, name)
    assert_matches_torch(ours, theirs, CASES[name], wrt=("input", "target"))


@pytest.mark.parametrize("name", [name for name in CASES if "weight" in CASES[name]])
def test_gradient_of_a_weight_that_many_elements_share_is_rounded_once(name):
    keys = [key for key in CASES[name] if key not in ("input", "target")]
    # In bfloat16 a sum stops growing after 256 equal steps.
    shared = np.random.default_rng(1).uniform(0.1, 0.9, (2 + len(keys), 16384, 3))

    def loss(input, target, *factors):
        return getattr(losses, name)(input, target, **dict(zip(keys, factors, strict=True)))

    arrays = [*shared[:2], *shared[2:, 0]]
    assert_half_precision_is_rounded_once(loss, *arrays, num_floats=len(arrays))


@pytest.mark.parametrize("name", CASES)
def test_where_equals_deletion_and_keeps_nan_out(name):
    mask = MASK[:, 0] if name == "multilabel_soft_margin_loss" else MASK
    arrays = {key: value for key, value in CASES[name].items() if value.shape == SHAPE}
    if name == "soft_margin_loss":
        arrays["input"] = np.clip(arrays["input"], -50, 50)
    assert_masking_deletes(getattr(losses, name), getattr(torch_ref.losses, name), arrays, mask)


def test_binary_is_cross_entropy_of_two_classes():
    logits = jnp.asarray(LOGITS[:3].reshape(-1))
    labels = jnp.asarray((TARGET[:3] > 0.5).reshape(-1))
    two = jnp.stack([jnp.zeros_like(logits), logits], -1)
    binary = losses.binary_cross_entropy_with_logits(logits, labels.astype(float), reduction="none")
    assert_within(binary, losses.cross_entropy(two, labels.astype(int), reduction="none"), 4)
    signs = jnp.where(labels, 1, -1)
    assert_within(losses.soft_margin_loss(logits, signs, reduction="none"), binary, 4)


def test_integers_serve_as_signs_and_the_argument_at_fault_is_named():
    assert losses.soft_margin_loss(0.5, 1) == losses.soft_margin_loss(0.5, 1.0)
    with pytest.raises(TypeError, match="target must be floating point; got bool"):
        losses.soft_margin_loss(0.5, True)
    for loss in (losses.binary_cross_entropy, losses.multilabel_soft_margin_loss):
        with pytest.raises(TypeError, match="input must be"):
            loss(None, np.zeros(3), np.ones(3))


def test_gradient_of_the_target_is_bounded_where_the_probability_is_0_or_1():
    target = jnp.array([0.0, 0.5, 1.0])
    for probability, slope in ((0.0, 100.0), (1.0, -100.0)):
        gradient = jax.grad(losses.binary_cross_entropy, 1)(jnp.full(3, probability), target, reduction="sum")
        assert_same(gradient, np.full(3, slope))


@pytest.mark.parametrize("logit", [5.0, 17.0, 40.0, 80.0])
def test_confident_logits_do_not_cancel(logit):
    x = jnp.array([logit, -logit], jnp.float32)
    for name, target in (("binary_cross_entropy_with_logits", [1.0, 0.0]), ("soft_margin_loss", [1.0, -1.0])):
        arrays = {"input": x, "target": jnp.array(target, jnp.float32)}
        value, (gradient,) = run_jax(getattr(losses, name), arrays, {"reduction": "none"}, ["input"])
        np.testing.assert_allclose(value, np.log1p(np.exp(-logit)), rtol=3e-7)
        np.testing.assert_allclose(np.abs(gradient), 1 / (1 + np.exp(logit)), rtol=3e-7)


def test_infinite_logit_on_the_right_side_costs_nothing_and_on_the_wrong_side_everything():
    logits, target = jnp.array([jnp.inf, -jnp.inf, jnp.inf, -jnp.inf]), jnp.array([1.0, 0.0, 0.0, 1.0])
    value, gradient = jax.value_and_grad(
        lambda x: losses.binary_cross_entropy_with_logits(x, target, reduction="none")[:2].sum()
    )(logits)
    assert value == 0
    assert_same(gradient, np.zeros(4))
    assert_same(
        losses.binary_cross_entropy_with_logits(logits, target, reduction="none"), [0, 0, np.inf, np.inf]
    )


@pytest.mark.parametrize("argument", ["input", "target"])
def test_probability_out_of_range_poisons_value_and_gradients(argument):
    outside, inside = (a.ravel() for a in np.meshgrid([-0.1, 1.1, np.nan], [0.0, 0.5, 1.0]))
    arrays = {"input": inside, "target": inside} | {argument: outside}
    for result in jax.tree.leaves(
        run_jax(losses.binary_cross_entropy, arrays, {"reduction": "none"}, arrays)
    ):
        assert jnp.isnan(result).all()


@pytest.mark.parametrize("name", CASES)
def test_float16_extremes_stay_finite(name):
    if name == "binary_cross_entropy":
        pytest.skip("takes probabilities, which have no extremes in float16")
    logits = jnp.array([[6e4, -6e4]], jnp.float16)
    value, gradient = jax.value_and_grad(getattr(losses, name))(logits, jnp.array([[-1.0, 1.0]], jnp.float16))
    assert value.dtype == jnp.float32
    assert gradient.dtype == jnp.float16
    assert jnp.isfinite(value)


@pytest.mark.parametrize("name", CASES)
def test_transforms(name):
    input = np.clip(LOGITS[:2] + 0.3, -2, 2) if name != "binary_cross_entropy" else PROBABILITIES[3:] * 0.9
    target = SIGNS if name == "soft_margin_loss" else TARGET
    assert_transforms(getattr(losses, name), input, target[: len(input)])


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        *(
            (name, change, error, message)
            for name, (change, error, message) in itertools.product(
                CASES,
                [
                    ({"target": np.zeros((1, 3))}, ValueError, r"target must have shape \[2, 3\].*\[1, 3\]"),
                    ({"target": np.zeros((2, 3), bool)}, TypeError, "target must be floating point"),
                    ({"input": np.zeros((2, 3), int)}, TypeError, "input must be floating point"),
                    ({"reduction": "sums"}, ValueError, "Did you mean 'sum'"),
                ],
            )
        ),
        ("binary_cross_entropy", {"weight": np.ones(2)}, ValueError, "weight must broadcast to the shape"),
        ("binary_cross_entropy", {"weight": np.ones((1, 2, 3))}, ValueError, "weight must broadcast"),
        (
            "binary_cross_entropy_with_logits",
            {"pos_weight": np.ones(2)},
            ValueError,
            "pos_weight must broadcast",
        ),
        (
            "multilabel_soft_margin_loss",
            {"where": np.ones((2, 3), bool)},
            ValueError,
            r"where must have shape \[2\]",
        ),
    ],
)
def test_bad_input_is_named_at_trace_time(name, change, error, message):
    with pytest.raises(error, match=message):
        getattr(losses, name)(**({"input": np.zeros((2, 3)), "target": np.zeros((2, 3))} | change))
