"""Losses on labels: which rows take part, what the mean divides by, and that the others leave no trace."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import torch_ref.fused
import torch_ref.losses
from jaxloss.fused import linear_cross_entropy
from jaxloss.losses import cross_entropy, nll_loss
from jaxloss.losses._rows import reduce_weighted
from parity_tests.compare import assert_same, assert_within
from torch_ref.losses._masking import reduce_rows

N, C = 7, 5
WEIGHT = np.array([0.5, 1.0, 0.0, 2.0, 1.5])
LABELS = np.array([0, 4, 3, 2, -100, 3, 1])
GRID = np.random.default_rng(0).integers(-1, 2, (N, C)).astype(np.float64)
PROBABILITIES = np.random.default_rng(1).dirichlet(np.ones(C), N)
ROWS = np.array([1.0, 2.0])


def test_weighted_mean_divides_by_the_labels_weights_but_by_the_rows_for_probabilities():
    logits, labels = jnp.asarray(GRID), jnp.asarray([0, 4, 3, 2, -100, 3, 1])
    weight = jnp.asarray(WEIGHT)
    rows = cross_entropy(logits, labels, weight, reduction="none")
    assert_within(cross_entropy(logits, labels, weight), rows.sum() / (0.5 + 1.5 + 2 + 0 + 2 + 1), 4)
    rows = cross_entropy(logits, jnp.asarray(PROBABILITIES), weight, reduction="none")
    assert_within(cross_entropy(logits, jnp.asarray(PROBABILITIES), weight), rows.sum() / N, 4)


def test_ignored_rows_may_hold_nan():
    logits = np.where((LABELS == -100)[:, None], np.nan, GRID)
    for smoothing in (0.0, 0.1):
        for loss in (
            lambda z, s=smoothing: cross_entropy(z, LABELS, label_smoothing=s),
            lambda z: nll_loss(z, LABELS),
        ):
            value, gradient = jax.value_and_grad(loss)(jnp.asarray(logits))
            clean_value, clean_gradient = jax.value_and_grad(loss)(jnp.asarray(GRID))
            assert_same(value, clean_value)
            assert_same(gradient, clean_gradient)


@pytest.mark.parametrize("loss", [cross_entropy, nll_loss])
def test_nan_of_an_ignored_row_does_not_reach_the_weights_gradient(loss):
    logits = jnp.asarray(np.where((LABELS == -100)[:, None], np.nan, GRID))
    gradients = jax.grad(loss, 2)(logits, LABELS, jnp.asarray(WEIGHT))
    assert_same(gradients, jax.grad(loss, 2)(jnp.asarray(GRID), LABELS, jnp.asarray(WEIGHT)))


@pytest.mark.parametrize("loss", [cross_entropy, nll_loss])
def test_nothing_to_average_is_nan_with_a_zero_gradient_and_sums_to_zero(loss):
    ignored = jnp.full(N, -100)
    value, gradient = jax.value_and_grad(loss)(jnp.asarray(GRID), ignored)
    assert jnp.isnan(value)
    assert_same(gradient, np.zeros((N, C)))
    assert loss(jnp.asarray(GRID), ignored, reduction="sum") == 0
    nowhere = jnp.zeros(N, bool)
    assert jnp.isnan(loss(jnp.asarray(GRID), jnp.asarray(LABELS), where=nowhere))
    empty = jnp.zeros((0, C)), jnp.zeros(0, int)
    assert jnp.isnan(loss(*empty))
    assert loss(*empty, reduction="sum") == 0
    assert loss(*empty, reduction="none").shape == (0,)


def test_labels_whose_weights_sum_to_zero_have_no_mean():
    # Smoothed, the loss itself is not 0: the label of weight 0 shares it with a class of weight 1.
    logits, labels, weight = np.ones((2, 2)), np.array([0, -100]), np.array([0.0, 1.0])
    smoothed = {"label_smoothing": 0.5}
    head = partial(linear_cross_entropy, linear_weight=jnp.eye(2))
    given = {"target": jnp.asarray(labels), "weight": jnp.asarray(weight)} | smoothed
    for ours in (
        cross_entropy,
        partial(cross_entropy, sample_weight=jnp.ones(2)),
        partial(head, implementation="reference"),
        partial(head, implementation="chunked", chunk_size=1),
    ):
        value, gradient = jax.value_and_grad(partial(ours, **given))(jnp.asarray(logits))
        assert jnp.isnan(value)
        assert_same(gradient, [[np.nan, np.nan], [0.0, 0.0]])
    given = {"target": torch.asarray(labels), "weight": torch.asarray(weight)} | smoothed
    eye = torch.eye(2, dtype=torch.float64)
    for theirs in (
        torch.nn.functional.cross_entropy,
        partial(torch_ref.losses.cross_entropy, sample_weight=torch.ones(2, dtype=torch.float64)),
        partial(torch_ref.fused.linear_cross_entropy, linear_weight=eye),
    ):
        assert theirs(torch.asarray(logits), **given).isnan()


def test_rows_whose_weights_sum_to_zero_have_no_mean():
    for weight in ([0.0, 0.0], [1.0, -1.0]):
        total, pull_back = jax.vjp(lambda x, w=weight: reduce_weighted(x, "mean", None, jnp.array(w)), ROWS)
        assert jnp.isnan(total)
        assert jnp.isnan(pull_back(jnp.ones(()))[0]).all()
        masked = torch.ones(2, dtype=bool), "mean", torch.asarray(weight, dtype=torch.float64)
        assert reduce_rows(torch.asarray(ROWS), *masked).isnan()


def test_weights_widen_the_loss_of_labels_and_of_probabilities_alike():
    logits, weight = jnp.zeros((2, 3), jnp.float32), jnp.ones(2, jnp.float64)
    for target in (jnp.zeros(2, int), jnp.full((2, 3), 1 / 3, jnp.float32)):
        assert cross_entropy(logits, target, sample_weight=weight).dtype == jnp.float64
