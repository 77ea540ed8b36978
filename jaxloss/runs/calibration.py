"""How far a classifier's confidence is from how often it is right."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

NUM_BINS = 15


def calibration_error(confidence: Float[Array, " N"], is_right: Bool[Array, " N"]) -> Float[Array, ""]:
    r"""Expected calibration error, over `NUM_BINS` bins of equal width.

    $$\sum_b \frac{N_b}{N} \left| \mathrm{acc}(b) - \mathrm{conf}(b) \right|$$

    Args:
        confidence: the probability that the model gave to what it predicted, in [0, 1].
        is_right: whether the prediction was right.

    Returns:
        A number in [0, 1]; 0 if each confidence is the share of its predictions that are right.

    Reference: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3
    (https://arxiv.org/abs/1706.04599).

    >>> import jax.numpy as jnp
    >>> print(calibration_error(jnp.full(4, 0.9), jnp.array([True, True, True, False])).round(3))
    0.15
    """
    index = jnp.clip((confidence * NUM_BINS).astype(int), 0, NUM_BINS - 1)
    excess = confidence - is_right.astype(confidence.dtype)
    return jnp.sum(jnp.abs(jax.ops.segment_sum(excess, index, NUM_BINS))) / confidence.size
