"""Losses on one score for each class: cross entropy and negative log-likelihood."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxloss import _checks, _softmax
from jaxloss._reduction import REDUCTIONS, compute_dtype, reduce_loss, select
from jaxloss._rows import as_sample_weight, reduce_weighted

__all__ = ["cross_entropy", "nll_loss"]


def cross_entropy(
    input: Float[Array, "..."],
    target: Int[Array, "..."] | Float[Array, "..."],
    weight: Float[Array, " C"] | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    where: Bool[Array, "..."] | None = None,
    sample_weight: Float[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Penalise the surprise, in nats, at the true class under the softmax of the logits.

    $$\ell_n = -\sum_c w_c\, y_{nc} \log \frac{\exp z_{nc}}{\sum_j \exp z_{nj}}, \qquad
    y_{nc} = (1 - \varepsilon)\, t_{nc} + \varepsilon / C$$

    with $t_n$ the one-hot label or the given probabilities. Exact for confident logits: the value is within a
    few ULP where `logsumexp(z) - z_t` would cancel to 0, and so is the gradient.

    Args:
        input: logits $z$, classes along `axis`. `[C]` is a single example.
        target: integer labels in `[0, C)`, of the shape of `input` without `axis`; or class probabilities,
            floating point, of the shape of `input`.
        weight: a factor $w_c \ge 0$ for each class.
        ignore_index: rows with this label take no part. Has no effect on probabilities, where it must be
            negative.
        reduction: "mean", "sum" or "none". The mean divides by the sum of the labels' weights; with
            probabilities, by the number of rows.
        label_smoothing: $\varepsilon$ in [0, 1].
        where: rows (shape of `input` without `axis`) that take part; the others count as deleted.
        sample_weight: a factor for each row (each token), also in the denominator of the mean.
        axis: the class axis; 1 for torch's layout `[N, C, d_1, ...]`.

    Returns:
        The loss in nats, at least float32: a scalar, or one value for each row with "none". Without any row,
        "mean" gives NaN and "sum" 0. A label outside `[0, C)` gives NaN, in value and gradient.

    Raises:
        TypeError: `input` is not floating point, or `target`'s dtype does not go with its shape.
        ValueError: a shape, option or range is wrong.

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
    axis = _checks.class_axis(logits, axis)
    _checks.check_choice("reduction", reduction, REDUCTIONS)
    label_smoothing = _checks.check_number("label_smoothing", label_smoothing, low=0.0, high=1.0)
    ignore_index = _checks.check_integer("ignore_index", ignore_index)
    weight = _checks.as_class_weight(weight, logits.shape[axis])
    rows = logits.shape[:axis] + logits.shape[axis + 1 :]
    where = _checks.as_mask("where", where, rows, "one value for each row")
    sample_weight = as_sample_weight(sample_weight, rows)
    if _is_probabilities(target, logits.shape):
        if ignore_index >= 0:
            raise ValueError(f"ignore_index must be negative with class probabilities; got {ignore_index}.")
        loss = _probability_loss(logits, target, weight, label_smoothing, where, axis)
        return reduce_weighted(loss, reduction, where, sample_weight)
    labels = _labels("target", target, rows)

    dtype = compute_dtype(logits, weight, sample_weight)
    labels, where = _split_ignored(labels, ignore_index, where)
    logits = logits.astype(dtype)
    row_weight = _row_weight(weight, labels, logits.shape[axis], dtype)
    if label_smoothing == 0.0:
        loss = row_weight * _softmax.label_cross_entropy(logits, labels, where, axis)
    else:
        logits = select(jnp.expand_dims(where, axis), logits)
        smoothed = _smooth(labels, row_weight, weight, label_smoothing, logits.shape, axis)
        loss = _softmax.soft_cross_entropy(logits, smoothed, axis)
    return _reduce(loss, row_weight, sample_weight, reduction, where)


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
        ignore_index: rows with this label take no part.
        reduction: "mean" (divides by the sum of the labels' weights), "sum" or "none".
        where: rows (the shape of `target`) that take part; the others count as deleted.
        sample_weight: a factor for each row (each token), also in the denominator of the mean.
        axis: the class axis; 1 for torch's layout `[N, C, d_1, ...]`.

    Returns:
        The loss in nats, at least float32: a scalar, or the shape of `target` with "none". Without any row,
        "mean" gives NaN and "sum" 0. A label outside `[0, C)` gives NaN, in value and gradient.

    Raises:
        TypeError: `input` is not floating point or `target` not integer.
        ValueError: a shape or option is wrong.

    Differs from torch: as for `cross_entropy`.

    Reference: Bishop 2006, "Pattern Recognition and Machine Learning", equation 4.108.

    >>> import jax.numpy as jnp
    >>> log_probs = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125]], jnp.float32))
    >>> print(jnp.round(nll_loss(log_probs, jnp.array([0, 2]), reduction="none"), 4))
    [0.6931 2.0794]
    """
    log_probs = _checks.as_floats("input", input)
    axis = _checks.class_axis(log_probs, axis)
    _checks.check_choice("reduction", reduction, REDUCTIONS)
    ignore_index = _checks.check_integer("ignore_index", ignore_index)
    weight = _checks.as_class_weight(weight, log_probs.shape[axis])
    rows = log_probs.shape[:axis] + log_probs.shape[axis + 1 :]
    where = _checks.as_mask("where", where, rows, "one value for each row")
    sample_weight = as_sample_weight(sample_weight, rows)
    labels = _labels("target", target, rows)

    dtype = compute_dtype(log_probs, weight, sample_weight)
    labels, where = _split_ignored(labels, ignore_index, where)
    row_weight = _row_weight(weight, labels, log_probs.shape[axis], dtype)
    index = jnp.expand_dims(jnp.clip(labels, 0, log_probs.shape[axis] - 1), axis)
    own = jnp.squeeze(jnp.take_along_axis(log_probs, index, axis, mode="promise_in_bounds"), axis)
    # Selected before the product, so that an ignored row's NaN does not reach the weights' gradient.
    loss = -row_weight * select(where, own.astype(dtype))
    return _reduce(loss, row_weight, sample_weight, reduction, where)


def _reduce(
    loss: jax.Array, row_weight: jax.Array, sample_weight, reduction: str, where: jax.Array
) -> jax.Array:
    if sample_weight is not None:
        sample_weight = select(where, sample_weight.astype(loss.dtype))
        loss, row_weight = select(where, loss) * sample_weight, row_weight * sample_weight
    return reduce_loss(loss, reduction, where, jnp.sum(select(where, row_weight)))


def _is_probabilities(target, shape: tuple[int, ...]) -> bool:
    dtype = getattr(target, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        return False
    if target.shape != shape:
        raise ValueError(
            f"target must have the shape of input, {list(shape)}, to hold class probabilities; got "
            f"{_checks.describe(target)}. Class indices must have an integer dtype."
        )
    return True


def _labels(name: str, target, rows: tuple[int, ...]) -> jax.Array:
    labels = _checks.as_labels(name, target)
    _checks.check_shape(name, labels, rows, "that of input without its class axis, to hold class indices")
    return labels


def _split_ignored(labels: jax.Array, ignore_index: int, where: jax.Array | None):
    """Labels with a valid class in the rows that take no part, and the mask of those that do."""
    info = jnp.iinfo(labels.dtype)
    # A Python int beyond the labels' dtype equals none of them, and comparing it would overflow.
    kept = labels != ignore_index if info.min <= ignore_index <= info.max else jnp.ones(labels.shape, bool)
    kept = kept if where is None else kept & where
    return jnp.where(kept, labels, 0), kept


def _row_weight(weight: jax.Array | None, labels: jax.Array, num_classes: int, dtype) -> jax.Array:
    """The weight of each row's label; NaN where the label is no class, which poisons value and gradient."""
    in_range = (labels >= 0) & (labels < num_classes)
    if weight is None:
        return jnp.where(in_range, jnp.ones((), dtype), jnp.nan)
    index = jnp.where(in_range, labels, 0)
    return jnp.where(in_range, weight.astype(dtype)[index], jnp.nan)


def _along(weight: jax.Array, ndim: int, axis: int) -> jax.Array:
    return jnp.reshape(weight, [-1 if i == axis else 1 for i in range(ndim)])


def _smooth(labels, row_weight, weight, label_smoothing: float, shape, axis: int) -> jax.Array:
    """Weighted, smoothed one-hot rows; `row_weight` carries the NaN of labels out of range into all of the
    row."""
    dtype, num_classes = row_weight.dtype, shape[axis]
    spread = jnp.full((num_classes,), label_smoothing / num_classes, dtype)
    spread = _along(spread if weight is None else spread * weight.astype(dtype), len(shape), axis)
    own = jnp.expand_dims((1 - label_smoothing) * row_weight, axis)
    is_label = _softmax.is_label(shape, labels, axis)
    return jnp.where(is_label, own, jnp.where(jnp.isnan(own), jnp.nan, 0.0)) + spread


def _probability_loss(logits, target, weight, label_smoothing, where, axis):
    probabilities = _checks.as_floats("target", target)
    dtype = compute_dtype(logits, probabilities, weight)
    row_mask = None if where is None else jnp.expand_dims(where, axis)
    logits = select(row_mask, logits.astype(dtype))
    probabilities = select(row_mask, probabilities.astype(dtype))
    if label_smoothing > 0.0:
        probabilities = probabilities * (1 - label_smoothing) + label_smoothing / logits.shape[axis]
    if weight is not None:
        probabilities = probabilities * _along(weight.astype(dtype), logits.ndim, axis)
    return _softmax.soft_cross_entropy(logits, probabilities, axis)
