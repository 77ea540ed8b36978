"""How much one example's gradient differs from the next one's: variances, by part of the model.

The gradients are summed up group by group, so that no more than one is in memory, and so that leaving a
group out gives the standard error of whatever is made from the sums (the jackknife).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxloss.training import Estimate

PartOf = Callable[[str], str]


class Moments(NamedTuple):
    """Of the gradients of a group of examples, by part of the model.

    Attributes:
        num_examples: how many they are.
        total: the sum of their gradients, flattened.
        squares: the sum of the squared norms.
    """

    num_examples: int
    total: dict[str, np.ndarray]
    squares: dict[str, np.ndarray]


def make_moments(loss: Callable[..., jax.Array], part_of: PartOf) -> Callable[..., Moments]:
    """Make the function that sums up the gradients of a group of examples, one after the other.

    Args:
        loss: scalar function of `(params, *example)`.
        part_of: the part of the model that a parameter belongs to, from its path, such as
            "['wte']['embedding']".

    Returns:
        `moments(params, *arrays) -> Moments`, with one example for each entry of the arrays' leading axis.
    """

    def by_part(gradient: Any) -> dict[str, jax.Array]:
        parts: dict[str, list[jax.Array]] = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
            parts.setdefault(part_of(jax.tree_util.keystr(path)), []).append(leaf.ravel())
        return {part: jnp.concatenate(leaves) for part, leaves in parts.items()}

    @jax.jit
    def sums(params: Any, *arrays: jax.Array):
        def add(carry, example):
            gradient = by_part(jax.grad(loss)(params, *example))
            squares = {part: jnp.sum(jnp.square(leaf)) for part, leaf in gradient.items()}
            return jax.tree.map(jnp.add, carry, (gradient, squares)), None

        zeros = by_part(jax.tree.map(jnp.zeros_like, params))
        start = zeros, {part: jnp.zeros((), leaf.dtype) for part, leaf in zeros.items()}
        return jax.lax.scan(add, start, arrays)[0]

    def moments(params: Any, *arrays: Any) -> Moments:
        return Moments(len(arrays[0]), *jax.tree.map(np.asarray, sums(params, *arrays)))

    return moments


def covariance_trace(groups: Sequence[Moments]) -> dict[str, float]:
    r"""The variance of one example's gradient, summed over the parameters: of each part, and in "total".

    $$\mathrm{tr}\, \Sigma = \frac{1}{N - 1} \Big( \sum_i |g_i|^2 - N |\bar g|^2 \Big)$$

    Args:
        groups: what `make_moments` made of each group, at least two examples in all.

    Returns:
        The unbiased estimate.
    """
    count = sum(group.num_examples for group in groups)
    traces = {}
    for part in groups[0].total:
        total = np.sum([group.total[part] for group in groups], axis=0, dtype=np.float64)
        squares = float(np.sum([group.squares[part] for group in groups], dtype=np.float64))
        traces[part] = (squares - float(np.sum(np.square(total))) / count) / (count - 1)
    return traces | {"total": sum(traces.values())}


def noise_scale(groups: Sequence[Moments]) -> float | None:
    r"""The batch size at which noise and signal of the mean gradient are equally large.

    $$B = \frac{\mathrm{tr}\, \Sigma}{|G|^2}, \qquad |G|^2 = |\bar g|^2 - \mathrm{tr}\, \Sigma / N$$

    Args:
        groups: as for `covariance_trace`.

    Returns:
        Examples; None where the gradient is lost in its noise, and the estimate of $|G|^2$ not positive.

    Reference: McCandlish et al. 2018, "An Empirical Model of Large-Batch Training", the simple noise scale
    (https://arxiv.org/abs/1812.06162).
    """
    count, trace = sum(group.num_examples for group in groups), covariance_trace(groups)["total"]
    means = [
        sum(group.total[part].astype(np.float64) for group in groups) / count for part in groups[0].total
    ]
    squared_norm = sum(float(np.sum(np.square(mean))) for mean in means) - trace / count
    return trace / squared_norm if squared_norm > 0 else None


def jackknife(statistic: Callable[[Sequence[Moments]], float], *per_group: Sequence[Moments]) -> Estimate:
    """A statistic of groups, with the standard error from leaving out each group in turn.

    Args:
        statistic: a function of as many sequences of groups as follow.
        per_group: groups of the same size and number.
    """
    num_groups = len(per_group[0])
    left_out = [
        statistic(*([g for j, g in enumerate(groups) if j != i] for groups in per_group))
        for i in range(num_groups)
    ]
    return Estimate(float(statistic(*per_group)), float(np.sqrt((num_groups - 1) * np.var(left_out))))
