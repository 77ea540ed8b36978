"""None, sum, mean and its parts, and the one definition of each mean's denominator."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxloss import _checks
from jaxloss._mesh import lie_as

REDUCTIONS = ("none", "mean", "sum", "parts")


def compute_dtype(*arrays: jax.Array | None) -> jnp.dtype:
    """The dtype that a loss of these arrays is computed and returned in: the widest, at least float32.

    Integers have no say in it, nor have Python numbers, as everywhere in JAX, unless there is nothing else.
    """
    given = [a for a in arrays if a is not None and jnp.issubdtype(a.dtype, jnp.floating)]
    dtypes = [array.dtype for array in given if not array.weak_type] or [array.dtype for array in given]
    # Not `jnp.promote_types`, which under JAX's strict promotion refuses two that differ.
    return max([jnp.dtype(jnp.float32), *dtypes], key=lambda dtype: dtype.itemsize)


def select(where: jax.Array | None, array: jax.Array, *, axis: int | None = None) -> jax.Array:
    """`array` where the mask holds, 0 elsewhere; with `axis`, the mask is one of rows and lacks that axis.

    A mask never multiplies: 0 * NaN is NaN, and so is its gradient. Selecting before a loss keeps masked NaN
    out of the gradient, selecting after it keeps the loss of the zeros out of the value.
    """
    if where is None:
        return array
    where = where if axis is None else jnp.expand_dims(where, axis)
    return jnp.where(lie_as(where, array), array, jnp.zeros((), array.dtype))


def reduce_loss(
    loss: jax.Array,
    reduction: str,
    where: jax.Array | None = None,
    denominator: jax.Array | None = None,
) -> Any:
    """Reduce elementwise losses; elements outside `where` count as deleted.

    The mean divides by `denominator`, by default the number of elements that take part. A mean over nothing
    is 0 / 0, NaN, as in torch; a sum over nothing is 0; with "none", deleted elements hold 0. With "parts",
    the sum and the denominator come undivided.
    """
    _checks.check_choice("reduction", reduction, REDUCTIONS)
    loss = select(where, loss)
    if reduction == "none":
        return loss
    total = jnp.sum(loss)
    if reduction == "sum":
        return total
    if denominator is None:
        denominator = count(loss, where)
    return (total, denominator) if reduction == "parts" else weighted_mean(total, denominator)


def as_denominator(denominator, reduction: str) -> _checks.Scalar | None:
    """What a mean is told to divide by: a positive number, or an array, NaN where it is none."""
    if denominator is None:
        return None
    if reduction != "mean":
        raise ValueError(
            f"denominator must be None with reduction={reduction!r}, which divides by nothing; got a number."
        )
    return _checks.as_scalar("denominator", denominator, low=0.0, open_low=True, open_high=True)


def weighted_mean(total: jax.Array, total_weight: jax.Array) -> jax.Array:
    """`total / total_weight`; where the weight is 0, NaN in value and gradient, whatever the total.

    The total need not be 0 too: a smoothed label spreads its loss over classes that weigh more than its own.
    """
    return total / jnp.where(total_weight == 0.0, jnp.nan, total_weight)


def value_of(loss: Any) -> jax.Array:
    """A loss, which may come as `(sum, count)`."""
    return weighted_mean(*loss) if isinstance(loss, tuple) else loss


def count(loss: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """The number of elements that take part, in the dtype of the loss."""
    if where is None:
        return jnp.asarray(loss.size, loss.dtype)
    return jnp.sum(where).astype(loss.dtype)
