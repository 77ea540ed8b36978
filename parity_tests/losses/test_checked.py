"""make_checked: raises with the offending index and label or length, eagerly and through checkify."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.experimental import checkify

import jaxloss
import torch_ref.fused
import torch_ref.losses
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


TORCH = SimpleNamespace(**vars(torch_ref.losses) | vars(torch_ref.fused))
SEQUENCES = {"log_probs": np.zeros((6, 2, 4)), "input_lengths": (6, 5), "target_lengths": (2, 1)}
PADDED, IN_ONE_ROW = np.array([[1, 2], [3, 9]]), np.array([1, 2, 3])
HIDDEN, HEAD = np.ones((2, 3, 2)), np.zeros((5, 2))
SIGNS = np.array([1, -1])
OTHERS = [
    (
        "multilabel_margin_loss",
        {"input": np.zeros((2, 3)), "target": np.array([[0, -1, 0], [1, 2, -1]])},
        None,
    ),
    (
        "multilabel_margin_loss",
        {"input": np.zeros((2, 3)), "target": np.array([[0, -2, 0], [1, 2, -1]])},
        r"target\[0, 1\] is -2, outside \[-1, 3\); 1 of 6 labels",
    ),
    ("soft_margin_loss", {"input": np.zeros(2), "target": SIGNS}, None),
    ("cosine_embedding_loss", {"input1": HEAD[:2], "input2": HEAD[:2], "target": SIGNS}, None),
    ("final_token_loss", {"logits": HIDDEN, "target": np.array([[9, 9, 1], [-7, 9, -100]])}, None),
    (
        "final_token_loss",
        {"logits": HIDDEN, "target": _with((1, 2, 2))},
        r"target\[1\] is 2, outside \[0, 2\); 1 of 2 labels",
    ),
    ("linear_next_token_loss", {"input": HIDDEN, "linear_weight": HEAD, "target": LABELS}, None),
    (
        "linear_next_token_loss",
        {"input": HIDDEN, "linear_weight": HEAD, "target": _with((1, 0, 5))},
        r"target\[1, 0\] is 5, outside \[0, 5\); 1 of 6 labels",
    ),
    (
        "linear_final_token_loss",
        {
            "input": HIDDEN,
            "linear_weight": HEAD,
            "target": _with((1, 0, 7), (0, 2, 9), (1, 2, 1)),
            "ignore_index": 9,
        },
        None,
    ),
    (
        "linear_final_token_loss",
        {"input": HIDDEN, "linear_weight": HEAD, "target": _with((1, 0, 7), (1, 2, 5))},
        r"target\[1\] is 5, outside \[0, 5\); 1 of 2 labels",
    ),
    ("multi_margin_loss", {"input": HIDDEN[0], "target": LABELS[1] % 2}, None),
    (
        "multi_margin_loss",
        {"input": HIDDEN[0], "target": LABELS[1]},
        r"target\[0\] is 2, outside \[0, 2\); 2 of 3 labels",
    ),
    ("group_gap_penalty", {"input": np.zeros(3), "group": np.array([0, 1, -100]), "num_groups": 2}, None),
    (
        "group_gap_penalty",
        {"input": np.zeros(3), "group": np.array([0, 2, 1]), "num_groups": 2},
        r"group\[1\] is 2, outside \[0, 2\); 1 of 3 groups",
    ),
    ("ctc_loss", SEQUENCES | {"targets": PADDED}, None),
    ("ctc_loss", SEQUENCES | {"targets": IN_ONE_ROW}, None),
    (
        "ctc_loss",
        SEQUENCES | {"targets": PADDED, "target_lengths": (2, 2)},
        r"targets\[1, 1\] is 9, outside \[0, 4\); 1 of 4 labels",
    ),
    (
        "ctc_loss",
        SEQUENCES | {"targets": IN_ONE_ROW, "target_lengths": (1, 3)},
        r"must hold the sum of target_lengths, 4|cumsum\(target_lengths\)\[1\] is 4, outside \[0, 4\)",
    ),
    (
        "ctc_loss",
        SEQUENCES | {"targets": PADDED, "input_lengths": (6, 7)},
        r"input_lengths\[1\] is 7, outside \[0, 7\); 1 of 2 lengths",
    ),
    (
        "ctc_loss",
        SEQUENCES | {"targets": PADDED, "target_lengths": (2, -1)},
        r"target_lengths\[1\] is -1, outside \[0, 3\); 1 of 2 lengths",
    ),
    (
        "ctc_loss",
        SEQUENCES | {"targets": np.array([9, 2, 7]), "where": np.array([False, True])},
        r"targets\[1, 0\] is 7, outside \[0, 4\); 1 of 4 labels",
    ),
    (
        "ctc_loss",
        SEQUENCES | {"targets": np.array([9, 5, 1]), "where": np.array([False, True])},
        None,
    ),
]


@pytest.mark.parametrize(("name", "arguments", "message"), OTHERS)
def test_each_loss_is_checked_for_what_it_looks_at(name, arguments, message):
    tensors = {k: torch.tensor(a) if isinstance(a, np.ndarray) else a for k, a in arguments.items()}
    for package, make, given in ((jaxloss, make_checked, arguments), (TORCH, torch_make_checked, tensors)):
        loss = getattr(package, name)
        checked = make(loss)
        if message is None:
            assert checked(**given) == loss(**given)
        else:
            with pytest.raises(ValueError, match=message):
                checked(**given)


def test_lengths_and_groups_are_checked_under_jit():
    step = jax.jit(checkify.checkify(make_checked(jaxloss.ctc_loss)))
    arguments = {name: jnp.asarray(value) for name, value in (SEQUENCES | {"targets": IN_ONE_ROW}).items()}
    error, _ = step(**arguments)
    error.throw()
    error, _ = step(**(arguments | {"target_lengths": jnp.array([2, 3])}))
    with pytest.raises(checkify.JaxRuntimeError, match=r"cumsum\(target_lengths\)\[1\] is 5"):
        error.throw()


def test_probabilities_and_absent_labels_pass():
    probabilities = jax.nn.softmax(jnp.asarray(LOGITS))
    assert jnp.isfinite(make_checked(cross_entropy)(jnp.asarray(LOGITS), probabilities))
    assert jnp.isfinite(make_checked(jaxloss.linear_cross_entropy)(HIDDEN, HEAD, probabilities))
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


def test_a_function_that_was_jitted_without_checks_is_traced_again_with_them():
    loss, wrong = jax.jit(cross_entropy), jnp.asarray(_with((0, 1, 5)))
    assert jnp.isnan(loss(jnp.asarray(LOGITS), wrong))
    error, _ = checkify.checkify(make_checked(loss))(jnp.asarray(LOGITS), wrong)
    with pytest.raises(checkify.JaxRuntimeError, match=r"target\[0, 1\] is 5"):
        error.throw()
    assert jnp.isnan(loss(jnp.asarray(LOGITS), wrong))


def test_a_loss_that_is_not_checked_holds_nothing_of_the_checks():
    # Not even a check that does nothing: it would take a jitted call off JAX's fast path.
    assert not jax.make_jaxpr(cross_entropy)(jnp.asarray(LOGITS), jnp.asarray(LABELS)).effects


def test_a_users_function_is_checked_through_the_losses_that_it_calls():
    def loss(y_hat, y):
        return cross_entropy(y_hat, y) + l1_loss(y_hat, jnp.zeros_like(y_hat))

    with pytest.raises(ValueError, match=r"target\[0, 1\] is 5"):
        make_checked(loss)(jnp.asarray(LOGITS), jnp.asarray(_with((0, 1, 5))))


def test_labels_that_are_split_on_an_explicit_mesh_are_checked():
    mesh = jax.make_mesh((2,), ("a",), axis_types=(jax.sharding.AxisType.Explicit,))
    rows = jax.NamedSharding(mesh, jax.P("a"))
    logits = jax.device_put(jnp.zeros((4, 3), jnp.float32), rows)
    labels = jax.device_put(jnp.array([0, 1, 7, 2]), rows)
    checked = make_checked(cross_entropy)
    with pytest.raises(ValueError, match=r"target\[2\] is 7, outside \[0, 3\); 1 of 4 labels are"):
        checked(logits, labels)
    np.testing.assert_allclose(checked(logits, labels % 3), np.log(3.0), rtol=1e-6)
    with pytest.raises(ValueError, match=r"target\[1, 2\] is 3"):
        make_checked(jaxloss.multilabel_margin_loss)(
            logits, jax.device_put(jnp.array([[0, -1, -1], [1, 2, 3], [0, 1, -1], [2, -1, -1]]), rows)
        )
