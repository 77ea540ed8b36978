"""Losses on real numbers: absolute and squared error."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxloss import _checks
from jaxloss._reduction import REDUCTIONS, compute_dtype, reduce_loss, select

__all__ = ["l1_loss", "mse_loss"]


def l1_loss(
    input: Float[Array, "*dims"],
    target: Float[Array, "*dims"],
    reduction: str = "mean",
    weight: Float[Array, "*dims"] | None = None,
    *,
    where: Bool[Array, "*dims"] | None = None,
) -> Float[Array, "..."]:
    r"""Penalise the absolute error.

    $$\ell_i = w_i\, |x_i - y_i|$$

    Its gradient is the sign of the error, 0 where it is 0: robust to outliers, but steps do not shrink near
    the target.

    Args:
        input: predictions $x$.
        target: true values $y$, of the same shape.
        reduction: "mean" (divides by the sum of the weights), "sum" or "none".
        weight: a factor $w_i$ for each element, 1 by default.
        where: elements that take part; the others count as deleted.

    Returns:
        The loss in the unit of the data, at least float32: a scalar, or the shape of `input` with "none".
        Without any element, "mean" gives NaN and "sum" 0.

    Raises:
        TypeError: an argument is not floating point.
        ValueError: shapes differ, or `reduction` is unknown.

    Differs from torch: shapes that differ are an error, never broadcast; where the error is NaN so is the
    gradient, which torch gives as 0.

    Reference: Boyd and Vandenberghe 2004, "Convex Optimization", section 6.1.

    >>> import jax.numpy as jnp
    >>> print(l1_loss(jnp.array(2.0, jnp.float32), jnp.array(5.0, jnp.float32)))
    3.0
    """
    error, weight, where = _error(input, target, weight, reduction, where)
    return _reduce_weighted(_absolute(error), weight, reduction, where)


def mse_loss(
    input: Float[Array, "*dims"],
    target: Float[Array, "*dims"],
    reduction: str = "mean",
    weight: Float[Array, "*dims"] | None = None,
    *,
    where: Bool[Array, "*dims"] | None = None,
) -> Float[Array, "..."]:
    r"""Penalise the squared error.

    $$\ell_i = w_i\, (x_i - y_i)^2$$

    Its gradient shrinks in proportion to the error: smooth convergence, but an outlier weighs by its square.

    Args:
        input: predictions $x$.
        target: true values $y$, of the same shape.
        reduction: "mean" (divides by the sum of the weights), "sum" or "none".
        weight: a factor $w_i$ for each element, 1 by default.
        where: elements that take part; the others count as deleted.

    Returns:
        The loss in the squared unit of the data, at least float32: a scalar, or the shape of `input` with
        "none". Without any element, "mean" gives NaN and "sum" 0.

    Raises:
        TypeError: an argument is not floating point.
        ValueError: shapes differ, or `reduction` is unknown.

    Differs from torch: shapes that differ are an error, never broadcast.

    Reference: Boyd and Vandenberghe 2004, "Convex Optimization", section 6.1.

    >>> import jax.numpy as jnp
    >>> print(mse_loss(jnp.array(2.0, jnp.float32), jnp.array(5.0, jnp.float32)))
    9.0
    """
    error, weight, where = _error(input, target, weight, reduction, where)
    return _reduce_weighted(jnp.square(error), weight, reduction, where)


def _error(input, target, weight, reduction, where):
    """`input - target` with masked elements selected away, and the checked weight and mask."""
    input, target = _checks.as_floats("input", input), _checks.as_floats("target", target)
    _checks.check_shape("target", target, input.shape, "that of input")
    _checks.check_choice("reduction", reduction, REDUCTIONS)
    where = _checks.as_mask("where", where, input.shape, "that of input")
    if weight is not None:
        weight = _checks.as_floats("weight", weight)
        _checks.check_shape("weight", weight, input.shape, "that of input")
    dtype = compute_dtype(input, target, weight)
    error = select(where, input.astype(dtype)) - select(where, target.astype(dtype))
    return error, None if weight is None else select(where, weight.astype(dtype)), where


def _absolute(x: jax.Array) -> jax.Array:
    """`|x|` with the gradient `sign(x)`, which is 0 at 0 as in torch; that of `jnp.abs` is 1 there."""
    return x * lax.stop_gradient(jnp.sign(x))


def _reduce_weighted(loss: jax.Array, weight, reduction: str, where) -> jax.Array:
    if weight is None:
        return reduce_loss(loss, reduction, where)
    return reduce_loss(loss * weight, reduction, where, jnp.sum(weight))
