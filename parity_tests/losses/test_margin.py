"""The hinge losses against torch, on a grid of integers, where ties and kinks happen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import torch_ref.losses
from jaxloss import losses
from parity_tests.losses.promises import (
    EACH_REDUCTION,
    assert_masking_deletes,
    assert_matches_torch,
    assert_transforms,
)

rng = np.random.default_rng(0)
GRID = rng.integers(-1, 2, (6, 4)).astype(np.float64)
OTHER = rng.integers(-1, 2, (6, 4)).astype(np.float64)
SIGNS = np.where(rng.random((6, 4)) > 0.5, 1.0, -1.0)
LABELS = np.array([0, 3, 1, 2, 2, 0])
# No label, all of them, one twice, and labels after the end, which do not count.
LISTS = np.array([[-1, 0, 1, 2], [0, 1, 2, 3], [2, 2, -1, 0], [3, -1, 1, 2], [1, 0, -1, -1], [0, 3, 1, -1]])
WEIGHT = np.array([0.5, 0.0, 2.0, 1.0])
MASK = rng.random((6, 4)) > 0.4
CASES = [
    ("margin_ranking_loss", {"input1": GRID, "input2": OTHER, "target": SIGNS}, {"margin": 1.0}),
    ("margin_ranking_loss", {"input1": GRID, "input2": OTHER, "target": SIGNS}, {}),
    ("hinge_embedding_loss", {"input": GRID, "target": SIGNS}, {}),
    ("hinge_embedding_loss", {"input": GRID, "target": GRID}, {"margin": -1.0}),
    ("multi_margin_loss", {"input": GRID, "target": LABELS}, {}),
    ("multi_margin_loss", {"input": GRID, "target": LABELS, "weight": WEIGHT}, {"p": 2, "margin": 2.0}),
    ("multilabel_margin_loss", {"input": GRID, "target": LISTS}, {}),
]
ROWS = {"multi_margin_loss", "multilabel_margin_loss"}


def wrt(arrays):
    return [key for key in arrays if key.startswith("input")]


@pytest.mark.parametrize(("name", "arrays", "options"), CASES)
def test_matches_torch(name, arrays, options):
    ours, theirs = getattr(losses, name), getattr(torch_ref.losses, name)
    cases = [options | each for each in EACH_REDUCTION]
    assert_matches_torch(ours, theirs, arrays, cases, wrt=wrt(arrays))


@pytest.mark.parametrize(("name", "arrays", "options"), CASES)
def test_where_equals_deletion_and_keeps_nan_out(name, arrays, options):
    mask = MASK[:, 0] if name in ROWS else MASK
    ours, theirs = getattr(losses, name), getattr(torch_ref.losses, name)
    assert_masking_deletes(ours, theirs, arrays, mask, options, wrt=wrt(arrays))


def test_gradient_at_the_margin_is_torchs():
    one = jnp.array(1.0)
    assert jax.grad(losses.hinge_embedding_loss)(one, -one) == -1
    assert jax.grad(losses.margin_ranking_loss)(one, one, one) == -1
    scores = jnp.array([1.0, 0.0])
    assert (jax.grad(losses.multi_margin_loss)(scores, jnp.array(0)) == 0).all()


def test_infinite_score_of_the_label_has_no_gradient():
    scores = jnp.array([[jnp.inf, 0.0, 1.0]])
    value, gradient = jax.value_and_grad(losses.multi_margin_loss)(scores, jnp.array([0]), p=2)
    assert value == 0
    assert (gradient == 0).all()


def test_no_classes_give_nan():
    scores, labels = jnp.zeros((2, 0)), jnp.zeros(2, int)
    assert jnp.isnan(losses.multi_margin_loss(scores, labels, weight=jnp.zeros(0)))
    assert jnp.isnan(losses.multilabel_margin_loss(scores, scores.astype(int)))


def test_many_classes_take_no_more_memory_than_the_scores():
    scores, lists = jnp.zeros((2, 1000), jnp.float32), jnp.zeros((2, 1000), jnp.int32)
    program = jax.jit(jax.grad(losses.multilabel_margin_loss)).lower(scores, lists).compile()
    assert program.memory_analysis().temp_size_in_bytes < 10 * scores.nbytes


@pytest.mark.parametrize("label", [-1, 4, 10**6])
def test_label_out_of_range_poisons_its_row(label):
    labels = jnp.asarray(LABELS).at[1].set(label)
    value, pullback = jax.vjp(
        lambda x: losses.multi_margin_loss(x, labels, reduction="none"), jnp.asarray(GRID)
    )
    assert np.isnan(value).tolist() == [False, True, False, False, False, False]
    assert np.isnan(pullback(jnp.ones(6))[0]).any(-1).tolist() == [False, True, False, False, False, False]


@pytest.mark.parametrize("label", [-2, 4])
def test_listed_label_out_of_range_poisons_its_row(label):
    labels = jnp.asarray(LISTS).at[1, 0].set(label)
    value, pullback = jax.vjp(
        lambda x: losses.multilabel_margin_loss(x, labels, reduction="none"), jnp.asarray(GRID)
    )
    assert np.isnan(value).tolist() == [False, True, False, False, False, False]
    assert np.isnan(pullback(jnp.ones(6))[0]).any(-1).tolist() == [False, True, False, False, False, False]


@pytest.mark.parametrize("name", ["hinge_embedding_loss", "margin_ranking_loss"])
def test_nan_stays_nan(name):
    arrays = [jnp.array([jnp.nan])] * (2 if name == "margin_ranking_loss" else 1)
    for sign in (1.0, -1.0):
        assert jnp.isnan(getattr(losses, name)(*arrays, jnp.array([sign])))


def test_transforms():
    scores = rng.standard_normal((2, 4))
    assert_transforms(losses.multi_margin_loss, scores, LABELS[:2], p=2)
    assert_transforms(losses.multilabel_margin_loss, scores, LISTS[4:])
    assert_transforms(losses.hinge_embedding_loss, scores, SIGNS[:2])
    assert_transforms(losses.margin_ranking_loss, scores, OTHER[:2], SIGNS[:2])


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        ("margin_ranking_loss", {"input2": np.zeros((1, 3))}, ValueError, r"input2 must have shape \[2, 3\]"),
        ("margin_ranking_loss", {"target": np.zeros(3)}, ValueError, r"target must have shape \[2, 3\]"),
        ("margin_ranking_loss", {"margin": "1"}, TypeError, "margin must be a number"),
        ("hinge_embedding_loss", {"target": np.zeros(3)}, ValueError, r"target must have shape \[2, 3\]"),
        ("multi_margin_loss", {"p": 3}, ValueError, "p must be 1 or 2; got 3"),
        ("multi_margin_loss", {"target": np.zeros(1, int)}, ValueError, r"target must have shape \[2\]"),
        ("multi_margin_loss", {"target": np.zeros(2)}, TypeError, "target must hold class indices"),
        ("multi_margin_loss", {"weight": np.ones(2)}, ValueError, r"weight must have shape \[3\]"),
        (
            "multilabel_margin_loss",
            {"target": np.zeros(2, int)},
            ValueError,
            r"target must have shape \[2, 3\]",
        ),
        ("multilabel_margin_loss", {"reduction": "avg"}, ValueError, "reduction must be one of"),
    ],
)
def test_bad_input_is_named_at_trace_time(name, change, error, message):
    good = {
        "margin_ranking_loss": {key: np.zeros((2, 3)) for key in ("input1", "input2", "target")},
        "hinge_embedding_loss": {key: np.zeros((2, 3)) for key in ("input", "target")},
        "multi_margin_loss": {"input": np.zeros((2, 3)), "target": np.zeros(2, int)},
        "multilabel_margin_loss": {"input": np.zeros((2, 3)), "target": np.zeros((2, 3), int)},
    }[name]
    with pytest.raises(error, match=message):
        getattr(losses, name)(**(good | change))
