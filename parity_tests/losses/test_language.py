"""next_token_loss and final_token_loss against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import torch_ref.losses
from jaxloss import losses
from parity_tests.compare import assert_same, assert_within
from parity_tests.losses.promises import (
    EACH_REDUCTION,
    assert_masking_deletes,
    assert_matches_torch,
    assert_transforms,
)

LOSSES = ["next_token_loss", "final_token_loss"]
B, T, V = 3, 4, 11
rng = np.random.default_rng(0)
LOGITS = rng.standard_normal((B, T, V))
TARGET = rng.integers(0, V, (B, T))
TARGET[0, 1] = TARGET[2, -1] = -100
MASK = rng.random((B, T)) > 0.3
MASK[:, 0] = ~MASK[:, -1]


@pytest.mark.parametrize("name", LOSSES)
def test_matches_torch(name):
    cases = [smoothing | each for smoothing in ({}, {"label_smoothing": 0.1}) for each in EACH_REDUCTION]
    for weighted in ({}, {"weight": rng.random(V)}):
        arrays = {"logits": LOGITS, "target": TARGET} | weighted
        ours, theirs = getattr(losses, name), getattr(torch_ref.losses, name)
        assert_matches_torch(ours, theirs, arrays, cases, wrt=("logits",))


def test_where_equals_deletion_and_keeps_nan_out():
    arrays = {"logits": LOGITS, "target": TARGET}
    ours, theirs = losses.next_token_loss, torch_ref.losses.next_token_loss
    assert_masking_deletes(ours, theirs, arrays, MASK, wrt=("logits",))
    # Of a mask of whole sequences, the final token's loss looks at the last column.
    ours, theirs = (_where_of_sequences(side.final_token_loss) for side in (losses, torch_ref.losses))
    assert_masking_deletes(ours, theirs, arrays, MASK[:, -1], wrt=("logits",))


def _where_of_sequences(loss):
    def call(logits, target, where=None, **options):
        if where is not None:
            where = where[:, None] & (target == target)
        return loss(logits, target, where=where, **options)

    return call


def test_sum_is_the_negative_log_likelihood_of_the_sequence():
    tokens = np.abs(TARGET) % V
    log_p = np.asarray(jax.nn.log_softmax(LOGITS))
    expected = -sum(log_p[b, t, tokens[b, t]] for b in range(B) for t in range(T))
    assert_within(losses.next_token_loss(LOGITS, jnp.asarray(tokens), reduction="sum"), expected, 16)
    last = -sum(log_p[b, -1, tokens[b, -1]] for b in range(B))
    assert_within(losses.final_token_loss(LOGITS, jnp.asarray(tokens), reduction="sum"), last, 16)


def test_objectives_agree_on_one_position_and_on_a_mask_of_the_last():
    one = {"logits": jnp.asarray(LOGITS[:, -1:]), "target": jnp.asarray(TARGET[:, -1:])}
    assert_same(losses.final_token_loss(**one), losses.next_token_loss(**one))
    last = np.zeros((B, T), bool)
    last[:, -1] = True
    masked = losses.next_token_loss(jnp.asarray(LOGITS), jnp.asarray(TARGET), where=jnp.asarray(last))
    assert_within(masked, losses.final_token_loss(jnp.asarray(LOGITS), jnp.asarray(TARGET)), 4)


def test_final_token_loss_does_not_look_at_earlier_positions():
    poisoned = np.where(np.arange(T)[:, None] < T - 1, np.nan, LOGITS)
    target = np.where(np.arange(T) < T - 1, 10**6, TARGET)
    value, gradient = jax.value_and_grad(losses.final_token_loss)(jnp.asarray(poisoned), jnp.asarray(target))
    assert_same(value, losses.final_token_loss(jnp.asarray(LOGITS), jnp.asarray(TARGET)))
    assert_same(gradient[:, :-1], np.zeros((B, T - 1, V)))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("token", [V, -1, 50257])
def test_token_outside_the_vocabulary_poisons_value_and_gradient(name, token):
    target = np.where(np.arange(T) == T - 1, token, TARGET)
    value, gradient = jax.value_and_grad(getattr(losses, name))(jnp.asarray(LOGITS), jnp.asarray(target))
    assert jnp.isnan(value)
    assert jnp.isnan(gradient[:, -1]).all()


def test_any_number_of_leading_axes():
    logits, target = jnp.asarray(LOGITS), jnp.asarray(TARGET)
    for name in LOSSES:
        loss = getattr(losses, name)
        rows = loss(logits, target, reduction="none")
        assert_within(loss(logits[None], target[None], reduction="none"), rows[None], 1)
        assert_within(loss(logits[0], target[0], reduction="none"), rows[0], 1)


@pytest.mark.parametrize("name", LOSSES)
def test_transforms(name):
    target = np.abs(TARGET[:1]) % V
    assert_transforms(getattr(losses, name), LOGITS[:1], target)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"target": np.zeros((2, 2), int)},
            ValueError,
            r"target must have shape \[2, 3\].*got int64\[2, 2\]",
        ),
        ({"target": np.zeros((1, 3), int)}, ValueError, r"target must have shape \[2, 3\]"),
        ({"target": np.zeros((2, 3))}, TypeError, r"target must hold class indices.*float64\[2, 3\]"),
        ({"logits": np.zeros(5)}, ValueError, r"logits must have shape \[..., T, V\]; got float64\[5\]"),
        ({"logits": np.zeros((2, 3, 5), int)}, TypeError, "logits must be floating point"),
        ({"where": np.ones(2, bool)}, ValueError, r"where must have shape \[2, 3\]"),
        ({"weight": np.ones(4)}, ValueError, r"weight must have shape \[5\]"),
    ],
)
def test_bad_input_is_named_at_trace_time(name, change, error, message):
    good = {"logits": np.zeros((2, 3, 5)), "target": np.zeros((2, 3), int)}
    with pytest.raises(error, match=message):
        getattr(losses, name)(**(good | change))


def test_final_token_loss_needs_a_position():
    with pytest.raises(ValueError, match="logits must have at least one position"):
        losses.final_token_loss(np.zeros((2, 0, 5)), np.zeros((2, 0), int))
