"""Losses on one score for each class: cross entropy and negative log-likelihood."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxloss import _checks
from jaxloss._checks import Scalar, in_dtype, is_number
from jaxloss._mesh import take_along
from jaxloss._reduction import REDUCTIONS, compute_dtype, reduce_loss, select
from jaxloss.losses import _rows
from jaxloss.numerics.softmax import Classes, label_cross_entropy, soft_cross_entropy

__all__ = ["cross_entropy", "nll_loss"]


def cross_entropy(
    input: Float[Array, "..."],
    target: Int[Array, "..."] | Float[Array, "..."],
    weight: Float[Array, " C"] | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: Scalar = 0.0,
    *,
    where: Bool[Array, "..."] | None = None,
    sample_weight: Float[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Negative log-probability of the true class under the softmax of the logits.

    $$\ell_n = -\sum_c w_c\, y_{nc} \log \frac{\exp z_{nc}}{\sum_j \exp z_{nj}}, \qquad
    y_{nc} = (1 - \varepsilon)\, t_{nc} + \varepsilon / C$$

    with $t_n$ the one-hot label or the given probabilities. Value and gradient are within a few ULP even for
    confident logits, where `logsumexp(z) - z_t` cancels to 0.

    Args:
        input: logits $z$, classes along `axis`. `[C]` is a single example.
        target: integer labels in `[0, C)`, of the shape of `input` without `axis`; or class probabilities,
            floating point, of the shape of `input`.
        weight: a factor $w_c \ge 0$ for each class.
        ignore_index: without effect on probabilities, where it must be negative.
        reduction: the mean divides by the sum of the labels' weights; with probabilities, by the number of
            rows.
        label_smoothing: $\varepsilon$ in [0, 1].

    Differs from torch: `axis=-1`; any integer dtype serves as a label; a label out of range gives NaN, not an
    abort; ignored rows may hold NaN; a probability of 0 contributes 0 even where the logit is -inf; `weight`
    has a gradient.

    Reference: Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer Vision", section 7
    (https://arxiv.org/abs/1512.00567), for label smoothing.

    >>> import jax.numpy as jnp
    >>> logits = jnp.array([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0]], jnp.float32)
    >>> print(jnp.round(cross_entropy(logits, jnp.array([0, 1]), reduction="none"), 4))
    [0.2395 0.0949]
    >>> print(f"{cross_entropy(jnp.array([40.0, 0.0], jnp.float32), jnp.array(0)):.4e}")  # not 0
    4.2484e-18
    """
    logits = _checks.as_floats("input", input)
    _checks.check_choice("reduction", reduction, REDUCTIONS)
    label_smoothing = _checks.as_scalar("label_smoothing", label_smoothing, low=0.0, high=1.0)
    if _is_probabilities(target, logits.shape):
        if _checks.check_integer("ignore_index", ignore_index) >= 0:
            raise ValueError(f"ignore_index must be negative with class probabilities; got {ignore_index}.")
        axis, where, sample_weight = _rows.check_rows(logits, reduction, where, sample_weight, axis)
        _rows.check_classes(logits, axis)
        weight = _checks.as_class_weight(weight, logits.shape[axis])
        loss = _probability_loss(logits, target, weight, sample_weight, label_smoothing, where, axis)
        return _rows.reduce_weighted(loss, reduction, where, sample_weight)

    rows = _rows.label_rows(logits, target, weight, ignore_index, where, sample_weight, axis)
    _rows.check_classes(logits, rows.axis)
    if is_number(label_smoothing, 0.0):
        loss = label_cross_entropy(rows.logits, rows.labels, rows.valid, Classes(rows.axis))
        return _rows.reduce_weighted(loss, reduction, rows.valid, rows.weight)
    # Each class has its own weight in the smoothed rows, so the loss is not multiplied by the label's.
    logits = select(rows.valid, rows.logits, axis=rows.axis)
    loss = soft_cross_entropy(logits, _smooth(rows, label_smoothing), Classes(rows.axis))
    if rows.sample_weight is not None:
        loss = loss * rows.sample_weight
    return reduce_loss(loss, reduction, rows.valid, jnp.sum(rows.weight))


def nll_loss(
    input: Float[Array, "..."],
    target: Int[Array, "..."],
    weight: Float[Array, " C"] | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    *,
    where: Bool[Array, "..."] | None = None,
    sample_weight: Float[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Negative log-likelihood of the labels, from log-probabilities.

    $$\ell_n = -w_{t_n}\, x_{n t_n}$$

    Given logits in place of log-probabilities it is unbounded below, and training on it diverges: apply a
    log-softmax first, or use `cross_entropy`, which also keeps its accuracy for confident predictions.

    Args:
        input: log-probabilities $x$, classes along `axis`. `[C]` is a single example.
        target: integer labels in `[0, C)`, of the shape of `input` without `axis`.
        weight: a factor $w_c \ge 0$ for each class.

    Differs from torch: as for `cross_entropy`.

    Reference: Bishop 2006, "Pattern Recognition and Machine Learning", equation 4.108.

    >>> import jax.numpy as jnp
    >>> log_probs = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125]], jnp.float32))
    >>> print(jnp.round(nll_loss(log_probs, jnp.array([0, 2]), reduction="none"), 4))
    [0.6931 2.0794]
    """
    _checks.check_choice("reduction", reduction, REDUCTIONS)
    rows = _rows.label_rows(input, target, weight, ignore_index, where, sample_weight, axis)
    index = jnp.expand_dims(jnp.clip(rows.labels, 0, rows.input.shape[rows.axis] - 1), rows.axis)
    own = take_along(rows.input, index, rows.axis)
    loss = -jnp.squeeze(own, rows.axis).astype(rows.label_weight.dtype)
    return _rows.reduce_weighted(loss, reduction, rows.valid, rows.weight)


def _is_probabilities(target, shape: tuple[int, ...]) -> bool:
    if not _checks.has_dtype(target, jnp.floating):
        return False
    if target.shape != shape:
        raise ValueError(
            f"target must have the shape of input, {list(shape)}, to hold class probabilities; got "
            f"{_checks.describe(target)}. Class indices must have an integer dtype."
        )
    return True


def _along(weight: jax.Array, ndim: int, axis: int) -> jax.Array:
    return jnp.reshape(weight, [-1 if i == axis else 1 for i in range(ndim)])


def _smooth(rows: _rows.LabelRows, label_smoothing: float | jax.Array) -> jax.Array:
    """Weighted, smoothed one-hot rows; a label out of range has a row of NaN."""
    dtype, shape = rows.label_weight.dtype, rows.input.shape
    label_smoothing = in_dtype(label_smoothing, dtype)
    spread = jnp.full((shape[rows.axis],), label_smoothing / shape[rows.axis], dtype)
    spread = spread if rows.class_weight is None else spread * rows.class_weight
    own = jnp.expand_dims((1 - label_smoothing) * rows.label_weight, rows.axis)
    is_own = Classes(rows.axis).is_label(rows.input, rows.labels)
    one_hot = jnp.where(is_own, own, jnp.where(jnp.isnan(own), jnp.nan, 0.0))
    return one_hot + _along(spread, len(shape), rows.axis)


def _probability_loss(logits, target, weight, sample_weight, label_smoothing, where, axis):
    probabilities = _checks.as_floats("target", target)
    dtype = compute_dtype(logits, probabilities, weight, sample_weight)
    logits = select(where, logits.astype(dtype), axis=axis)
    probabilities = select(where, probabilities.astype(dtype), axis=axis)
    if not is_number(label_smoothing, 0.0):
        label_smoothing = in_dtype(label_smoothing, dtype)
        probabilities = probabilities * (1 - label_smoothing) + label_smoothing / logits.shape[axis]
    if weight is not None:
        probabilities = probabilities * _along(weight.astype(dtype), logits.ndim, axis)
    return soft_cross_entropy(logits, probabilities, Classes(axis))
