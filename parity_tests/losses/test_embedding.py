"""Cosine and triplet losses against torch, zero vectors and every norm included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import torch_ref.losses
from jaxloss import losses
from parity_tests.compare import assert_same, assert_within
from parity_tests.losses.promises import (
    EACH_REDUCTION,
    assert_masking_deletes,
    assert_matches_torch,
    assert_transforms,
)

rng = np.random.default_rng(0)
A, B, C = (rng.integers(-2, 3, (6, 4)).astype(np.float64) for _ in range(3))
A[0] = B[1] = 0.0
C[2] = A[2]
SIGNS = np.array([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
MASK = np.array([True, False, True, True, False, True])
PAIR = {"input1": A, "input2": B, "target": SIGNS}
TRIPLET = {"anchor": A, "positive": B, "negative": C}


@pytest.mark.parametrize("margin", [0, 0.5, -1.0])
def test_cosine_matches_torch(margin):
    ours, theirs = losses.cosine_embedding_loss, torch_ref.losses.cosine_embedding_loss
    cases = [{"margin": margin} | each for each in EACH_REDUCTION]
    assert_matches_torch(ours, theirs, PAIR, cases, wrt=("input1", "input2"))


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0, 1.5, 2, 3.0, float("inf")])
@pytest.mark.parametrize("swap", [False, True])
def test_triplet_matches_torch_in_every_norm(p, swap):
    epsilons = (0.0,) if p in (0.5, 1.5, 3.0) else (0.0, 1e-6)
    cases = [{"p": p, "swap": swap, "eps": eps, "margin": 3.0} for eps in epsilons]
    ours, theirs = losses.triplet_margin_loss, torch_ref.losses.triplet_margin_loss
    assert_matches_torch(ours, theirs, TRIPLET, cases, wrt=TRIPLET)


def test_triplet_with_distance_matches_torch():
    name = "triplet_margin_with_distance_loss"
    cases = [{"swap": True} | each for each in EACH_REDUCTION]
    assert_matches_torch(getattr(losses, name), getattr(torch_ref.losses, name), TRIPLET, cases, wrt=TRIPLET)


def test_where_equals_deletion_and_keeps_nan_out():
    ours, theirs = losses.cosine_embedding_loss, torch_ref.losses.cosine_embedding_loss
    assert_masking_deletes(ours, theirs, PAIR, MASK, wrt=("input1", "input2"))
    ours, theirs = losses.triplet_margin_loss, torch_ref.losses.triplet_margin_loss
    assert_masking_deletes(ours, theirs, TRIPLET, MASK, wrt=TRIPLET)


def test_coinciding_vectors_have_a_finite_gradient():
    zero = jnp.zeros((1, 3))
    # The squares of 1e-200 underflow: a distance of 0 between vectors that differ.
    for anchor in (zero, zero + 1e-200):
        gradients = jax.jit(jax.grad(lambda *x: losses.triplet_margin_loss(*x, eps=0.0), (0, 1, 2)))(
            anchor, zero, zero
        )
        for gradient in gradients:
            assert_same(gradient, np.zeros((1, 3)))


@pytest.mark.parametrize("size", [1e25, 1e37])
def test_vectors_whose_squares_overflow(size):
    """In float32, as the same vectors of an ordinary size."""
    small = [np.float32(x[3:5] / 8) for x in (A, B, C)]
    huge = [x * np.float32(size) for x in small]
    cosine = jax.value_and_grad(losses.cosine_embedding_loss, (0, 1))
    value, gradients = cosine(*huge[:2], SIGNS[3:5])
    expected, expected_gradients = cosine(*small[:2], SIGNS[3:5])
    assert_within(value, expected, 4, "float32")
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        # Those of 1e37 are below the normal numbers.
        assert_within(gradient, wanted / size, 16, "float32", scale=max(np.abs(wanted).max() / size, 1e-31))
    for p in (0.5, 2.0, 5.0):

        def distances(*vectors, p=p):
            return losses.triplet_margin_loss(*vectors, margin=1e-9, eps=0.0, p=p)

        (value, gradients), (expected, expected_gradients) = (
            jax.value_and_grad(distances, (0, 1, 2))(x, y, -y) for x, y in (huge[:2], small[:2])
        )
        assert_within(value / size, expected, 16, "float32")
        for gradient, wanted in zip(gradients, expected_gradients, strict=True):
            assert_within(gradient, wanted, 64, "float32")


@pytest.mark.parametrize("p", [2, 3])
def test_a_vector_with_an_infinite_entry_is_infinitely_far(p):
    near, at, far = jnp.zeros((1, 2)), jnp.ones((1, 2)), jnp.array([[jnp.inf, 0.0]])
    cases = torch.zeros(1, 2), torch.ones(1, 2), torch.tensor([[torch.inf, 0.0]])
    for order in ((0, 1, 2), (0, 2, 1)):
        ours = losses.triplet_margin_loss(*((near, at, far)[i] for i in order), p=p)
        theirs = torch.nn.functional.triplet_margin_loss(*(cases[i] for i in order), p=p)
        assert ours == theirs.item()
    gradient = jax.grad(losses.triplet_margin_loss, 1)(near, at, far, p=p)
    assert_same(gradient, np.zeros((1, 2)))


def test_vectors_of_no_numbers_have_a_distance_of_0():
    nothing = jnp.zeros((2, 0))
    for p in (2, np.inf):
        assert losses.triplet_margin_loss(nothing, nothing, nothing, p=p) == 1


def test_transforms():
    x, y, z = (rng.standard_normal((2, 3)) for _ in range(3))
    assert_transforms(losses.cosine_embedding_loss, x, y, SIGNS[:2])
    assert_transforms(losses.triplet_margin_loss, x, y, z)


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        (
            "cosine_embedding_loss",
            {"input2": np.zeros((1, 3))},
            ValueError,
            r"input2 must have shape \[2, 3\]",
        ),
        ("cosine_embedding_loss", {"target": np.zeros(1)}, ValueError, r"target must have shape \[2\]"),
        ("cosine_embedding_loss", {"margin": None}, TypeError, "margin must be a number"),
        ("triplet_margin_loss", {"margin": 0.0}, ValueError, r"margin must be in \(0, inf"),
        ("triplet_margin_loss", {"p": -1.0}, ValueError, r"p must be in \[0, inf"),
        ("triplet_margin_loss", {"swap": 1}, TypeError, "swap must be True or False"),
        ("triplet_margin_loss", {"negative": np.zeros(3)}, ValueError, r"negative must have shape \[2, 3\]"),
        ("triplet_margin_with_distance_loss", {"margin": -1.0}, ValueError, "margin must be in"),
    ],
)
def test_bad_input_is_named_at_trace_time(name, change, error, message):
    good = {key: np.zeros((2, 3)) for key in ("anchor", "positive", "negative")}
    if name == "cosine_embedding_loss":
        good = {"input1": np.zeros((2, 3)), "input2": np.zeros((2, 3)), "target": np.ones(2)}
    with pytest.raises(error, match=message):
        getattr(losses, name)(**(good | change))
