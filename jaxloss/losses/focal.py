"""Cross entropy with another weight on easy examples: focal loss and PolyLoss."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxloss import _checks
from jaxloss._reduction import REDUCTIONS
from jaxloss.losses import _rows
from jaxloss.losses._elements import elementwise_arguments, softplus, zero_times
from jaxloss.numerics.softmax import Classes, label_cross_entropy

__all__ = ["focal_loss", "poly_loss", "sigmoid_focal_loss"]


def focal_loss(
    input: Float[Array, "..."],
    target: Int[Array, "..."],
    *,
    gamma: float = 2.0,
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
    gamma = _checks.check_number("gamma", gamma, low=0.0)
    _checks.check_choice("reduction", reduction, REDUCTIONS)
    rows = _rows.label_rows(input, target, weight, ignore_index, where, sample_weight, axis)
    _rows.check_classes(rows.input, rows.axis)
    nll = label_cross_entropy(rows.logits, rows.labels, rows.valid, Classes(rows.axis))
    return _rows.reduce_weighted(_scale_down_easy(nll, gamma), reduction, rows.valid, rows.weight)


def poly_loss(
    input: Float[Array, "..."],
    target: Int[Array, "..."],
    *,
    epsilon: float | Float[Array, " J"] = 2.0,
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
    wrong, polynomial = _one_minus_p(nll), jnp.zeros_like(nll)
    for coefficient in reversed(_coefficients(epsilon, nll.dtype)):
        polynomial = wrong * (coefficient + polynomial)
    return _rows.reduce_weighted(nll + polynomial, reduction, rows.valid, rows.weight)


def _coefficients(epsilon, dtype) -> list:
    if not hasattr(epsilon, "shape"):
        return [_checks.check_number("epsilon", epsilon, low=-1.0)]
    coefficients = jnp.atleast_1d(_checks.as_floats("epsilon", epsilon)).astype(dtype)
    if coefficients.ndim > 1:
        raise ValueError(f"epsilon must be a number or have shape [J]; got {_checks.describe(coefficients)}.")
    return list(coefficients)


def sigmoid_focal_loss(
    input: Float[Array, "*dims"],
    target: Float[Array, "*dims"],
    *,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
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
    gamma = _checks.check_number("gamma", gamma, low=0.0)
    alpha = None if alpha is None else _checks.check_number("alpha", alpha, low=0.0, high=1.0)
    (x, y, w), where = elementwise_arguments(
        reduction, where, input=input, target=target, sample_weight=sample_weight
    )
    loss = zero_times(y, softplus(-x)) + zero_times(1 - y, softplus(x))
    if gamma > 0.0:
        wrong = y * jax.nn.sigmoid(-x) + (1 - y) * jax.nn.sigmoid(x)
        loss = _scale(loss, _power(wrong, gamma))
    if alpha is not None:
        loss = zero_times(y * alpha + (1 - y) * (1 - alpha), loss)
    return _rows.reduce_weighted(loss, reduction, where, w)


def _power(base: jax.Array, exponent: float) -> jax.Array:
    """`base ** exponent` with a gradient of 0 where the base is 0, also for exponents below 1."""
    positive = jnp.where(base == 0.0, 1.0, base)
    return jnp.where(base == 0.0, 0.0, positive**exponent)


@jax.custom_jvp
def _one_minus_p(nll: jax.Array) -> jax.Array:
    """`1 - p` for `nll = -log p`; the derivative that `expm1` has in JAX, `expm1 + 1`, cancels."""
    return -jnp.expm1(-nll)


@_one_minus_p.defjvp
def _one_minus_p_jvp(primals, tangents):
    return _one_minus_p(primals[0]), jnp.exp(-primals[0]) * tangents[0]


def _scale(loss: jax.Array, factor: jax.Array) -> jax.Array:
    """`loss * factor`; an infinite loss gives the factor no gradient, which would be 0 * inf, NaN."""
    finite = jnp.where(jnp.isinf(loss), 0.0, loss)
    return jnp.where(jnp.isinf(loss), loss * lax.stop_gradient(factor), finite * factor)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _scale_down_easy(nll: jax.Array, gamma: float) -> jax.Array:
    """`(1 - p) ** gamma * nll` for `nll = -log p`."""
    if gamma == 0.0:
        return nll
    return _power(_one_minus_p(nll), gamma) * nll


@_scale_down_easy.defjvp
def _scale_down_easy_jvp(gamma, primals, tangents):
    (nll,), (nll_dot,) = primals, tangents
    if gamma == 0.0:
        return nll, nll_dot
    # nll / (e^nll - 1) is 1 at 0, and 0 at infinity, where autodiff would multiply 0 by infinity. Clipping to
    # these bounds changes no digit, and keeps the second derivative from overflow and underflow.
    bounded = jnp.clip(nll, jnp.finfo(nll.dtype).eps, 1000.0)
    ratio = bounded * jnp.exp(-bounded) / _one_minus_p(bounded)
    slope = _power(_one_minus_p(nll), gamma) * (1 + gamma * ratio)
    return _scale_down_easy(nll, gamma), slope * nll_dot
