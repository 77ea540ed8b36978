"""Per-token weights of the cross entropies: parity, masks, and what a weight means."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss.losses.classification as ours
import torch_ref.losses.classification as theirs
from jaxloss.losses import language
from parity_tests.compare import assert_same, assert_within
from parity_tests.losses.promises import EACH_REDUCTION, assert_masking_deletes, assert_matches_torch
from parity_tests.tolerances import VALUE_EPS_OF_MAX
from torch_ref.losses import language as torch_language

N, C = 7, 5
rng = np.random.default_rng(0)
LOGITS = rng.standard_normal((N, C)) * 3.0
LABELS = np.array([0, 4, 3, 2, -100, 3, 1])
PROBABILITIES = rng.dirichlet(np.ones(C), N)
WEIGHT = np.array([0.5, 1.0, 0.0, 2.0, 1.5])
SAMPLE_WEIGHT = np.array([1.0, 0.5, 2.0, 1.0, 3.0, 0.0, 0.25])
MASK = np.array([True, False, True, True, True, False, True])


@pytest.mark.parametrize("case", ["labels", "smoothed", "probabilities", "nll"])
def test_sample_weight_matches_torch(case):
    name = "nll_loss" if case == "nll" else "cross_entropy"
    target = PROBABILITIES if case == "probabilities" else LABELS
    arrays = {"input": LOGITS, "target": target, "weight": WEIGHT, "sample_weight": SAMPLE_WEIGHT}
    cases = [each | ({"label_smoothing": 0.1} if case == "smoothed" else {}) for each in EACH_REDUCTION]
    wrt = ("input", "sample_weight")
    assert_matches_torch(getattr(ours, name), getattr(theirs, name), arrays, cases, wrt=wrt)


@pytest.mark.parametrize("name", ["next_token_loss", "final_token_loss"])
def test_sample_weights_match_torch(name):
    arrays = {
        "logits": rng.standard_normal((2, 3, C)),
        "target": rng.integers(0, C, (2, 3)),
        "sample_weight": rng.uniform(size=(2, 3)),
    }
    wrt = ("logits", "sample_weight")
    assert_matches_torch(
        getattr(language, name), getattr(torch_language, name), arrays, EACH_REDUCTION, wrt=wrt
    )


def test_where_equals_deletion_and_keeps_nan_out():
    arrays = {"input": LOGITS, "target": np.abs(LABELS) % C, "sample_weight": SAMPLE_WEIGHT}
    assert_masking_deletes(
        ours.cross_entropy, theirs.cross_entropy, arrays, MASK, wrt=("input", "sample_weight")
    )


def test_a_weight_of_2_is_a_row_twice_and_of_1_nothing():
    logits, labels = jnp.asarray(LOGITS), jnp.asarray(LABELS)
    weight = jnp.ones(N).at[0].set(2.0)
    twice = [jnp.concatenate([a, a[:1]]) for a in (logits, labels)]
    assert_within(
        ours.cross_entropy(logits, labels, sample_weight=weight), ours.cross_entropy(*twice), VALUE_EPS_OF_MAX
    )
    assert_same(
        ours.cross_entropy(logits, labels, sample_weight=jnp.ones(N)), ours.cross_entropy(logits, labels)
    )


@pytest.mark.parametrize("loss", [ours.cross_entropy, ours.nll_loss])
def test_weights_of_another_shape_are_refused(loss):
    with pytest.raises(ValueError, match=r"sample_weight must have shape \[7\], one number for each row"):
        loss(jnp.asarray(LOGITS), jnp.asarray(LABELS), sample_weight=jnp.ones(1))
    tokens = jnp.zeros((2, 3, C)), jnp.zeros((2, 3), int)
    with pytest.raises(ValueError, match=r"sample_weight must have shape \[2, 3\], that of target"):
        language.final_token_loss(*tokens, sample_weight=jnp.ones(2))
