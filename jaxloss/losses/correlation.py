"""Losses on how two series move together."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxloss import _checks
from jaxloss._reduction import reduce_loss, select
from jaxloss.losses._elements import elementwise_arguments

__all__ = ["correlation_loss"]


def correlation_loss(
    input: Float[Array, "..."],
    target: Float[Array, "..."],
    *,
    reduction: str = "mean",
    where: Bool[Array, "..."] | None = None,
    sample_weight: Float[Array, "..."] | None = None,
    axis: int | Sequence[int] | None = -1,
) -> Float[Array, "..."]:
    r"""One minus Pearson's correlation: predictions should rise and fall with the target, at any scale.

    $$\ell = 1 - r, \qquad r = \frac{\sum_i w_i (x_i - \bar x)(y_i - \bar y)}
    {\sqrt{\sum_i w_i (x_i - \bar x)^2}\, \sqrt{\sum_i w_i (y_i - \bar y)^2}}$$

    0 for a perfect linear relation, 1 for none, 2 for a perfectly inverse one. Computed as half the squared
    distance of the standardised series, which does not cancel near 0. Neither a large mean nor a huge or tiny
    scale costs accuracy.

    Args:
        input: predictions $x$.
        target: true values $y$, of the same shape.
        reduction: over the series.
        where: elements that take part; a series without any counts as deleted too.
        sample_weight: a factor $w_i \ge 0$ for each element.
        axis: the axis, or axes, along which a series runs; None for all, a single series.

    Returns:
        The loss, in [0, 2]. A series whose input or target has no variance (a single element, a constant) has
        no correlation: its loss is 1 and its gradient 0.

    Differs from torch: `torch.corrcoef` gives NaN without variance.

    Reference: Pearson 1896, "Mathematical Contributions to the Theory of Evolution. III. Regression,
    Heredity, and Panmixia" (https://doi.org/10.1098/rsta.1896.0007).

    >>> import jax.numpy as jnp
    >>> target = jnp.array([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0], [3.0, 3.0, 3.0]], jnp.float32)
    >>> scale = jnp.array([[2.0], [-1.0], [1.0]], jnp.float32)
    >>> print(correlation_loss(scale * target + 5, target, reduction="none").round(6))
    [0. 2. 1.]
    """
    (x, y, weight), where = elementwise_arguments(
        reduction, where, input=input, target=target, sample_weight=sample_weight
    )
    axes = _axes(x, axis)
    weight = select(where, jnp.ones(x.shape, x.dtype)) if weight is None else weight
    x, has_x = _standardise(x, weight, axes)
    y, has_y = _standardise(y, weight, axes)
    distance = jnp.sum(weight * jnp.square(x - y), axes) / 2
    loss = jnp.where(has_x & has_y, distance, 1.0)
    return reduce_loss(loss, reduction, None if where is None else jnp.any(where, axes))


# Jitted for JAX's debug_infs too, which looks at every step outside `jit`.
@partial(jax.jit, static_argnums=2)
def _standardise(series: jax.Array, weight: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """The series with weighted mean 0 and norm 1, and whether it has any variance."""
    counts = weight > 0.0
    # Scaled down so that no difference overflows, and that its reciprocal, by which XLA may divide, does not
    # underflow. Numbers 1e38 times below the largest are lost anyway.
    size = jnp.max(jnp.abs(series), axes, keepdims=True, initial=0.0)
    series = series * lax.stop_gradient(jnp.where(size > jnp.finfo(size.dtype).max / 16, 1 / 16, 1.0))
    # Relative to one of its own elements, a constant series is exactly 0, and so is its variance.
    first = jnp.max(jnp.where(counts, series, -jnp.inf), axes, keepdims=True, initial=-jnp.inf)
    series = series - lax.stop_gradient(jnp.where(first == -jnp.inf, 0.0, first))
    scale = jnp.max(jnp.where(counts, jnp.abs(series), 0.0), axes, keepdims=True, initial=0.0)
    # The scale cancels out of the result, and keeps the squares from overflowing and underflowing.
    series = series / lax.stop_gradient(jnp.where(scale == 0.0, 1.0, scale))
    total = jnp.sum(weight, axes, keepdims=True)
    mean = jnp.sum(weight * series, axes, keepdims=True) / jnp.where(total == 0.0, 1.0, total)
    series = series - mean
    variance = jnp.sum(weight * jnp.square(series), axes, keepdims=True)
    varies = variance != 0.0
    return series / jnp.sqrt(jnp.where(varies, variance, 1.0)), jnp.squeeze(varies, axes)


def _axes(input: jax.Array, axis) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(input.ndim))
    axes = [_checks.check_integer("axis", a) for a in (axis if isinstance(axis, Sequence) else [axis])]
    if any(not -input.ndim <= a < input.ndim for a in axes):
        raise ValueError(
            f"axis must be in [{-input.ndim}, {input.ndim}) for input {_checks.describe(input)}; got {axis}."
        )
    axes = [a % input.ndim for a in axes]
    if len(set(axes)) < len(axes):
        raise ValueError(f"axis must name each axis once; got {axis}.")
    return tuple(axes)
