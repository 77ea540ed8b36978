"""Losses on vectors: cosine similarity of pairs, distances within triplets."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Num

from jaxloss import _checks
from jaxloss._checks import Scalar, in_dtype
from jaxloss._reduction import REDUCTIONS, compute_dtype, reduce_loss, select
from jaxloss.losses._elements import TORCH_EPSILON, absolute, as_reals, hinge

__all__ = ["cosine_embedding_loss", "triplet_margin_loss", "triplet_margin_with_distance_loss"]


def cosine_embedding_loss(
    input1: Float[Array, "*B D"],
    input2: Float[Array, "*B D"],
    target: Num[Array, "*B"],
    margin: Scalar = 0,
    reduction: str = "mean",
    *,
    where: Bool[Array, "*B"] | None = None,
) -> Float[Array, "..."]:
    r"""Penalise similar pairs of vectors for their angle, dissimilar pairs for a cosine above a margin.

    $$\ell_n = \begin{cases} 1 - \cos(a_n, b_n) & y_n = 1 \\ \max(0,\; \cos(a_n, b_n) - m) & y_n = -1
    \end{cases}$$

    Args:
        input1: vectors $a$, along the last axis.
        input2: vectors $b$, of the same shape.
        target: $y$: 1 for similar pairs, -1 for dissimilar ones; integers serve as well.
        margin: $m$ in [-1, 1], the cosine up to which a dissimilar pair costs nothing.

    Differs from torch: any number of leading axes; vectors whose squares overflow have a cosine.

    Reference: torch.nn.CosineEmbeddingLoss, whose definition this is.

    >>> import jax.numpy as jnp
    >>> a, b = jnp.array([[3.0, 4.0]] * 2, jnp.float32), jnp.array([[4.0, 3.0]] * 2, jnp.float32)
    >>> print(cosine_embedding_loss(a, b, jnp.array([1, -1]), reduction="none").round(4))
    [0.04 0.96]
    """
    margin = _checks.as_scalar("margin", margin)
    (a, b), where = _vectors(reduction, where, input1=input1, input2=input2)
    y = as_reals("target", target, a.shape[:-1], "one sign for each pair").astype(a.dtype)
    (a, a_square), (b, b_square) = _bounded_square(a), _bounded_square(b)
    cosine = jnp.sum(a * b, -1) / jnp.sqrt(a_square * b_square)
    loss = select(y == 1, 1 - cosine) + select(y == -1, hinge(cosine - in_dtype(margin, a.dtype)))
    return reduce_loss(loss, reduction, where)


def triplet_margin_loss(
    anchor: Float[Array, "*B D"],
    positive: Float[Array, "*B D"],
    negative: Float[Array, "*B D"],
    margin: Scalar = 1.0,
    p: float = 2,
    eps: Scalar = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
    *,
    where: Bool[Array, "*B"] | None = None,
) -> Float[Array, "..."]:
    r"""Penalise an anchor that is not nearer to its positive than to its negative by a margin.

    $$\ell_n = \max(0,\; d(a_n, p_n) - d(a_n, n_n) + m), \qquad d(x, y) = \| x - y + \epsilon \|_p$$

    Args:
        anchor: vectors $a$, along the last axis.
        positive: vectors that belong to the anchors, of the same shape.
        negative: vectors that do not, of the same shape.
        margin: $m > 0$, the lead from which there is nothing to pay.
        p: the norm, at least 0; infinity gives the largest difference.
        eps: added to every difference.
        swap: take the distance of negative and positive where it is less than that of negative and anchor.

    Differs from torch: vectors whose squares overflow have a distance.

    Reference: Balntas et al. 2016, "Learning local feature descriptors with triplets and shallow
    convolutional neural networks" (https://bmva-archive.org.uk/bmvc/2016/papers/paper119/index.html), which
    torch cites for the swap.

    >>> import jax.numpy as jnp
    >>> anchor = jnp.zeros((1, 2), jnp.float32)
    >>> near, far = jnp.array([[0.0, 1.0]], jnp.float32), jnp.array([[3.0, 4.0]], jnp.float32)
    >>> print(triplet_margin_loss(anchor, far, near, eps=0.0))
    5.0
    """
    p = _checks.check_number("p", p, low=0.0)
    eps = _checks.as_scalar("eps", eps)
    return triplet_margin_with_distance_loss(
        anchor,
        positive,
        negative,
        distance_function=lambda x, y: _norm(x - y + in_dtype(eps, x.dtype), p),
        margin=margin,
        swap=swap,
        reduction=reduction,
        where=where,
    )


def triplet_margin_with_distance_loss(
    anchor: Float[Array, "*B D"],
    positive: Float[Array, "*B D"],
    negative: Float[Array, "*B D"],
    *,
    distance_function: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    margin: Scalar = 1.0,
    swap: bool = False,
    reduction: str = "mean",
    where: Bool[Array, "*B"] | None = None,
) -> Float[Array, "..."]:
    r"""`triplet_margin_loss` with the caller's own distance.

    $$\ell_n = \max(0,\; d(a_n, p_n) - d(a_n, n_n) + m)$$

    Args:
        anchor: vectors $a$, along the last axis.
        positive: vectors that belong to the anchors, of the same shape.
        negative: vectors that do not, of the same shape.
        distance_function: $d$, of two arrays of vectors; Euclidean, with 1e-6 added to every difference, by
            default.
        margin: $m > 0$, the lead from which there is nothing to pay.
        swap: take the distance of negative and positive where it is less than that of negative and anchor.
        where: of the shape of the distances.

    Reference: as for `triplet_margin_loss`.

    >>> import jax.numpy as jnp
    >>> a, b = jnp.zeros((1, 2), jnp.float32), jnp.ones((1, 2), jnp.float32)
    >>> manhattan = lambda x, y: jnp.sum(jnp.abs(x - y), -1)
    >>> print(triplet_margin_with_distance_loss(a, b, a, distance_function=manhattan))
    3.0
    """
    margin = _checks.as_scalar("margin", margin, low=0.0, open_low=True)
    _checks.check_flag("swap", swap)
    (a, p, n), where = _vectors(reduction, where, anchor=anchor, positive=positive, negative=negative)
    distance = distance_function or (lambda x, y: _norm(x - y + 1e-6, 2.0))
    to_positive, to_negative = distance(a, p), distance(a, n)
    if swap:
        to_negative = jnp.minimum(to_negative, distance(p, n))
    lead = in_dtype(margin, to_positive.dtype) + to_positive - to_negative
    if isinstance(margin, jax.Array):
        # The NaN of a margin out of range: a sum does not hand it on to the gradient, a product does.
        lead *= jnp.where(jnp.isnan(margin), jnp.nan, 1.0)
    return reduce_loss(hinge(lead), reduction, where)


def _vectors(reduction: str, where, **arrays) -> tuple[list[jax.Array], jax.Array | None]:
    """The named arrays in the dtype of the computation, with masked rows selected away, and the mask."""
    read = {name: _checks.as_floats(name, value) for name, value in arrays.items()}
    (first, reference), *others = read.items()
    if reference.ndim == 0:
        raise ValueError(f"{first} must hold vectors; got the scalar {_checks.describe(reference)}.")
    for name, array in others:
        _checks.check_shape(name, array, reference.shape, f"that of {first}")
    _checks.check_choice("reduction", reduction, REDUCTIONS)
    where = _checks.as_mask("where", where, reference.shape[:-1], "one value for each row")
    dtype = compute_dtype(*read.values())
    return [select(where, array.astype(dtype), axis=-1) for array in read.values()], where


def _bounded_square(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The vectors, huge ones scaled down, and their squared lengths, of which none is 0.

    Torch's epsilon gives a zero vector a cosine of 0 with everything.
    """
    x = x * _scale_down_to(2.0**20, x)
    return x, jnp.sum(jnp.square(x), -1) + TORCH_EPSILON


def _norm(x: jax.Array, p: float) -> jax.Array:
    """The p-norm along the last axis, with torch's gradients: 0 at 0; at p = inf, the largest share it."""
    if p == 0.0:
        return jnp.sum(x != 0.0, -1).astype(x.dtype)
    if p == 1.0:
        return jnp.sum(absolute(x), -1)
    if p == jnp.inf:
        return jnp.max(absolute(x), -1, initial=0.0)
    factor = _scale_down_to(2.0 ** min(30.0, 60.0 / p), x)
    x = x * factor
    # The root and, below 2, the power have an infinite slope at 0; selecting 1 before them makes it 0.
    nonzero = jnp.where(x == 0.0, 1.0, jnp.abs(x))
    total = jnp.sum(jnp.where(x == 0.0, 0.0, jnp.square(x) if p == 2.0 else nonzero**p), -1)
    positive = jnp.where(total == 0.0, 1.0, total)
    root = jnp.sqrt(positive) if p == 2.0 else positive ** (1 / p)
    return jnp.where(total == 0.0, 0.0, root / jnp.squeeze(factor, -1))


def _scale_down_to(bound: float, x: jax.Array) -> jax.Array:
    """What brings each vector's largest entry down to a bound, beyond which powers overflow; or exactly 1.

    Held constant, since it cancels out of the result.
    """
    size = jnp.max(jnp.abs(lax.stop_gradient(x)), -1, keepdims=True, initial=0.0)
    # An infinite entry stays: 0 times it would be NaN.
    return jnp.where(size < jnp.inf, bound / jnp.maximum(size, bound), 1.0)
