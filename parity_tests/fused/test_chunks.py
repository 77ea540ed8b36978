"""The chunk loop where small problems do not reach it: blocks, statistics, bad labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloss.fused import linear_cross_entropy
from parity_tests.compare import assert_same, assert_within
from parity_tests.tolerances import VALUE_EPS_OF_MAX

rng = np.random.default_rng(0)
HIDDEN, HEAD = jnp.asarray(rng.standard_normal((7, 2))), jnp.asarray(rng.standard_normal((5, 2)))
LABELS = jnp.asarray([0, 4, 3, 2, -100, 3, 1])
CHUNKED = {"implementation": "chunked", "chunk_size": 3}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_value_alone_adds_up_over_the_chunks(reduction):
    value = linear_cross_entropy(HIDDEN, HEAD, LABELS, reduction=reduction, **CHUNKED)
    whole = linear_cross_entropy(HIDDEN, HEAD, LABELS, reduction=reduction, implementation="reference")
    assert_within(value, whole, VALUE_EPS_OF_MAX)


def test_a_vocabulary_beyond_the_blocks_of_the_weights_gradient():
    # On CPU the gradient is added to in blocks of 4,096 rows: here one and a rest.
    head, labels = jnp.asarray(rng.standard_normal((4100, 2))), LABELS * 1024
    gradients = [
        jax.grad(lambda w, o=options: linear_cross_entropy(HIDDEN, w, labels, ignore_index=-102400, **o))(
            head
        )
        for options in (CHUNKED, {"implementation": "reference"})
    ]
    assert_within(*gradients, VALUE_EPS_OF_MAX)
    assert jnp.any(gradients[0][4096:] != 0)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_statistics_have_no_derivative(reduction):
    def total(head):
        options = {"reduction": reduction, "return_statistics": True} | CHUNKED
        _, statistics = linear_cross_entropy(HIDDEN, head, LABELS, **options)
        return jnp.sum(statistics.logsumexp + statistics.entropy)

    assert_same(jax.grad(total)(HEAD), np.zeros(HEAD.shape))


def test_a_label_out_of_range_is_never_correct():
    hidden, head = jnp.ones((2, 1)), jnp.array([[1.0], [0.0]])
    options = {"return_statistics": True, "implementation": "chunked", "chunk_size": 1}
    _, statistics = linear_cross_entropy(hidden, head, jnp.array([0, 5]), **options)
    assert_same(statistics.is_correct, [True, False])
