"""Losses of yes-or-no targets: logistic losses on probabilities, logits and margins."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Num

from jaxloss import _checks
from jaxloss._reduction import REDUCTIONS, compute_dtype, reduce_loss, select
from jaxloss.losses._elements import (
    TORCH_EPSILON,
    as_reals,
    broadcast_in,
    elementwise_arguments,
    sigmoid,
    softplus,
    zero_times,
)

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "multilabel_soft_margin_loss",
    "soft_margin_loss",
]


def binary_cross_entropy(
    input: Float[Array, "*dims"],
    target: Float[Array, "*dims"],
    weight: Float[Array, "..."] | None = None,
    reduction: str = "mean",
    *,
    where: Bool[Array, "*dims"] | None = None,
) -> Float[Array, "..."]:
    r"""Cross entropy of a predicted probability with a yes-or-no target.

    $$\ell_i = -w_i\, \bigl( y_i \max(\log p_i, -100) + (1 - y_i) \max(\log(1 - p_i), -100) \bigr)$$

    Near 1, probabilities in float32 have 7 digits: prefer `binary_cross_entropy_with_logits`.

    Args:
        input: probabilities $p$ in [0, 1].
        target: $y$ in [0, 1], of the same shape.
        weight: factors $w$, of a shape that broadcasts to that of `input`.
        reduction: the mean divides by the number of elements, whatever their weights.

    Differs from torch: a probability or target outside [0, 1] gives NaN, in value and gradients, since under
    `jit` nothing can be raised; the gradient of the target stays within 100 at probabilities of 0 and 1, like
    the logarithms, where torch's is infinite.

    Reference: Bishop 2006, "Pattern Recognition and Machine Learning", equation 4.90. The bound of -100 is
    torch's.

    >>> import jax.numpy as jnp
    >>> half, yes = jnp.full(2, 0.5, jnp.float32), jnp.array([1.0, 0.0], jnp.float32)
    >>> print(jnp.round(binary_cross_entropy(half, yes), 4))
    0.6931
    """
    input = _checks.as_floats("input", input)
    weight = _weight("weight", weight, input)
    (p, y, w), where = elementwise_arguments(
        reduction, where, input=input, target=target, weight=weight, broadcastable=("weight",)
    )
    loss = _of_probabilities(p, y)
    return reduce_loss(loss if w is None else loss * w, reduction, where)


@jax.custom_jvp
def _of_probabilities(p: jax.Array, y: jax.Array) -> jax.Array:
    log, log1m = _bounded_logs(p)
    return _poison(-y * log - (1 - y) * log1m, p, y)


@_of_probabilities.defjvp
def _of_probabilities_jvp(primals, tangents):
    (p, y), (p_dot, y_dot) = primals, tangents
    of_probability, of_target = (_poison(s, p, y) for s in (_slope_of_probability(p, y), _slope_of_target(p)))
    return _of_probabilities(p, y), of_probability * p_dot + of_target * y_dot


@jax.custom_jvp
def _slope_of_probability(p: jax.Array, y: jax.Array) -> jax.Array:
    # Torch's bound keeps the slope finite at probabilities of 0 and 1.
    return (p - y) / jnp.maximum((1 - p) * p, TORCH_EPSILON)


@_slope_of_probability.defjvp
def _slope_of_probability_jvp(primals, tangents):
    # Of the loss and not of the bounded slope, which between the bound and 0 falls to 0.
    (p, y), (p_dot, y_dot) = primals, tangents
    of_yes, of_no = (jnp.square(jnp.maximum(q, TORCH_EPSILON)) for q in (p, 1 - p))
    curvature = y / of_yes + (1 - y) / of_no
    return _slope_of_probability(p, y), curvature * p_dot - y_dot / jnp.maximum((1 - p) * p, TORCH_EPSILON)


@jax.custom_jvp
def _slope_of_target(p: jax.Array) -> jax.Array:
    log, log1m = _bounded_logs(p)
    return log1m - log


@_slope_of_target.defjvp
def _slope_of_target_jvp(primals, tangents):
    (p,), (p_dot,) = primals, tangents
    return _slope_of_target(p), -p_dot / jnp.maximum((1 - p) * p, TORCH_EPSILON)


# Jitted for JAX's debug_infs too, which looks at every step outside `jit`.
@jax.jit
def _bounded_logs(p: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.maximum(jnp.log(p), -100.0), jnp.maximum(jnp.log1p(-p), -100.0)


def _poison(value: jax.Array, p: jax.Array, y: jax.Array) -> jax.Array:
    """`value`; NaN where `p` or `y` is outside [0, 1]."""
    return jnp.where((p >= 0.0) & (p <= 1.0) & (y >= 0.0) & (y <= 1.0), value, jnp.nan)


def binary_cross_entropy_with_logits(
    input: Float[Array, "*dims"],
    target: Float[Array, "*dims"],
    weight: Float[Array, "..."] | None = None,
    reduction: str = "mean",
    pos_weight: Float[Array, "..."] | None = None,
    *,
    where: Bool[Array, "*dims"] | None = None,
) -> Float[Array, "..."]:
    r"""Cross entropy of a logit with a yes-or-no target, exact for confident logits.

    $$\ell_i = w_i\, \bigl( q_i\, y_i \log(1 + e^{-x_i}) + (1 - y_i) \log(1 + e^{x_i}) \bigr)$$

    Args:
        input: logits $x$.
        target: $y$ in [0, 1], of the same shape.
        weight: factors $w$, of a shape that broadcasts to that of `input`.
        reduction: the mean divides by the number of elements, whatever their weights.
        pos_weight: factors $q$ of the positive part, of a shape that broadcasts to that of `input`.

    Differs from torch: confident negatives do not cancel (at a logit of -40 torch's float32 gives 0); an
    infinite logit on the right side costs 0, where torch gives NaN.

    Reference: Bishop 2006, "Pattern Recognition and Machine Learning", equation 4.90.

    >>> import jax.numpy as jnp
    >>> logits, target = jnp.array([0.0, -40.0], jnp.float32), jnp.array([1.0, 0.0], jnp.float32)
    >>> print([f"{x:.4g}" for x in binary_cross_entropy_with_logits(logits, target, reduction="none")])
    ['0.6931', '4.248e-18']
    """
    input = _checks.as_floats("input", input)
    factors: dict[str, Any] = {"weight": _weight("weight", weight, input)}
    factors["pos_weight"] = _weight("pos_weight", pos_weight, input)
    (x, y, w, q), where = elementwise_arguments(
        reduction, where, input=input, target=target, broadcastable=tuple(factors), **factors
    )
    loss = zero_times(y if q is None else q * y, softplus(-x)) + zero_times(1 - y, softplus(x))
    return reduce_loss(loss if w is None else loss * w, reduction, where)


def soft_margin_loss(
    input: Float[Array, "*dims"],
    target: Num[Array, "*dims"],
    reduction: str = "mean",
    *,
    where: Bool[Array, "*dims"] | None = None,
) -> Float[Array, "..."]:
    r"""Logistic loss of a score, for targets of 1 and -1.

    $$\ell_i = \log(1 + e^{-y_i x_i})$$

    Args:
        input: scores $x$.
        target: $y$, 1 or -1, of the same shape; integers serve as well.

    Differs from torch: a score of -100 for a positive target costs 100, where torch's float32 overflows to
    inf.

    Reference: Hastie, Tibshirani and Friedman 2009, "The Elements of Statistical Learning", equation 10.18,
    whose $2 f$ is the score here.

    >>> import jax.numpy as jnp
    >>> scores = jnp.array([0.0, -100.0], jnp.float32)
    >>> print([f"{x:.4g}" for x in soft_margin_loss(scores, jnp.array([1, 1]), reduction="none")])
    ['0.6931', '100']
    """
    (x, y), where = elementwise_arguments(reduction, where, input=input, target=target, integers=("target",))
    return reduce_loss(_logistic(x, y), reduction, where)


@jax.custom_jvp
def _logistic(x: jax.Array, y: jax.Array) -> jax.Array:
    return softplus(-y * x)


@_logistic.defjvp
def _logistic_jvp(primals, tangents):
    (x, y), (x_dot, y_dot) = primals, tangents
    # On the right side an infinite score has a slope of 0, and 0 times infinity would be NaN.
    bounded = jnp.clip(x, -jnp.finfo(x.dtype).max, jnp.finfo(x.dtype).max)
    slope = -sigmoid(-y * bounded)
    return _logistic(x, y), slope * y * x_dot + slope * bounded * y_dot


def multilabel_soft_margin_loss(
    input: Float[Array, "*B C"],
    target: Num[Array, "*B C"],
    weight: Float[Array, "..."] | None = None,
    reduction: str = "mean",
    *,
    where: Bool[Array, "*B"] | None = None,
) -> Float[Array, "..."]:
    r"""Logistic losses of a yes-or-no target for each class, averaged over the classes.

    $$\ell_n = \frac1C \sum_c w_c\, \bigl( y_{nc} \log(1 + e^{-x_{nc}}) + (1 - y_{nc}) \log(1 + e^{x_{nc}})
    \bigr)$$

    Args:
        input: logits $x$, classes along the last axis.
        target: $y$ in [0, 1], of the same shape; integers serve as well.
        weight: factors $w$, of a shape that broadcasts to that of `input`; mostly one for each class.

    Differs from torch: an infinite logit on the right side costs 0, where torch gives NaN.

    Reference: torch.nn.MultiLabelSoftMarginLoss, whose definition this is.

    >>> import jax.numpy as jnp
    >>> scores, target = jnp.zeros((2, 3), jnp.float32), jnp.array([[1, 0, 1], [0, 0, 0]], jnp.float32)
    >>> print(multilabel_soft_margin_loss(scores, target, reduction="none").round(4))
    [0.6931 0.6931]
    """
    x = _checks.as_floats("input", input)
    if x.ndim == 0:
        raise ValueError(f"input must have a class axis; got the scalar {_checks.describe(x)}.")
    y = as_reals("target", target, x.shape, "that of input")
    _checks.check_choice("reduction", reduction, REDUCTIONS)
    where = _checks.as_mask("where", where, x.shape[:-1], "one value for each row")
    weight = _weight("weight", weight, x)
    dtype = compute_dtype(x, y, weight)
    x, y = select(where, x.astype(dtype), axis=-1), select(where, y.astype(dtype), axis=-1)
    loss = zero_times(y, softplus(-x)) + zero_times(1 - y, softplus(x))
    if weight is not None:
        loss *= select(where, broadcast_in(weight, x.shape, dtype), axis=-1)
    return reduce_loss(jnp.sum(loss, -1) / x.shape[-1], reduction, where)


def _weight(name: str, weight, input: jax.Array) -> jax.Array | None:
    """`weight`, of a shape that broadcasts to that of the input, as torch documents it for these losses."""
    if weight is None:
        return None
    weight = _checks.as_floats(name, weight)
    fits = weight.ndim <= input.ndim and all(
        size in (1, full) for size, full in zip(weight.shape[::-1], input.shape[::-1], strict=False)
    )
    if not fits:
        raise ValueError(
            f"{name} must broadcast to the shape of input, {list(input.shape)}; got "
            f"{_checks.describe(weight)}."
        )
    return weight
