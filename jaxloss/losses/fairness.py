"""Penalties on treating groups of examples differently."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxloss import _checks
from jaxloss._checked import check_labels
from jaxloss._mesh import lie_as, sum_by
from jaxloss._reduction import compute_dtype, select
from jaxloss.losses._elements import zero_times

__all__ = ["group_gap_penalty"]

_MEASURES = ("range", "variance")


def group_gap_penalty(
    input: Float[Array, "*dims"],
    group: Int[Array, "*dims"],
    num_groups: int,
    *,
    measure: str = "range",
    ignore_index: int = -100,
    where: Bool[Array, "*dims"] | None = None,
    sample_weight: Float[Array, "*dims"] | None = None,
) -> Float[Array, ""]:
    r"""Penalise the gap of the mean loss between groups of examples.

    $$\text{range: } \max_g \mu_g - \min_g \mu_g, \qquad
    \text{variance: } \frac1G \sum_g (\mu_g - \bar\mu)^2, \qquad
    \mu_g = \frac{\sum_{i \in g} w_i \ell_i}{\sum_{i \in g} w_i}$$

    with $\bar\mu$ the mean of the $\mu_g$: a small group counts as much as a large one. Add it to the mean
    loss, since a gap alone can be closed by serving everyone badly. The range has a constant gradient at the
    two extreme groups; the variance has a continuous derivative.

    Args:
        input: the losses $\ell_i$ of the examples, e.g. of `cross_entropy` with `reduction="none"`.
        group: the group of each example, in `[0, num_groups)`.
        num_groups: the number of groups $G$; a group without an example in the batch takes no part.
        measure: "range" or "variance".
        sample_weight: a factor $w_i \ge 0$ for each example within its group.

    Returns:
        A scalar in the unit of the losses ("range") or its square ("variance"); 0 with a gradient of 0 if
        fewer than two groups have an example.

    Reference: Krueger et al. 2021, "Out-of-Distribution Generalization via Risk Extrapolation", V-REx
    (https://arxiv.org/abs/2003.00688), for the variance.

    >>> import jax.numpy as jnp
    >>> losses, groups = jnp.array([1.0, 2.0, 3.0, 8.0], jnp.float32), jnp.array([0, 0, 1, 2])
    >>> print(group_gap_penalty(losses, groups, 3), group_gap_penalty(losses, groups, 2 + 2))
    6.5 6.5
    """
    losses, groups = _checks.as_floats("input", input), _checks.as_labels("group", group)
    _checks.check_shape("group", groups, losses.shape, "that of input")
    num_groups = _checks.check_integer("num_groups", num_groups)
    if num_groups < 1:
        raise ValueError(f"num_groups must be at least 1; got {num_groups}.")
    _checks.check_choice("measure", measure, _MEASURES)
    ignore_index = _checks.check_integer("ignore_index", ignore_index)
    where = _checks.as_mask("where", where, losses.shape, "that of input")
    sample_weight = _checks.as_sample_weight(sample_weight, losses.shape, "that of input")
    dtype = compute_dtype(losses, sample_weight)

    groups, valid = (lie_as(a, losses) for a in (groups, _checks.not_ignored(group, ignore_index)))
    valid = valid if where is None else valid & where
    in_range = (groups >= 0) & (groups < num_groups)
    check_labels("group", group, valid, num_groups, what="groups")
    losses = select(valid, losses.astype(dtype))
    weight = jnp.ones(losses.shape, dtype) if sample_weight is None else sample_weight.astype(dtype)
    # A product, so that the NaN of a group out of range reaches the gradients too, whatever the weight.
    weight = select(valid, weight) * jnp.where(in_range | ~valid, 1.0, jnp.nan).astype(dtype)
    of_groups = partial(sum_by, index=jnp.where(in_range, groups, 0), size=num_groups)
    total = of_groups(weight)
    has_any = total != 0.0
    mean = of_groups(zero_times(weight, losses)) / jnp.where(has_any, total, 1.0)
    return _gap(mean, has_any, measure)


# Jitted for JAX's debug_infs too, which outside `jit` looks at every step.
@partial(jax.jit, static_argnums=2)
def _gap(mean: jax.Array, has_any: jax.Array, measure: str) -> jax.Array:
    if measure == "range":
        highest = jnp.max(jnp.where(has_any, mean, -jnp.inf))
        lowest = jnp.min(jnp.where(has_any, mean, jnp.inf))
        return jnp.where(jnp.any(has_any), highest - lowest, 0.0)
    count = jnp.maximum(jnp.sum(has_any), 1).astype(mean.dtype)
    deviation = jnp.where(has_any, mean - jnp.sum(jnp.where(has_any, mean, 0.0)) / count, 0.0)
    return jnp.sum(jnp.square(deviation)) / count
