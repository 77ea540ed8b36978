"""Losses on labels: which rows take part, what the mean divides by, and that the others leave no trace."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloss.losses import cross_entropy, nll_loss
from parity_tests.compare import assert_same, assert_within

N, C = 7, 5
WEIGHT = np.array([0.5, 1.0, 0.0, 2.0, 1.5])
LABELS = np.array([0, 4, 3, 2, -100, 3, 1])
GRID = np.random.default_rng(0).integers(-1, 2, (N, C)).astype(np.float64)
PROBABILITIES = np.random.default_rng(1).dirichlet(np.ones(C), N)


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
