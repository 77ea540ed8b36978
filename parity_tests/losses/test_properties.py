"""What must hold for any logits: properties of the losses on classes, on inputs that hypothesis looks for.

One shape, and one compilation for each loss, which computes all that the properties compare.
"""

import functools

import hypothesis
import hypothesis.extra.numpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxloss.losses.classification import cross_entropy, nll_loss
from jaxloss.losses.correlation import correlation_loss
from jaxloss.losses.distillation import distillation_loss
from jaxloss.losses.divergence import kl_div
from jaxloss.losses.focal import focal_loss, poly_loss
from jaxloss.losses.penalties import token_set_loss, unlikelihood_loss, z_loss
from jaxloss.losses.softmax_divergence import (
    forward_kl_div,
    jensen_shannon_div,
    reverse_kl_div,
    total_variation,
)
from parity_tests.losses.promises import compiled

N, C = 3, 4
SETTINGS = hypothesis.settings(max_examples=30, deadline=None, derandomize=True, database=None)
LOGITS = hypothesis.extra.numpy.arrays(
    np.float64, (N, C), elements=st.floats(-30.0, 30.0) | st.integers(-2, 2).map(float)
)
LABELS = hypothesis.extra.numpy.arrays(np.int64, N, elements=st.integers(0, C - 1))
SET = jnp.arange(C) < 2


def _kl_of_log_softmax(x, other, labels, reduction):
    terms = kl_div(jax.nn.log_softmax(x), jax.nn.log_softmax(other), "none", log_target=True)
    return {"none": jnp.asarray, "sum": jnp.sum, "mean": jnp.mean}[reduction](terms.sum(-1))


def _nll(x, other, labels, reduction):
    return nll_loss(jax.nn.log_softmax(x), labels, reduction=reduction)


def _smoothed(x, other, labels, reduction):
    return cross_entropy(x, labels, reduction=reduction, label_smoothing=0.1)


def _distillation(x, other, labels, reduction):
    return distillation_loss(x, other, labels, 3.0, 0.5, reduction=reduction)


def _of_labels(loss):
    return lambda x, other, labels, reduction: loss(x, labels, reduction=reduction)


def _of_pairs(loss):
    return lambda x, other, labels, reduction: loss(x, other, reduction)


def _unlikelihood(x, other, labels, reduction):
    return unlikelihood_loss(x, labels[:, None], reduction=reduction)


LOSSES = {
    "cross_entropy": _of_labels(cross_entropy),
    "smoothed": _smoothed,
    "nll_loss": _nll,
    "focal_loss": _of_labels(focal_loss),
    "poly_loss": _of_labels(poly_loss),
    "unlikelihood_loss": _unlikelihood,
    "kl_div": _kl_of_log_softmax,
    "forward_kl_div": _of_pairs(forward_kl_div),
    "reverse_kl_div": _of_pairs(reverse_kl_div),
    "jensen_shannon_div": _of_pairs(jensen_shannon_div),
    "total_variation": _of_pairs(total_variation),
    "distillation_loss": _distillation,
}


@functools.cache
def _all_of(name):
    loss = LOSSES[name]

    @compiled
    def run(x, other, labels, shift, order):
        def rows(x):
            return loss(x, other, labels, "none")

        def one(x, other, label):
            return loss(x[None], other[None], label[None], "sum")

        values, pullback = jax.vjp(rows, x)
        moved_labels = jnp.argsort(order)[labels]
        return {
            "rows": values,
            "gradient": pullback(jnp.ones(N))[0],
            "shifted": rows(x + shift),
            "permuted": loss(x[:, order], other[:, order], moved_labels, "none"),
            "sum": loss(x, other, labels, "sum"),
            "mean": loss(x, other, labels, "mean"),
            "forward": jax.jvp(rows, (x,), (other,))[1],
            "one by one": jax.vmap(one)(x, other, labels),
        }

    return run


@pytest.mark.parametrize("name", LOSSES)
@SETTINGS
@hypothesis.given(x=LOGITS, other=LOGITS, labels=LABELS, shift=st.integers(-50, 50), seed=st.integers(0, 99))
def test_properties(name, x, other, labels, shift, seed):
    order = np.random.default_rng(seed).permutation(C)
    of = jax.tree.map(np.asarray, _all_of(name)(x, other, labels, float(shift), order))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-13)
    rows, gradient = of["rows"], of["gradient"]
    assert (rows >= (0.0 if name != "kl_div" else -1e-13)).all(), "negative"
    # A shift by up to 50 rounds the logits by up to 1e-14, and confident rows feel that at full strength.
    np.testing.assert_allclose(of["shifted"], rows, rtol=1e-9, atol=1e-11, err_msg="shift of all logits")
    close(of["permuted"], rows, err_msg="order of the classes")
    close(of["sum"], rows.sum(), err_msg="sum of none")
    close(of["mean"], rows.mean(), err_msg="mean of none")
    close(of["one by one"], rows, err_msg="vmap")
    close(gradient.sum(-1), 0.0, atol=1e-12, rtol=0, err_msg="gradient over the classes")
    close(of["forward"], (gradient * other).sum(-1), atol=1e-11, err_msg="jvp")


@SETTINGS
@hypothesis.given(x=LOGITS, labels=LABELS)
def test_cross_entropy_is_nll_and_the_start_of_its_family(x, labels):
    of = {
        name: np.asarray(_all_of(name)(x, x, labels, 0.0, np.arange(C))["rows"])
        for name in ("cross_entropy", "nll_loss", "focal_loss", "poly_loss")
    }
    # Of a rounded log-softmax, that is: confident rows have lost their last digits before NLL sees them.
    np.testing.assert_allclose(of["nll_loss"], of["cross_entropy"], rtol=1e-12, atol=1e-14)
    assert (of["focal_loss"] <= of["cross_entropy"]).all()
    assert (of["poly_loss"] >= of["cross_entropy"]).all()


@compiled
def _smoothings(x, labels):
    def at(smoothing):
        return cross_entropy(x, labels, reduction="none", label_smoothing=smoothing)

    return at(0.0), at(0.25), at(1.0), jnp.mean(-jax.nn.log_softmax(x), -1)


@SETTINGS
@hypothesis.given(x=LOGITS, labels=LABELS)
def test_label_smoothing_is_linear_between_the_label_and_the_uniform_distribution(x, labels):
    none, some, all_of_it, uniform = map(np.asarray, _smoothings(x, labels))
    np.testing.assert_allclose(some, 0.75 * none + 0.25 * all_of_it, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(all_of_it, uniform, rtol=1e-9)


@compiled
def _others(x, other):
    return {
        "z": (z_loss(x, "none"), jnp.square(jax.nn.logsumexp(x, -1))),
        "set": (
            token_set_loss(x, SET, 1.0, "none"),
            -jnp.log(jnp.sum(jnp.where(SET, jax.nn.softmax(x), 0.0), -1)),
        ),
        "complement": (token_set_loss(x, SET, 0.3, "none"), token_set_loss(x, ~SET, 0.7, "none")),
        "symmetry": (correlation_loss(x, other, "none"), correlation_loss(other, x, "none")),
        "scale": (correlation_loss(4.0 * x, other, "none"), correlation_loss(x, other, "none")),
        "sign": (correlation_loss(-x, other, "none"), correlation_loss(x, -other, "none")),
    }


@SETTINGS
@hypothesis.given(x=LOGITS, other=LOGITS)
def test_penalties_and_correlation(x, other):
    for name, (actual, expected) in _others(x, other).items():
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-10, err_msg=name)
