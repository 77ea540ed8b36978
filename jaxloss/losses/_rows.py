"""Losses with one value for each row of logits: labels, masks and weights, read and reduced in one way.

A row is one example or one token: the input's shape without its class axis.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxloss import _checks
from jaxloss._checked import check_labels
from jaxloss._mesh import lie_as, take
from jaxloss._reduction import REDUCTIONS, compute_dtype, reduce_loss, select


class LabelRows(NamedTuple):
    """A loss's checked input; for each row its label, whether it is valid (takes part), and its weights.

    `label_weight` is the weight of the label's class: 0 in a row that is not valid, NaN for a label out of
    range, which poisons value and gradient. `class_weight` is that of all classes, if given.
    """

    input: jax.Array
    labels: jax.Array
    valid: jax.Array
    label_weight: jax.Array
    sample_weight: jax.Array | None
    axis: int
    class_weight: jax.Array | None

    @property
    def logits(self) -> jax.Array:
        """The input in the dtype of the computation."""
        return self.input.astype(self.label_weight.dtype)

    @property
    def weight(self) -> jax.Array:
        """The weight of each row: of its label's class, and its own."""
        return self.label_weight if self.sample_weight is None else self.label_weight * self.sample_weight


def row_shape(input: jax.Array, axis: int) -> tuple[int, ...]:
    """The shape of `input` without its class axis."""
    return input.shape[:axis] + input.shape[axis + 1 :]


def label_rows(input, target, weight, ignore_index, where, sample_weight, axis) -> LabelRows:
    """The arguments of a loss on labels, checked.

    Rows that `ignore_index` or `where` leave out may hold anything: it is selected away.
    """
    input = _checks.as_floats("input", input)
    axis = _checks.class_axis(input, axis)
    ignore_index = _checks.check_integer("ignore_index", ignore_index)
    num_classes, rows = input.shape[axis], row_shape(input, axis)
    weight = _checks.as_class_weight(weight, num_classes)
    labels = _checks.as_labels("target", target)
    _checks.check_shape("target", labels, rows, "that of input without its class axis, to hold class indices")
    labels, valid = lie_along(input, axis, labels, _checks.not_ignored(target, ignore_index))
    where, sample_weight = row_arguments(input, axis, where, sample_weight)
    dtype = compute_dtype(input, weight, sample_weight)

    valid = valid if where is None else valid & where
    in_range = (labels >= 0) & (labels < num_classes)
    check_labels("target", target, valid, num_classes)
    weight = None if weight is None else weight.astype(dtype)
    if weight is None or num_classes == 0:
        label_weight = jnp.ones(rows, dtype)
    else:
        label_weight = take(weight, jnp.where(valid & in_range, labels, 0))
    # NaN is not even made for rows that are not valid: JAX's debug_nans looks at every step.
    label_weight = select(valid, jnp.where(in_range | ~valid, label_weight, jnp.nan))
    if sample_weight is not None:
        sample_weight = select(valid, sample_weight.astype(dtype))
    return LabelRows(input, jnp.where(valid, labels, 0), valid, label_weight, sample_weight, axis, weight)


def check_rows(input: jax.Array, reduction, where, sample_weight, axis: int):
    """The checked class axis, mask and weights of a loss without labels."""
    axis = _checks.class_axis(input, axis)
    _checks.check_choice("reduction", reduction, REDUCTIONS)
    return axis, *row_arguments(input, axis, where, sample_weight)


def row_arguments(input: jax.Array, axis: int, where, sample_weight):
    """The checked mask and weights of rows, lying on a mesh as the input's rows do."""
    rows = row_shape(input, axis)
    where = _checks.as_mask("where", where, rows, "one value for each row")
    return lie_along(input, axis, where, _checks.as_sample_weight(sample_weight, rows))


def lie_along(input: jax.Array, axes: int | tuple[int, ...], *arrays):
    """The arrays of rows, lying on a mesh as the input without `axes` does; None stays None."""
    without = axes if isinstance(axes, tuple) else (axes,)
    return tuple(None if array is None else lie_as(array, input, without=without) for array in arrays)


def check_classes(input: jax.Array, axis: int) -> None:
    """Raise unless there is a class: a softmax over none is no distribution."""
    if input.shape[axis] == 0:
        raise ValueError(f"input must have at least one class; got {_checks.describe(input)}.")


def reduce_weighted(loss: jax.Array, reduction: str, where, weight) -> Any:
    """Reduce `loss * weight`; the mean divides by the sum of the weights of the elements that take part."""
    if weight is None:
        return reduce_loss(loss, reduction, where)
    weight = select(where, weight.astype(loss.dtype))
    return reduce_loss(loss * weight, reduction, where, jnp.sum(weight))
