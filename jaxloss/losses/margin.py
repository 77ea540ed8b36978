"""Hinge losses on scores: nothing to pay once the right answer leads by a margin."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Num

from jaxloss import _checks
from jaxloss._checked import check_labels
from jaxloss._checks import Scalar, in_dtype
from jaxloss._mesh import indices_along, lie_as, take, take_along, whole_along, zeros_like_all
from jaxloss._reduction import REDUCTIONS, compute_dtype, reduce_loss, select
from jaxloss.losses._elements import elementwise_arguments, hinge, signed, strict_hinge
from jaxloss.losses._rows import lie_along

__all__ = ["hinge_embedding_loss", "margin_ranking_loss", "multi_margin_loss", "multilabel_margin_loss"]


def margin_ranking_loss(
    input1: Float[Array, "*dims"],
    input2: Float[Array, "*dims"],
    target: Num[Array, "*dims"],
    margin: Scalar = 0,
    reduction: str = "mean",
    *,
    where: Bool[Array, "*dims"] | None = None,
) -> Float[Array, "..."]:
    r"""Penalise a pair of scores unless the one that should be larger leads by a margin.

    $$\ell_i = \max(0,\; -y_i\, (a_i - b_i) + m)$$

    Args:
        input1: scores $a$.
        input2: scores $b$, of the same shape.
        target: $y$: 1 if `input1` should be the larger, -1 if `input2` should; integers serve as well.
        margin: $m$, the lead from which there is nothing to pay.

    Reference: Herbrich, Graepel and Obermayer 2000, "Large Margin Rank Boundaries for Ordinal Regression".

    >>> import jax.numpy as jnp
    >>> a, b = jnp.array([3.0, 1.0], jnp.float32), jnp.array([1.0, 3.0], jnp.float32)
    >>> print(margin_ranking_loss(a, b, jnp.array([1, 1]), margin=1.0, reduction="none"))
    [0. 3.]
    """
    margin = _checks.as_scalar("margin", margin)
    (a, b, y), where = elementwise_arguments(
        reduction, where, input1=input1, input2=input2, target=target, integers=("target",)
    )
    return reduce_loss(hinge(signed(-y, a - b) + in_dtype(margin, a.dtype)), reduction, where)


def hinge_embedding_loss(
    input: Float[Array, "*dims"],
    target: Num[Array, "*dims"],
    margin: Scalar = 1.0,
    reduction: str = "mean",
    *,
    where: Bool[Array, "*dims"] | None = None,
) -> Float[Array, "..."]:
    r"""Penalise similar pairs that are far apart, and dissimilar pairs that are near.

    $$\ell_i = \begin{cases} x_i & y_i = 1 \\ \max(0,\; m - x_i) & y_i = -1 \end{cases}$$

    Args:
        input: distances $x$.
        target: $y$: 1 for similar pairs, -1 for dissimilar ones; integers serve as well.
        margin: $m$, the distance from which a dissimilar pair costs nothing.

    Reference: torch.nn.HingeEmbeddingLoss, whose definition this is.

    >>> import jax.numpy as jnp
    >>> distances = jnp.array([0.25, 0.25], jnp.float32)
    >>> print(hinge_embedding_loss(distances, jnp.array([1, -1]), reduction="none"))
    [0.25 0.75]
    """
    margin = _checks.as_scalar("margin", margin)
    (x, y), where = elementwise_arguments(reduction, where, input=input, target=target, integers=("target",))
    similar, dissimilar = select(y != -1, x), select(y != 1, hinge(in_dtype(margin, x.dtype) - x))
    return reduce_loss(similar + dissimilar, reduction, where)


def multi_margin_loss(
    input: Float[Array, "*B C"],
    target: Int[Array, "*B"],
    p: int = 1,
    margin: Scalar = 1.0,
    weight: Float[Array, " C"] | None = None,
    reduction: str = "mean",
    *,
    where: Bool[Array, "*B"] | None = None,
) -> Float[Array, "..."]:
    r"""Multi-class hinge: the label should lead every other class by a margin.

    $$\ell_n = \frac{w_{t_n}}{C} \sum_{c \ne t_n} \max(0,\; m - x_{n t_n} + x_{nc})^p$$

    Args:
        input: scores $x$, classes along the last axis.
        target: labels $t$ in `[0, C)`.
        p: the power, 1 or 2.
        margin: $m$, the lead from which there is nothing to pay.
        weight: a factor for each class.
        reduction: the mean divides by the number of rows, whatever their weights.

    Differs from torch: a label outside `[0, C)` gives NaN, in value and gradient, under `jit` and without.

    Reference: Weston and Watkins 1999, "Support Vector Machines for Multi-Class Pattern Recognition", for the
    sum over classes, where Crammer and Singer 2001 take the largest; the power and the division by $C$ are
    torch.nn.MultiMarginLoss's (https://docs.pytorch.org/docs/stable/generated/torch.nn.MultiMarginLoss.html).

    >>> import jax.numpy as jnp
    >>> print(multi_margin_loss(jnp.array([0.25, 0.5, 1.0, 0.0], jnp.float32), jnp.array(2)))
    0.1875
    """
    x, labels = _checks.as_floats("input", input), _checks.as_labels("target", target)
    # As torch has it: a scalar is one class, and the label of a single row may have an axis.
    x = x.reshape(1) if x.ndim == 0 else x
    labels = labels.reshape(()) if x.ndim == 1 and labels.shape == (1,) else labels
    _checks.check_shape("target", labels, x.shape[:-1], "one label for each row")
    _checks.check_choice("reduction", reduction, REDUCTIONS)
    if _checks.check_integer("p", p) not in (1, 2):
        raise ValueError(f"p must be 1 or 2; got {p}.")
    margin = _checks.as_scalar("margin", margin)
    weight = _checks.as_class_weight(weight, x.shape[-1])
    where = _checks.as_mask("where", where, labels.shape, "that of target")
    dtype = compute_dtype(x, weight)
    labels, where = lie_along(x, -1, labels, where)
    x = select(where, x.astype(dtype), axis=-1)
    check_labels("target", labels, where, x.shape[-1])
    labels = select(where, labels)
    in_range = (labels >= 0) & (labels < x.shape[-1])
    own = take_along(x, jnp.where(in_range, labels, 0)[..., None], -1)
    others = indices_along(x, -1, labels.dtype) != labels[..., None]
    # Selected before it is squared: an infinite score leads itself by NaN.
    lead = strict_hinge(select(others, in_dtype(margin, dtype) - own + x))
    loss = jnp.sum(lead if p == 1 else jnp.square(lead), -1)
    if weight is not None and x.shape[-1] > 0:
        loss *= select(in_range, take(weight.astype(dtype), jnp.where(in_range, labels, 0)))
    # A product, so that the NaN of a label out of range reaches the gradient as well.
    poison = jnp.where(in_range, 1.0, jnp.nan).astype(dtype)
    return reduce_loss(poison * loss / x.shape[-1], reduction, where)


def multilabel_margin_loss(
    input: Float[Array, "*B C"],
    target: Int[Array, "*B C"],
    reduction: str = "mean",
    *,
    where: Bool[Array, "*B"] | None = None,
) -> Float[Array, "..."]:
    r"""Multi-label hinge: every label should lead every class that is no label by a score of 1.

    $$\ell_n = \frac1C \sum_{t \in T_n} \sum_{c \notin T_n} \max(0,\; 1 - x_{nt} + x_{nc})$$

    Args:
        input: scores $x$, classes along the last axis.
        target: the labels $T$ in `[0, C)` at the front of each row; the first -1 ends them.

    Differs from torch: a label outside `[-1, C)` gives NaN, in value and gradient, under `jit` and without.

    Reference: torch.nn.MultiLabelMarginLoss, whose definition this is.

    >>> import jax.numpy as jnp
    >>> scores = jnp.array([0.1, 0.2, 0.4, 0.8], jnp.float32)
    >>> print(f"{multilabel_margin_loss(scores, jnp.array([3, 0, -1, 1])):.4f}")
    0.8500
    """
    x, labels = _checks.as_floats("input", input), _checks.as_labels("target", target)
    _checks.check_shape("target", labels, x.shape, "that of input")
    # One class, as torch has it.
    x, labels = (x.reshape(1), labels.reshape(1)) if x.ndim == 0 else (x, labels)
    _checks.check_choice("reduction", reduction, REDUCTIONS)
    where = _checks.as_mask("where", where, x.shape[:-1], "one value for each row")
    num_classes = x.shape[-1]
    # Each step of the loop below reads one label of each row, and its score.
    x = whole_along(x, -1)
    labels = lie_as(labels, x)
    x = select(where, x.astype(compute_dtype(x)), axis=-1)
    check_labels("target", labels, where, num_classes, low=-1)
    labels = select(where, labels, axis=-1)
    listed = jnp.cumsum(labels < 0, -1) == 0
    in_range = jnp.all((labels >= -1) & (labels < num_classes), -1)
    loss = _listed_hinge(x, jnp.clip(labels, 0, num_classes - 1), listed) / num_classes
    # A product with the scores, so that the NaN reaches the gradient of rows without a pair as well.
    poison = jnp.sum(x, -1) * jnp.where(in_range, 0.0, jnp.nan).astype(x.dtype)
    return reduce_loss(jnp.where(in_range, loss, poison), reduction, where)


@jax.custom_jvp
def _listed_hinge(x: jax.Array, index: jax.Array, listed: jax.Array) -> jax.Array:
    """The hinges of all pairs of a listed label and another class, summed for each row."""
    return jnp.sum(_hinges(x, index, listed)[0], -1)


@_listed_hinge.defjvp
def _listed_hinge_jvp(primals, tangents):
    slope = _hinges(lax.stop_gradient(primals[0]), *primals[1:])[1]
    return _listed_hinge(*primals), jnp.sum(slope * tangents[0], -1)


@jax.jit
def _hinges(x: jax.Array, index: jax.Array, listed: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Each class's hinges against all listed labels, summed; and the gradient of the row's sum of them.

    One label of each row at a time, as many as the longest list has, so that no array is larger than `x`.
    """
    if x.shape[-1] == 0:
        return x, x
    scores = take_along(x, index, -1)
    classes = indices_along(x, -1, index.dtype)
    num_steps = jnp.max(jnp.sum(listed, -1), initial=0)

    def one_of_each_row(step, *arrays):
        return [lax.dynamic_index_in_dim(array, step, -1) for array in arrays]

    def mark_label(step, is_label):
        label, is_listed = one_of_each_row(step, index, listed)
        return is_label | (is_listed & (classes == label))

    def add_hinges(step, sums):
        label, is_listed, score = one_of_each_row(step, index, listed, scores)
        lead = select(is_listed & ~is_label, 1.0 - score + x)
        is_ahead = ~(lead <= 0.0)
        num_ahead = jnp.sum(is_ahead, -1, keepdims=True).astype(x.dtype)
        slope = is_ahead.astype(x.dtype) - jnp.where(classes == label, num_ahead, 0.0)
        return sums[0] + strict_hinge(lead), sums[1] + slope

    is_label = lax.fori_loop(0, num_steps, mark_label, zeros_like_all(bool, x, listed))
    zeros = zeros_like_all(x.dtype, x, listed)
    return lax.fori_loop(0, num_steps, add_hinges, (zeros, zeros))
