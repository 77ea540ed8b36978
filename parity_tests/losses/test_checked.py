"""make_checked: raises with the offending index and label, eagerly and through checkify."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.experimental import checkify

from jaxloss.losses.checked import make_checked
from jaxloss.losses.classification import cross_entropy, nll_loss
from jaxloss.losses.language import next_token_loss
from jaxloss.losses.penalties import unlikelihood_loss
from jaxloss.losses.regression import l1_loss
from parity_tests.compare import assert_same
from torch_ref.losses.checked import make_checked as torch_make_checked
from torch_ref.losses.classification import cross_entropy as torch_cross_entropy

LOGITS = np.random.default_rng(0).standard_normal((2, 3, 5))
LABELS = np.array([[0, 4, -100], [2, 3, 1]])


def _with(*place_and_label):
    labels = LABELS.copy()
    for *place, label in place_and_label:
        labels[tuple(place)] = label
    return labels


@pytest.mark.parametrize("label", [5, -1, 10**6])
def test_message_names_the_first_offender_in_both_frameworks(label):
    labels = _with((0, 1, label), (1, 2, label))
    message = rf"target\[0, 1\] is {label}, outside \[0, 5\); 2 of 6 labels are"
    with pytest.raises(ValueError, match=message):
        make_checked(cross_entropy)(jnp.asarray(LOGITS), jnp.asarray(labels))
    with pytest.raises(ValueError, match=message):
        torch_make_checked(torch_cross_entropy)(torch.tensor(LOGITS), torch.tensor(labels))


def test_valid_labels_give_the_loss_itself():
    for loss in (cross_entropy, nll_loss, next_token_loss):
        arguments = jnp.asarray(LOGITS), jnp.asarray(LABELS)
        assert_same(make_checked(loss)(*arguments, reduction="none"), loss(*arguments, reduction="none"))
    assert make_checked(cross_entropy).__name__ == "cross_entropy"


def test_axis_ignore_index_and_where_are_respected():
    checked = make_checked(cross_entropy)
    moved = jnp.moveaxis(jnp.asarray(LOGITS), -1, 1)
    assert jnp.isfinite(checked(moved, jnp.asarray(LABELS), axis=1))
    assert jnp.isfinite(checked(jnp.asarray(LOGITS), jnp.asarray(_with((0, 2, -7))), ignore_index=-7))
    with pytest.raises(ValueError, match=r"target\[0, 2\] is -100"):
        checked(jnp.asarray(LOGITS), jnp.asarray(LABELS), ignore_index=-7)
    where = jnp.asarray(LABELS != 4)
    assert jnp.isfinite(checked(jnp.asarray(LOGITS), jnp.asarray(_with((0, 1, 9))), where=where))
    avoid = jnp.asarray(_with((1, 0, 5)))[:, None, :].repeat(3, 1)
    rows = jnp.zeros((2, 3), bool).at[0].set(True)
    assert jnp.isfinite(make_checked(unlikelihood_loss)(jnp.asarray(LOGITS), avoid, where=rows))
    with pytest.raises(ValueError, match=r"target\[1, 0, 0\] is 5"):
        make_checked(unlikelihood_loss)(jnp.asarray(LOGITS), avoid)


def test_probabilities_and_absent_labels_pass():
    probabilities = jax.nn.softmax(jnp.asarray(LOGITS))
    assert jnp.isfinite(make_checked(cross_entropy)(jnp.asarray(LOGITS), probabilities))
    empty = jnp.zeros((0, 5)), jnp.zeros(0, int)
    assert make_checked(cross_entropy)(*empty, reduction="sum") == 0


@pytest.mark.parametrize("wrap", [lambda f: f, jax.value_and_grad, lambda f: lambda x, y: jax.vmap(f)(x, y)])
def test_under_jit_checkify_carries_the_error_out(wrap):
    step = jax.jit(checkify.checkify(wrap(make_checked(cross_entropy))))
    error, _ = step(jnp.asarray(LOGITS), jnp.asarray(_with((0, 1, 5))))
    with pytest.raises(checkify.JaxRuntimeError, match=r"is 5, outside \[0, 5\)"):
        error.throw()
    error, _ = step(jnp.asarray(LOGITS), jnp.asarray(LABELS))
    error.throw()


def test_under_jit_alone_jax_asks_for_checkify():
    with pytest.raises(ValueError, match="checkify"):
        jax.jit(make_checked(cross_entropy))(jnp.asarray(LOGITS), jnp.asarray(LABELS))


def test_a_loss_without_labels_is_refused():
    with pytest.raises(TypeError, match="loss must have an argument target"):
        make_checked(lambda y_hat, y: 0.0)
    with pytest.raises(TypeError, match="target must hold class indices"):
        make_checked(l1_loss)(jnp.zeros(3), jnp.zeros(3, bool))
