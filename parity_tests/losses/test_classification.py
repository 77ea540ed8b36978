"""cross_entropy and nll_loss against torch, and where torch does not reach.

Rows that take no part are in test_rows.py, arguments that are refused in test_checks.py.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxloss.losses import cross_entropy, nll_loss
from parity_tests.compare import assert_same, assert_within
from parity_tests.losses.promises import (
    EACH_REDUCTION,
    assert_masking_deletes,
    assert_matches_torch,
    assert_transforms,
    run_jax,
    run_torch,
)
from parity_tests.tolerances import VALUE_EPS_OF_MAX
from torch_ref.losses import cross_entropy as torch_cross_entropy
from torch_ref.losses import nll_loss as torch_nll_loss

N, C = 7, 5
rng = np.random.default_rng(0)
WEIGHT = np.array([0.5, 1.0, 0.0, 2.0, 1.5])
LABELS = np.array([0, 4, 3, 2, -100, 3, 1])
LOGITS = {
    "near-uniform": rng.standard_normal((N, C)) * 0.02,
    "confident": rng.standard_normal((N, C)) * 10.0,
    "saturated": rng.standard_normal((N, C)) * 1e4,
    "grid": rng.integers(-1, 2, (N, C)).astype(np.float64),
}
PROBABILITIES = rng.dirichlet(np.ones(C), N)
MASK = np.array([True, False, True, True, True, False, True])


def log_softmax(x):
    return (
        x - np.log(np.sum(np.exp(x - x.max(-1, keepdims=True)), -1, keepdims=True)) - x.max(-1, keepdims=True)
    )


@pytest.mark.parametrize("scale", LOGITS)
def test_cross_entropy_of_labels_matches_torch(scale):
    # Smoothed to the uniform distribution, near-uniform logits leave a gradient of nothing but rounding.
    smoothings = [0.0, 0.1] if scale == "near-uniform" else [0.0, 0.1, 1.0]
    cases = [{"label_smoothing": s} | each for s, each in itertools.product(smoothings, EACH_REDUCTION)]
    for weighted in ({}, {"weight": WEIGHT}):
        arrays = {"input": LOGITS[scale], "target": LABELS} | weighted
        assert_matches_torch(cross_entropy, torch_cross_entropy, arrays, cases)


@pytest.mark.parametrize("scale", LOGITS)
def test_cross_entropy_of_probabilities_matches_torch(scale):
    cases = [{"label_smoothing": s} | each for s, each in itertools.product([0.0, 0.1], EACH_REDUCTION)]
    for weighted in ({}, {"weight": WEIGHT}):
        arrays = {"input": LOGITS[scale], "target": PROBABILITIES} | weighted
        assert_matches_torch(cross_entropy, torch_cross_entropy, arrays, cases, wrt=("input", "target"))


def test_nll_loss_matches_torch():
    for weighted in ({}, {"weight": WEIGHT}):
        arrays = {"input": log_softmax(LOGITS["confident"]), "target": LABELS} | weighted
        assert_matches_torch(nll_loss, torch_nll_loss, arrays, EACH_REDUCTION)


def test_the_only_class_has_its_weight():
    value = nll_loss(np.array([[-2.0], [-3.0]]), np.zeros(2, int), np.array([4.0]), reduction="sum")
    assert value == 20.0


# 3 is a class of its own; 2**40 fits no int32 label.
@pytest.mark.parametrize("ignore_index", [3, -1, 2**40])
def test_ignore_index_matches_torch(ignore_index):
    arrays = {"input": LOGITS["grid"], "target": np.where(LABELS == -100, min(ignore_index, 3), LABELS)}
    cases = [{"ignore_index": ignore_index} | each for each in EACH_REDUCTION]
    assert_matches_torch(cross_entropy, torch_cross_entropy, arrays, cases)
    assert_matches_torch(nll_loss, torch_nll_loss, arrays, cases)


@pytest.mark.parametrize(
    ("ours", "torchs", "twin"),
    [
        (cross_entropy, torch.nn.functional.cross_entropy, torch_cross_entropy),
        (nll_loss, torch.nn.functional.nll_loss, torch_nll_loss),
    ],
)
def test_class_axis_one_is_torchs_layout(ours, torchs, twin):
    images = np.random.default_rng(1).standard_normal((2, C, 3, 2))
    labels = np.random.default_rng(2).integers(0, C, (2, 3, 2))
    for input, target in ((images, labels), (images[0, :, 0, 0], labels[0, 0, 0])):
        arrays = {"input": input, "target": np.asarray(target), "weight": WEIGHT}
        assert_matches_torch(functools.partial(ours, axis=1), torchs, arrays, EACH_REDUCTION)
        moved = arrays | {"input": np.moveaxis(input, min(1, input.ndim - 1), -1)}
        assert_matches_torch(ours, twin, moved, EACH_REDUCTION)


@pytest.mark.parametrize("axis", [1, -1])
def test_probabilities_along_either_axis_match_torch(axis):
    random = np.random.default_rng(4)
    arrays = {
        "input": random.standard_normal((2, C, 3)),
        "target": random.dirichlet(np.ones(C), (2, 3)).swapaxes(1, 2),
    }
    if axis == -1:
        arrays = {name: array.swapaxes(1, 2) for name, array in arrays.items()}
    arrays["weight"] = WEIGHT
    cases = [{"axis": axis, "label_smoothing": 0.2} | each for each in EACH_REDUCTION]
    assert_matches_torch(cross_entropy, torch_cross_entropy, arrays, cases, wrt=("input", "target"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_computed_in_float32_and_its_gradient_rounded_once(dtype):
    logits = jnp.asarray(LOGITS["confident"], dtype)
    value, gradient = jax.value_and_grad(cross_entropy)(logits, jnp.asarray(LABELS))
    wide_value, wide_gradient = jax.value_and_grad(cross_entropy)(
        logits.astype(jnp.float32), jnp.asarray(LABELS)
    )
    assert value.dtype == jnp.float32
    assert gradient.dtype == dtype
    assert_same(value, wide_value)
    assert_same(gradient, wide_gradient.astype(dtype))


@pytest.mark.parametrize("target", [LABELS, PROBABILITIES], ids=["labels", "probabilities"])
def test_where_equals_deletion_and_keeps_nan_out(target):
    arrays = {"input": LOGITS["grid"], "target": target, "weight": WEIGHT}
    assert_masking_deletes(cross_entropy, torch_cross_entropy, arrays, MASK, {"label_smoothing": 0.1})


def test_where_equals_deletion_in_nll_loss():
    arrays = {"input": LOGITS["grid"], "target": LABELS, "weight": WEIGHT}
    assert_masking_deletes(nll_loss, torch_nll_loss, arrays, MASK)


def test_cross_entropy_is_nll_of_log_softmax_in_value_and_gradient():
    logits, labels = jnp.asarray(LOGITS["grid"]), jnp.asarray(LABELS)
    both = [
        jax.value_and_grad(lambda z: cross_entropy(z, labels, jnp.asarray(WEIGHT)))(logits),
        jax.value_and_grad(lambda z: nll_loss(jax.nn.log_softmax(z), labels, jnp.asarray(WEIGHT)))(logits),
    ]
    for a, b in zip(*both, strict=True):
        assert_within(a, b, VALUE_EPS_OF_MAX)


def test_one_hot_probabilities_are_labels():
    logits, labels = jnp.asarray(LOGITS["confident"]), jnp.asarray(np.abs(LABELS) % C)
    for smoothing in (0.0, 0.1):
        options = {"reduction": "none", "label_smoothing": smoothing}
        one_hot = jax.nn.one_hot(labels, C, dtype=logits.dtype)
        assert_within(
            cross_entropy(logits, one_hot, **options),
            cross_entropy(logits, labels, **options),
            VALUE_EPS_OF_MAX,
        )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("label", [-1, C, 10**6, 2**32 - 100])
def test_label_out_of_range_poisons_value_and_gradient(label, weighted, smoothing):
    labels = jnp.asarray(np.array([0, label, 1], "int64" if label < 2**31 else "uint32"))
    weight = jnp.asarray(WEIGHT) if weighted else None
    logits = jnp.asarray(LOGITS["grid"][:3])

    def loss(z):
        return cross_entropy(z, labels, weight, label_smoothing=smoothing, reduction="none")

    rows, pullback = jax.jit(lambda z: jax.vjp(loss, z))(logits)
    assert_same(jnp.isnan(rows), [False, True, False])
    assert_same(jnp.isnan(pullback(jnp.ones(3))[0]).all(-1), [False, True, False])
    assert jnp.isnan(cross_entropy(logits, labels, weight))
    value, gradient = jax.value_and_grad(nll_loss)(logits, labels, weight)
    assert jnp.isnan(value)
    assert jnp.isnan(gradient[1]).any()


@pytest.mark.parametrize("row", list(itertools.product([0.0, 2.0, np.inf, -np.inf, np.nan], repeat=3)))
def test_infinities_and_nan_are_torchs(row):
    arrays = {"input": np.array([row]), "target": np.array([0])}
    value, (gradient,) = run_jax(_jitted, arrays, {}, ["input"])
    expected, (expected_gradient,) = run_torch(torch_cross_entropy, arrays, {}, ["input"])
    assert_within(value, expected, 8)
    assert_within(gradient, expected_gradient, 8)


_jitted = jax.jit(cross_entropy)


@pytest.mark.parametrize("logit", [-1e4, 0.0, 1e4])
def test_the_only_possible_class_costs_nothing(logit):
    for logits in (
        jnp.array([[logit, -jnp.inf, -jnp.inf]], jnp.float32),
        jnp.full((1, 1), logit, jnp.float32),
    ):
        value, gradient = jax.value_and_grad(cross_entropy)(logits, jnp.array([0]))
        assert value == 0
        assert_same(gradient, np.zeros(logits.shape))


def test_impossible_class_with_no_probability_contributes_nothing():
    logits = jnp.array([[0.0, -jnp.inf, 1.0]])
    of_both = jax.value_and_grad(cross_entropy, (0, 1))
    value, (gradient, of_target) = of_both(logits, jnp.array([[1.0, 0.0, 0.0]]))
    label_value, label_gradient = jax.value_and_grad(cross_entropy)(logits, jnp.array([0]))
    assert_within(value, label_value, 4)
    assert_within(gradient, label_gradient, 4)
    assert_within(of_target, [[value, 0.0, value - 1]], 4)


@pytest.mark.parametrize("margin", [5.0, 17.0, 40.0, 80.0])
def test_confident_loss_and_gradient_do_not_cancel(margin):
    logits = jnp.array([[margin, 0.0, 0.0]], jnp.float32)
    for target in (jnp.array([0]), jnp.array([[1.0, 0.0, 0.0]], jnp.float32)):
        value, gradient = jax.value_and_grad(cross_entropy)(logits, target)
        odds = 2 * np.exp(-margin)
        np.testing.assert_allclose(value, np.log1p(odds), rtol=3e-7)
        np.testing.assert_allclose(gradient[0, 0], -odds / (1 + odds), rtol=3e-7)
        np.testing.assert_allclose(gradient[0, 1:], odds / 2 / (1 + odds), rtol=1e-5)


@pytest.mark.parametrize("kind", ["labels", "probabilities", "smoothed", "nll"])
def test_transforms(kind):
    target = PROBABILITIES[:3] if kind == "probabilities" else np.array([0, 4, 1])
    options = {"label_smoothing": 0.1} if kind == "smoothed" else {}
    loss = _nll_of_logits if kind == "nll" else cross_entropy
    assert_transforms(loss, LOGITS["near-uniform"][:3] * 50, target, **options)


def _nll_of_logits(logits, target):
    return nll_loss(jax.nn.log_softmax(logits), target)


def test_sharded_rows_give_the_same_loss_and_gradient():
    mesh = jax.make_mesh((1,), ("rows",), axis_types=(AxisType.Auto,))
    logits, labels = jnp.asarray(LOGITS["grid"]), jnp.asarray(LABELS)

    def total(z, t):
        return jax.lax.psum(cross_entropy(z, t, reduction="sum"), "rows")

    sharded = jax.shard_map(total, mesh=mesh, in_specs=(P("rows"), P("rows")), out_specs=P())
    value, gradient = jax.jit(jax.value_and_grad(sharded))(logits, labels)
    expected, expected_gradient = jax.value_and_grad(lambda z: cross_entropy(z, labels, reduction="sum"))(
        logits
    )
    assert_within(value, expected, VALUE_EPS_OF_MAX)
    assert_within(gradient, expected_gradient, VALUE_EPS_OF_MAX)


def test_at_most_one_array_of_the_logits_size_beside_input_and_gradient():
    logits, labels = jnp.zeros((512, 4096), jnp.float32), jnp.zeros(512, jnp.int32)
    compiled = jax.jit(jax.value_and_grad(cross_entropy)).lower(logits, labels).compile()
    assert compiled.memory_analysis().temp_size_in_bytes <= 1.01 * logits.nbytes
