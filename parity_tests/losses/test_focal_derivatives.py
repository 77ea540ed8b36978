"""The focal losses' first and second derivatives, by gamma too, against 400 digits."""

import itertools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from jaxloss.losses.focal import sigmoid_focal_loss
from jaxloss.numerics.focal import scale_down_easy
from parity_tests.compare import assert_within
from parity_tests.losses.promises import compiled
from parity_tests.tolerances import EPS, GRADIENT_EPS_OF_MAX

# Where a power of `1 - p` underflows and its slope overflows: below it, and at a gamma below 1.
GAMMAS = [0.0, 0.5, 1.0, 2.0]


def _sigmoid(x, gamma, y):
    return sigmoid_focal_loss(x, y, alpha=None, gamma=gamma)


def _exact_sigmoid(x, gamma, y):
    p = 1 / (1 + mpmath.exp(-x))
    return -(y * mpmath.log(p) + (1 - y) * mpmath.log(1 - p)) * (p * (1 - y) + (1 - p) * y) ** gamma


def _softmax(nll, gamma):
    return scale_down_easy(nll, gamma)


def _exact_softmax(nll, gamma):
    return (1 - mpmath.exp(-nll)) ** gamma * nll


def _differences(function, point):
    """Gradient and Hessian by the first two arguments; at a gamma of 0, to one side."""
    step = mpmath.mpf(10) ** -100

    def at(by_x, by_gamma):
        x, gamma, *rest = (mpmath.mpf(float(value)) for value in point)
        return function(x + by_x * step, gamma + by_gamma * step, *rest)

    gradient = [(at(1, 0) - at(-1, 0)) / (2 * step), (at(0, 1) - at(0, 0)) / step]
    mixed = (at(1, 1) - at(-1, 1) - at(1, 0) + at(-1, 0)) / (2 * step**2)
    second = (at(1, 0) - 2 * at(0, 0) + at(-1, 0)) / step**2, (at(0, 2) - 2 * at(0, 1) + at(0, 0)) / step**2
    return [*gradient, second[0], mixed, mixed, second[1]]


@pytest.mark.parametrize(
    ("loss", "exact", "points"),
    [
        (_sigmoid, _exact_sigmoid, [[-60, -17, -3, 0.5, 17, 60], GAMMAS, [0, 1, 0.25]]),
        (_softmax, _exact_softmax, [[1e-30, 1e-8, 0.1, 3, 20, 80], GAMMAS]),
    ],
)
def test_derivatives_are_accurate_at_confident_and_wrong_logits(loss, exact, points):
    points = np.array([*itertools.product(*points)], np.float32)
    both = compiled(
        jax.vmap(lambda *point: (jax.grad(loss, (0, 1))(*point), jax.hessian(loss, (0, 1))(*point)))
    )
    found = np.stack(jax.tree.leaves(both(*map(jnp.asarray, points.T))), -1).astype(np.float64)
    with mpmath.workdps(400):
        for point, derivatives in zip(points, found, strict=True):
            truth = np.array(_differences(exact, point), np.float64)
            allowed = GRADIENT_EPS_OF_MAX * EPS["float32"] * np.abs(truth) + 1e-36
            assert (np.abs(derivatives - truth) <= allowed).all(), (point, derivatives, truth)


def test_derivatives_by_gamma_and_target_commute():
    points = np.array([*itertools.product([-3, 0.5, 4], [0.5, 2.0], [0.25, 0.75])]).T
    (_, by_gamma), (by_target, _) = compiled(jax.vmap(jax.hessian(_sigmoid, (1, 2))))(*points)
    assert_within(by_gamma, by_target, GRADIENT_EPS_OF_MAX)


def test_a_confident_sigmoid_has_no_curvature_left():
    # With gamma below 1 it was NaN, from where the slope of the power overflows.
    logits, targets = jnp.array([60.0, -60.0, 200.0], jnp.float32), jnp.array([1.0, 0.0, 1.0], jnp.float32)
    curvature = compiled(jax.hessian(lambda x: sigmoid_focal_loss(x, targets, gamma=0.5, reduction="sum")))
    assert (np.abs(curvature(logits)) < 1e-30).all()
