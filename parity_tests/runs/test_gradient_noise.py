"""Variances of gradients against those of a loss whose gradients are known."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxloss.runs.gradient_noise import covariance_trace, jackknife, make_moments, noise_scale

rng = np.random.default_rng(0)
EXAMPLES = rng.standard_normal((40, 3)) + np.array([2.0, 0.0, 0.0])


@pytest.fixture(scope="module")
def groups():
    # The gradient of a product is the example itself: one part of two entries, another of one.
    def loss(params, example):
        return jnp.vdot(params["a"], example[:2]) + params["b"] * example[2]

    moments = make_moments(loss, lambda path: "first" if "a" in path else "second")
    params = {"a": jnp.zeros(2), "b": jnp.zeros(())}
    return [moments(params, EXAMPLES[i : i + 10]) for i in range(0, 40, 10)]


def test_trace_is_the_sum_of_the_unbiased_variances(groups):
    variances = EXAMPLES.var(0, ddof=1)
    expected = {"first": variances[:2].sum(), "second": variances[2], "total": variances.sum()}
    assert covariance_trace(groups) == pytest.approx(expected, rel=1e-12)


def test_noise_scale_divides_by_the_squared_mean_without_its_own_noise(groups):
    trace = EXAMPLES.var(0, ddof=1).sum()
    expected = trace / (np.square(EXAMPLES.mean(0)).sum() - trace / 40)
    assert noise_scale(groups) == pytest.approx(expected, rel=1e-12)


def test_jackknife_of_a_mean_is_its_standard_error(groups):
    def mean(some):
        return sum(group.total["second"][0] for group in some) / sum(group.num_examples for group in some)

    means = EXAMPLES[:, 2].reshape(4, 10).mean(1)
    found = jackknife(mean, groups)
    assert found.mean == pytest.approx(means.mean(), rel=1e-12)
    assert found.standard_error == pytest.approx(means.std(ddof=1) / 2, rel=1e-12)
