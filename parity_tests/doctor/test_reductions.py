"""Parts against the whole, masks against deletion, and a million terms in bfloat16."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss
from jaxloss.doctor.checks import reductions
from jaxloss.doctor.inputs import KINDS
from jaxloss.doctor.subject import Subject


def examined(loss, kind="real", dtypes=("float32",)):
    return reductions.check(Subject(loss, KINDS[kind], dtypes, 600.0))


@pytest.mark.parametrize(
    ("loss", "over"),
    [
        (jaxloss.mse_loss, "mean"),
        (lambda x, y: jnp.sum((x - y) ** 2), "sum"),
        (lambda x, y: jnp.sqrt(jnp.mean((x - y) ** 2)), "needs all of it"),
        (jaxloss.correlation_loss, "needs all of it"),
    ],
)
def test_parts_are_put_together_as_the_whole_is(loss, over):
    assert examined(loss).figures["over the batch"] == over


def squared_error(x, y, *, reduction="sum"):
    return getattr(jnp, reduction)((x - y) ** 2)


@pytest.mark.parametrize(
    ("loss", "severity"),
    [
        (lambda x, y: jnp.sum((x - y) ** 2), "warning"),
        (squared_error, "note"),
        (partial(squared_error, reduction="sum"), "note"),
    ],
)
def test_a_sum_is_warned_of_unless_it_can_be_chosen(loss, severity):
    findings = [(f.severity, f.message) for f in examined(loss).findings if "where" not in f.message]
    assert findings == [(severity, "it is a sum over the examples")]


def test_inputs_without_a_finite_loss_are_left_out():
    result = examined(lambda x, y: -jnp.mean(jnp.log(x / y)))
    assert result.figures["over the batch"] == "mean"
    assert all(f.severity == "note" for f in result.findings)
    nowhere = examined(lambda x, y: jnp.mean(jnp.log(-1.0 - (x - y) ** 2)))
    assert (nowhere.findings, list(nowhere.figures)) == ((), ["over the batch"])


def test_terms_added_in_16_bits_of_the_loss_itself():
    def in_float16(x, y):
        return jnp.sum(((x - y) ** 2).astype(jnp.float16)).astype(x.dtype) / len(x)

    result = examined(in_float16)
    assert result.figures["over the batch"] == "mean"
    (finding,) = (f for f in result.findings if f.severity == "error")
    assert finding.message == "over a million terms in float16 it is inf"


def test_a_weighted_mean_is_whole_by_its_parts():
    def loss(logits, labels, reduction="mean"):
        weight = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
        return jaxloss.cross_entropy(logits, labels, weight, reduction=reduction)

    result = examined(loss, "classes")
    assert result.figures["over the batch"] == "mean by its parts"
    assert result.figures["parts against the whole"] < 1e-12


def test_masks_of_a_right_loss_delete():
    result = examined(jaxloss.cross_entropy, "classes")
    assert not result.findings
    assert result.figures["masked against deleted"] < 1e-12
    assert result.figures["with NaN there"] < 1e-12
    assert np.isnan(result.figures["mean of nothing"])


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            lambda x, y, where: jnp.sum(jnp.where(where, x - y, 0.0) ** 2) / len(x),
            "masked rows still count",
        ),
        (lambda x, y, where: jnp.sum((x - y) ** 2 * where) / jnp.sum(where), "NaN .* reaches the value"),
        (lambda x, y, where: jnp.mean((x - y) ** 2, where=where), "NaN .* reaches the gradient"),
    ],
)
def test_masks_of_careless_losses_are_found_out(loss, message):
    def with_default(x, y, where=None):
        return loss(x, y, jnp.ones(x.shape, bool) if where is None else where)

    (finding,) = examined(with_default).findings
    assert finding.severity == "error"
    assert re.search(message, finding.message)


def test_a_mask_by_another_name_is_said_to_be_left_out():
    (finding,) = examined(lambda x, y, mask=1.0: jnp.mean((x - y) ** 2 * mask)).findings
    assert finding.message.startswith("its mask= is not examined")


def test_an_empty_part_of_a_sum_adds_nothing():
    def summed(x, y, where=None):
        where = jnp.ones(x.shape, bool) if where is None else where
        total = jnp.sum(jnp.where(where, jnp.where(where, x - y, 0.0) ** 2, 0.0))
        return total * jnp.sum(where) / jnp.sum(where)

    (finding,) = (f for f in examined(summed).findings if f.severity == "error")
    assert "a part without any row adds nan to the sum" in finding.message


def test_a_million_terms_are_added_in_bfloat16():
    loss = jaxloss.mse_loss
    assert examined(loss, dtypes=("bfloat16",)).figures["a million terms in bfloat16, relative error"] < 1e-3

    def in_a_loop(x, y):
        total, _ = jax.lax.scan(lambda total, e: (total + e * e, None), jnp.zeros((), x.dtype), x - y)
        return total / len(x)

    (finding,) = (f for f in examined(in_a_loop, dtypes=("bfloat16",)).findings if f.severity == "error")
    assert "over a million terms in bfloat16" in finding.message
    assert finding.number > 0.9
