"""Losses on real numbers: absolute and squared error, and what lies between."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Num

from jaxloss import _checks
from jaxloss._checks import Scalar, in_dtype, is_number
from jaxloss._reduction import reduce_loss
from jaxloss.losses._elements import absolute, elementwise_arguments, huber, smooth_l1
from jaxloss.losses._rows import reduce_weighted

__all__ = ["huber_loss", "l1_loss", "mse_loss", "smooth_l1_loss"]


def l1_loss(
    input: Float[Array, "*dims"],
    target: Num[Array, "*dims"],
    reduction: str = "mean",
    weight: Float[Array, "*dims"] | None = None,
    *,
    where: Bool[Array, "*dims"] | None = None,
) -> Float[Array, "..."]:
    r"""Penalise the absolute error.

    $$\ell_i = w_i\, |x_i - y_i|$$

    Its gradient is the error's sign, 0 at 0: robust to outliers, but steps do not shrink near the target.

    Args:
        input: predictions $x$.
        target: true values $y$, of the same shape; integers serve as well.
        weight: a factor $w_i$ for each element, also in the denominator of the mean.

    Differs from torch: where the error is NaN so is the gradient, which torch gives as 0.

    Reference: Boyd and Vandenberghe 2004, "Convex Optimization", section 6.1.

    >>> import jax.numpy as jnp
    >>> print(l1_loss(jnp.array(2.0, jnp.float32), jnp.array(5.0, jnp.float32)))
    3.0
    """
    (x, y, w), where = elementwise_arguments(
        reduction, where, input=input, target=target, weight=weight, integers=("target",)
    )
    return reduce_weighted(absolute(x - y), reduction, where, w)


def mse_loss(
    input: Float[Array, "*dims"],
    target: Num[Array, "*dims"],
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
        target: true values $y$, of the same shape; integers serve as well.
        weight: a factor $w_i$ for each element, also in the denominator of the mean.

    Reference: Boyd and Vandenberghe 2004, "Convex Optimization", section 6.1.

    >>> import jax.numpy as jnp
    >>> print(mse_loss(jnp.array(2.0, jnp.float32), jnp.array(5.0, jnp.float32)))
    9.0
    """
    (x, y, w), where = elementwise_arguments(
        reduction, where, input=input, target=target, weight=weight, integers=("target",)
    )
    return reduce_weighted(jnp.square(x - y), reduction, where, w)


def smooth_l1_loss(
    input: Float[Array, "*dims"],
    target: Num[Array, "*dims"],
    reduction: str = "mean",
    beta: Scalar = 1.0,
    *,
    where: Bool[Array, "*dims"] | None = None,
) -> Float[Array, "..."]:
    r"""Penalise the absolute error, rounded off to a square near 0.

    $$\ell_i = \begin{cases} e_i^2 / 2\beta & |e_i| < \beta \\ |e_i| - \beta / 2 & \text{otherwise}
    \end{cases}, \qquad e_i = x_i - y_i$$

    Args:
        input: predictions $x$.
        target: true values $y$, of the same shape; integers serve as well.
        beta: where the square ends, at least 0; at 0 this is `l1_loss`.

    Reference: Girshick 2015, "Fast R-CNN", equation 3 (https://arxiv.org/abs/1504.08083).

    >>> import jax.numpy as jnp
    >>> error = jnp.array([0.5, 3.0], jnp.float32)
    >>> print(smooth_l1_loss(error, jnp.zeros(2, jnp.float32), reduction="none"))
    [0.125 2.5  ]
    """
    beta = _checks.as_scalar("beta", beta, low=0.0)
    (x, y), where = elementwise_arguments(reduction, where, input=input, target=target, integers=("target",))
    loss = absolute(x - y) if is_number(beta, 0.0) else smooth_l1(x - y, in_dtype(beta, x.dtype))
    return reduce_loss(loss, reduction, where)


def huber_loss(
    input: Float[Array, "*dims"],
    target: Num[Array, "*dims"],
    reduction: str = "mean",
    delta: Scalar = 1.0,
    weight: Float[Array, "*dims"] | None = None,
    *,
    where: Bool[Array, "*dims"] | None = None,
) -> Float[Array, "..."]:
    r"""Penalise the squared error near 0 and the absolute error beyond.

    $$\ell_i = w_i \begin{cases} e_i^2 / 2 & |e_i| \le \delta \\
    \delta\, (|e_i| - \delta / 2) & \text{otherwise} \end{cases}, \qquad e_i = x_i - y_i$$

    Args:
        input: predictions $x$.
        target: true values $y$, of the same shape; integers serve as well.
        reduction: the mean divides by the number of elements, whatever their weights.
        delta: where the square ends, above 0.
        weight: a factor $w_i$ for each element, 1 by default.

    Reference: Huber 1964, "Robust Estimation of a Location Parameter"
    (https://doi.org/10.1214/aoms/1177703732).

    >>> import jax.numpy as jnp
    >>> error = jnp.array([0.5, 3.0], jnp.float32)
    >>> print(huber_loss(error, jnp.zeros(2, jnp.float32), reduction="none", delta=2.0))
    [0.125 4.   ]
    """
    delta = _checks.as_scalar("delta", delta, low=0.0, open_low=True)
    (x, y, w), where = elementwise_arguments(
        reduction, where, input=input, target=target, weight=weight, integers=("target",)
    )
    loss = huber(x - y, in_dtype(delta, x.dtype))
    return reduce_loss(loss if w is None else loss * w, reduction, where)
