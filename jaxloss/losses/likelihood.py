"""Negative log-likelihoods of real and counted targets: Gaussian and Poisson."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Num

from jaxloss import _checks
from jaxloss._checks import Scalar, in_dtype
from jaxloss._reduction import reduce_loss, select
from jaxloss.losses._elements import elementwise_arguments

__all__ = ["gaussian_nll_loss", "poisson_nll_loss"]


def poisson_nll_loss(
    input: Float[Array, "*dims"],
    target: Num[Array, "*dims"],
    log_input: bool = True,
    full: bool = False,
    eps: Scalar = 1e-8,
    reduction: str = "mean",
    *,
    where: Bool[Array, "*dims"] | None = None,
) -> Float[Array, "..."]:
    r"""Negative log-likelihood of counts under a Poisson distribution.

    $$\ell_i = \lambda_i - y_i \log \lambda_i + \log y_i!, \qquad \lambda_i = \exp x_i$$

    The last term does not depend on the input; it is left out unless `full`, and then approximated for
    $y_i > 1$ by Stirling's $y_i \log y_i - y_i + \tfrac12 \log 2 \pi y_i$.

    Args:
        input: $x = \log \lambda$, or $\lambda$ itself, at least 0, without `log_input`.
        target: counts $y$, of the same shape; integers serve as well.
        log_input: `input` holds logarithms.
        full: add Stirling's approximation.
        eps: added to $\lambda$ inside the logarithm without `log_input`, at least 0.

    Differs from torch: the gradient of a target of 0 or below is finite with `full`, where torch's is NaN.

    Reference: Cameron and Trivedi 2013, "Regression Analysis of Count Data", second edition
    (https://doi.org/10.1017/CBO9781139013567), for Poisson regression; the approximation is
    torch.nn.PoissonNLLLoss's (https://docs.pytorch.org/docs/stable/generated/torch.nn.PoissonNLLLoss.html).

    >>> import jax.numpy as jnp
    >>> logs, counts = jnp.zeros(2, jnp.float32), jnp.array([0.0, 3.0], jnp.float32)
    >>> print(poisson_nll_loss(logs, counts, reduction="none"))
    [1. 1.]
    """
    _checks.check_flag("log_input", log_input)
    _checks.check_flag("full", full)
    eps = _checks.as_scalar("eps", eps, low=0.0)
    (x, y), where = elementwise_arguments(reduction, where, input=input, target=target, integers=("target",))
    loss = jnp.exp(x) - y * x if log_input else x - y * jnp.log(x + in_dtype(eps, x.dtype))
    if full:
        many = jnp.where(y <= 1.0, 2.0, y)
        stirling = many * jnp.log(many) - many + 0.5 * jnp.log(2 * math.pi * many)
        loss += jnp.where(y <= 1.0, 0.0, stirling)
    return reduce_loss(loss, reduction, where)


def gaussian_nll_loss(
    input: Float[Array, "*dims"],
    target: Num[Array, "*dims"],
    var: Float[Array, "..."] | Scalar,
    full: bool = False,
    eps: Scalar = 1e-6,
    reduction: str = "mean",
    *,
    where: Bool[Array, "*dims"] | None = None,
) -> Float[Array, "..."]:
    r"""Negative log-likelihood of real targets under a Gaussian of predicted mean and variance.

    $$\ell_i = \tfrac12 \left( \log v_i + \frac{(x_i - y_i)^2}{v_i} \right) + \tfrac12 \log 2\pi, \qquad
    v_i = \max(\sigma_i^2, \epsilon)$$

    The constant is left out unless `full`. The gradient is that of $v_i = \sigma_i^2$, as in torch.

    Args:
        input: predicted means $x$.
        target: true values $y$, of the same shape; integers serve as well.
        var: predicted variances $\sigma^2 \ge 0$: of the shape of `input`, of that without its last axis,
            with axes of size 1 instead, or one number for all.
        full: add the constant.
        eps: the smallest variance, at least 0.

    Differs from torch: a negative variance in an array gives NaN, in value and gradient, since under `jit`
    nothing can be raised; variances may have several axes of size 1.

    Reference: Nix and Weigend 1994, "Estimating the Mean and Variance of the Target Probability
    Distribution" (https://doi.org/10.1109/ICNN.1994.374138).

    >>> import jax.numpy as jnp
    >>> means, targets = jnp.zeros(2, jnp.float32), jnp.array([1.0, 2.0], jnp.float32)
    >>> print(gaussian_nll_loss(means, targets, 1.0, reduction="none"))
    [0.5 2. ]
    """
    _checks.check_flag("full", full)
    eps = _checks.as_scalar("eps", eps, low=0.0)
    var = _variance(_checks.as_floats("input", input), var)
    (x, y, variance), where = elementwise_arguments(
        reduction,
        where,
        input=input,
        target=target,
        var=var,
        broadcastable=("var",),
        integers=("target",),
    )
    # The masked variances are 0 by now; 1 keeps their gradient finite.
    variance = variance if where is None else jnp.where(where, variance, 1.0)
    variance += jnp.where(variance < 0.0, jnp.nan, 0.0).astype(variance.dtype)
    # The difference is taken below eps only, since that of an infinite variance is NaN.
    eps = in_dtype(eps, x.dtype)
    raised = eps + (variance - lax.stop_gradient(variance))
    variance = jnp.where(variance >= eps, variance, raised)
    loss = 0.5 * (jnp.log(variance) + jnp.square(x - y) / variance)
    if full:
        loss += 0.5 * math.log(2 * math.pi)
    return reduce_loss(select(where, loss), reduction, where)


def _variance(input: jax.Array, var) -> jax.Array:
    """The variances, of a shape that broadcasts to that of the input; a number has no dtype of its own."""
    if np.ndim(var) == 0:
        return jnp.asarray(_checks.as_scalar("var", var, low=0.0))
    var = _checks.as_floats("var", var)
    if var.shape == input.shape[:-1] and var.shape != input.shape:
        var = var[..., None]
    differing = {size for size, full in zip(var.shape, input.shape, strict=False) if size != full}
    if var.ndim != input.ndim or not differing <= {1}:
        raise ValueError(
            f"var must be a number or have the shape of input, {list(input.shape)}, that without its last "
            f"axis, or one with axes of size 1; got {_checks.describe(var)}."
        )
    return var
