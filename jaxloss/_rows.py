"""Losses with one value for each row of logits: labels, masks and weights, read and reduced in one way.

A row is one example or one token: the input's shape without its class axis.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxloss import _checks
from jaxloss._reduction import REDUCTIONS, compute_dtype, reduce_loss, select


class LabelRows(NamedTuple):
    """Logits in the dtype of the computation; for each row a valid label, if it takes part, its weight."""

    logits: jax.Array
    labels: jax.Array
    kept: jax.Array
    weight: jax.Array
    axis: int


def row_shape(input: jax.Array, axis: int) -> tuple[int, ...]:
    """The shape of `input` without its class axis."""
    return input.shape[:axis] + input.shape[axis + 1 :]


def as_sample_weight(
    sample_weight, shape: tuple[int, ...], of: str = "one number for each row"
) -> jax.Array | None:
    """`sample_weight` as an array of exactly `shape`, or None."""
    if sample_weight is None:
        return None
    array = _checks.as_floats("sample_weight", sample_weight)
    _checks.check_shape("sample_weight", array, shape, of)
    return array


def label_rows(input, target, weight, ignore_index, where, sample_weight, axis) -> LabelRows:
    """Checked arguments of a loss on labels.

    A label that is no class has the weight NaN, which poisons value and gradient; `ignore_index` and `where`
    decide who takes part, and whatever else those rows hold is selected away.
    """
    logits = _checks.as_floats("input", input)
    axis = _checks.class_axis(logits, axis)
    ignore_index = _checks.check_integer("ignore_index", ignore_index)
    weight = _checks.as_class_weight(weight, logits.shape[axis])
    rows = row_shape(logits, axis)
    labels = _checks.as_labels("target", target)
    _checks.check_shape("target", labels, rows, "that of input without its class axis, to hold class indices")
    where = _checks.as_mask("where", where, rows, "one value for each row")
    sample_weight = as_sample_weight(sample_weight, rows)
    dtype = compute_dtype(logits, weight, sample_weight)

    kept = not_ignored(labels, ignore_index)
    kept = kept if where is None else kept & where
    in_range = (labels >= 0) & (labels < logits.shape[axis])
    index = jnp.where(kept & in_range, labels, 0)
    row_weight = jnp.ones(rows, dtype) if weight is None else weight.astype(dtype)[index]
    if sample_weight is not None:
        row_weight = row_weight * select(kept, sample_weight.astype(dtype))
    row_weight = jnp.where(in_range, row_weight, jnp.nan)
    return LabelRows(logits.astype(dtype), jnp.where(kept, labels, 0), kept, select(kept, row_weight), axis)


def not_ignored(labels: jax.Array, ignore_index: int) -> jax.Array:
    """Where the labels differ from `ignore_index`."""
    info = jnp.iinfo(labels.dtype)
    # A Python int beyond the labels' dtype equals none of them, and comparing it would overflow.
    return labels != ignore_index if info.min <= ignore_index <= info.max else jnp.ones(labels.shape, bool)


def check_rows(input: jax.Array, reduction, where, sample_weight, axis: int):
    """The checked class axis, mask and weights of a loss without labels."""
    axis = _checks.class_axis(input, axis)
    _checks.check_choice("reduction", reduction, REDUCTIONS)
    rows = row_shape(input, axis)
    where = _checks.as_mask("where", where, rows, "one value for each row")
    return axis, where, as_sample_weight(sample_weight, rows)


def reduce_weighted(loss: jax.Array, reduction: str, where, weight) -> jax.Array:
    """Reduce `loss * weight`; the mean divides by the sum of the weights of the elements that take part."""
    if weight is None:
        return reduce_loss(loss, reduction, where)
    weight = select(where, weight.astype(loss.dtype))
    return reduce_loss(select(where, loss) * weight, reduction, where, jnp.sum(weight))
