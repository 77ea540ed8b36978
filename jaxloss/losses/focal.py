"""Cross entropy with another weight on easy examples: focal loss and PolyLoss."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxloss import _checks
from jaxloss._checks import Scalar, in_dtype, is_number
from jaxloss._reduction import REDUCTIONS
from jaxloss.losses import _rows
from jaxloss.losses._elements import elementwise_arguments, softplus, zero_times
from jaxloss.numerics.focal import one_minus_p, scale_down_easy, sigmoid_wrong_to
from jaxloss.numerics.softmax import Classes, label_cross_entropy

__all__ = ["focal_loss", "poly_loss", "sigmoid_focal_loss"]


def focal_loss(
    input: Float[Array, "..."],
    target: Int[Array, "..."],
    *,
    gamma: Scalar = 2.0,
    weight: Float[Array, " C"] | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    where: Bool[Array, "..."] | None = None,
    sample_weight: Float[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Cross entropy of the softmax, scaled down for examples that the model already gets right.

    $$\ell_n = -w_{t_n} (1 - p_n)^\gamma \log p_n, \qquad p_n = \mathrm{softmax}(z_n)_{t_n}$$

    With $\gamma = 0$ it is `cross_entropy`. $1 - p$ is computed without cancelling, so confident rows keep
    their (small) value and gradient. For one sigmoid per class, as in detection, see `sigmoid_focal_loss`.

    Args:
        input: logits $z$, classes along `axis`.
        target: integer labels in `[0, C)`, of the shape of `input` without `axis`.
        gamma: $\gamma \ge 0$, how strongly easy examples are scaled down.
        weight: a factor $w_c \ge 0$ for each class, the paper's $\alpha$.

    Reference: Lin et al. 2017, "Focal Loss for Dense Object Detection"
    (https://arxiv.org/abs/1708.02002), with the softmax in place of the sigmoid.

    >>> import jax.numpy as jnp
    >>> logits = jnp.array([[2.0, 0.0], [0.0, 2.0]], jnp.float32)
    >>> print(focal_loss(logits, jnp.array([0, 0]), reduction="none"))
    [0.00180356 1.6500783 ]
    """
    gamma = _checks.as_scalar("gamma", gamma, low=0.0)
    _checks.check_choice("reduction", reduction, REDUCTIONS)
    rows = _rows.label_rows(input, target, weight, ignore_index, where, sample_weight, axis)
    _rows.check_classes(rows.input, rows.axis)
    nll = label_cross_entropy(rows.logits, rows.labels, rows.valid, Classes(rows.axis))
    # With the number 0, the program of `cross_entropy`.
    loss = nll if is_number(gamma, 0.0) else scale_down_easy(nll, in_dtype(gamma, nll.dtype))
    return _rows.reduce_weighted(loss, reduction, rows.valid, rows.weight)


def poly_loss(
    input: Float[Array, "..."],
    target: Int[Array, "..."],
    *,
    epsilon: Scalar | Float[Array, " J"] = 2.0,
    weight: Float[Array, " C"] | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    where: Bool[Array, "..."] | None = None,
    sample_weight: Float[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Cross entropy plus a polynomial in the probability that goes to the wrong classes (PolyLoss).

    $$\ell_n = w_{t_n} \Big(-\log p_n + \sum_{j=1}^{J} \epsilon_j\, (1 - p_n)^j\Big), \qquad
    p_n = \mathrm{softmax}(z_n)_{t_n}$$

    Cross entropy is $\sum_j (1 - p)^j / j$, so $\epsilon$ changes the coefficients of its first terms. They
    are differentiable: given as an array, the shape of the loss itself can be learnt.

    Args:
        input: logits $z$, classes along `axis`.
        target: integer labels in `[0, C)`, of the shape of `input` without `axis`.
        epsilon: $\epsilon_1 \ge -1$ (Poly-1; the paper uses 2 for ImageNet and -1 for detection), or an array
            of $\epsilon_1, \ldots, \epsilon_J$ (Poly-N).
        weight: a factor $w_c \ge 0$ for each class.

    Reference: Leng et al. 2022, "PolyLoss: A Polynomial Expansion Perspective of Classification Loss
    Functions", the Poly-1 and Poly-N formulations (https://arxiv.org/abs/2204.12511).

    >>> import jax.numpy as jnp
    >>> print(poly_loss(jnp.zeros((1, 4), jnp.float32), jnp.array([3])))  # ln 4 + 2 * 3 / 4
    2.8862944
    """
    _checks.check_choice("reduction", reduction, REDUCTIONS)
    rows = _rows.label_rows(input, target, weight, ignore_index, where, sample_weight, axis)
    _rows.check_classes(rows.input, rows.axis)
    nll = label_cross_entropy(rows.logits, rows.labels, rows.valid, Classes(rows.axis))
    wrong, polynomial = one_minus_p(nll), jnp.zeros_like(nll)
    for coefficient in reversed(_coefficients(epsilon, nll.dtype)):
        polynomial = wrong * (coefficient + polynomial)
    return _rows.reduce_weighted(nll + polynomial, reduction, rows.valid, rows.weight)


def _coefficients(epsilon, dtype) -> list:
    if np.ndim(epsilon) == 0:
        return [in_dtype(_checks.as_scalar("epsilon", epsilon, low=-1.0), dtype)]
    coefficients = _checks.as_floats("epsilon", epsilon).astype(dtype)
    if coefficients.ndim > 1:
        raise ValueError(f"epsilon must be a number or have shape [J]; got {_checks.describe(coefficients)}.")
    return list(coefficients)


def sigmoid_focal_loss(
    input: Float[Array, "*dims"],
    target: Float[Array, "*dims"],
    *,
    alpha: Scalar | None = 0.25,
    gamma: Scalar = 2.0,
    reduction: str = "mean",
    where: Bool[Array, "*dims"] | None = None,
    sample_weight: Float[Array, "*dims"] | None = None,
) -> Float[Array, "..."]:
    r"""Binary cross entropy of a sigmoid, scaled down for examples that the model already gets right.

    $$\ell_i = -\alpha_i (1 - p_i)^\gamma \left(y_i \log \sigma(x_i) + (1 - y_i) \log \sigma(-x_i)\right)$$

    with $p_i = y_i\, \sigma(x_i) + (1 - y_i)\, \sigma(-x_i)$ and $\alpha_i = y_i\, \alpha + (1 - y_i)(1 -
    \alpha)$.

    Args:
        input: logits $x$, one for each independent yes/no decision.
        target: $y$, 0 or 1 or between, of the shape of `input`.
        alpha: the weight of positives, in [0, 1]; None leaves both classes at weight 1.
        gamma: $\gamma \ge 0$, how strongly easy examples are scaled down.
        reduction: the mean divides by the sum of `sample_weight`, not of $\alpha_i$.

    Differs from torch: torchvision's reduces with "none" by default and takes -1 where this takes None.

    Reference: Lin et al. 2017, "Focal Loss for Dense Object Detection"
    (https://arxiv.org/abs/1708.02002).

    >>> import jax.numpy as jnp
    >>> print(sigmoid_focal_loss(jnp.zeros(2, jnp.float32), jnp.array([1.0, 0.0]), reduction="none"))
    [0.0433217 0.1299651]
    """
    gamma = _checks.as_scalar("gamma", gamma, low=0.0)
    alpha = None if alpha is None else _checks.as_scalar("alpha", alpha, low=0.0, high=1.0)
    (x, y, w), where = elementwise_arguments(
        reduction, where, input=input, target=target, sample_weight=sample_weight
    )
    loss = zero_times(y, softplus(-x)) + zero_times(1 - y, softplus(x))
    if not is_number(gamma, 0.0):
        loss = _scale(loss, sigmoid_wrong_to(x, y, in_dtype(gamma, x.dtype)))
    if alpha is not None:
        alpha = in_dtype(alpha, x.dtype)
        loss = zero_times(y * alpha + (1 - y) * (1 - alpha), loss)
    return _rows.reduce_weighted(loss, reduction, where, w)


def _scale(loss: jax.Array, factor: jax.Array) -> jax.Array:
    """`loss * factor`; an infinite loss gives the factor no gradient, which would be 0 * inf, NaN."""
    finite = jnp.where(jnp.isinf(loss), 0.0, loss)
    return jnp.where(jnp.isinf(loss), loss * lax.stop_gradient(factor), finite * factor)
