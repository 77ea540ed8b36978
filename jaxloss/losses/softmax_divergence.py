"""Divergences between two softmax distributions, from their logits.

Log-probabilities are logits too: their softmax is the distribution itself.
"""

from collections.abc import Callable

import jax
from jaxtyping import Array, Bool, Float

from jaxloss import _checks
from jaxloss._checks import Scalar, in_dtype
from jaxloss._reduction import compute_dtype, select
from jaxloss.losses import _rows
from jaxloss.numerics.divergence import (
    softmax_kl,
    softmax_reverse_kl,
    softmax_skewed_jensen_shannon,
    softmax_total_variation,
)

__all__ = ["forward_kl_div", "jensen_shannon_div", "reverse_kl_div", "total_variation_div"]


def forward_kl_div(
    input: Float[Array, "..."],
    target: Float[Array, "..."],
    *,
    reduction: str = "mean",
    where: Bool[Array, "..."] | None = None,
    sample_weight: Float[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Kullback-Leibler divergence KL(target || input): the input must cover all that the target allows.

    $$\ell_n = \mathrm{KL}(p_n \,\|\, q_n) = \sum_c p_{nc} \log \frac{p_{nc}}{q_{nc}}, \qquad
    p_n = \mathrm{softmax}(y_n),\; q_n = \mathrm{softmax}(x_n)$$

    Never negative, and accurate to a few ULP even where the two nearly agree and the sum as written cancels.
    Infinite where the input excludes a class that the target allows.

    Args:
        input: logits $x$ of the model, classes along `axis`.
        target: logits $y$ of the reference (a teacher), of the same shape.
        reduction: the mean is over rows: torch's "batchmean".

    Differs from torch: this takes logits, `torch.nn.functional.kl_div` log-probabilities and probabilities,
    with rounding errors of first order in their difference, where the divergence is of second order.

    Reference: Kullback and Leibler 1951, "On Information and Sufficiency"
    (https://doi.org/10.1214/aoms/1177729694).

    >>> import jax.numpy as jnp
    >>> x, y = jnp.log(jnp.array([[[0.25, 0.75]], [[0.5, 0.5]]], jnp.float32))
    >>> print(forward_kl_div(x, y))  # ln(2) / 2 + ln(2 / 3) / 2
    0.14384104
    """
    return _divergence(softmax_kl, input, target, reduction, where, sample_weight, axis)


def jensen_shannon_div(
    input: Float[Array, "..."],
    target: Float[Array, "..."],
    *,
    beta: Scalar = 0.5,
    reduction: str = "mean",
    where: Bool[Array, "..."] | None = None,
    sample_weight: Float[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Jensen-Shannon divergence: symmetric, and at most $\log 2$, so that no row can explode.

    $$\ell_n = \beta\, \mathrm{KL}(p_n \,\|\, m_n) + (1 - \beta)\, \mathrm{KL}(q_n \,\|\, m_n), \qquad
    m_n = \beta p_n + (1 - \beta) q_n$$

    with $p_n = \mathrm{softmax}(y_n)$ and $q_n = \mathrm{softmax}(x_n)$. GKD's generalised one has
    a `beta` other than one half.

    Args:
        input: logits $x$ of the model, classes along `axis`.
        target: logits $y$ of the reference, of the same shape.
        beta: $\beta$ in [0, 1]. At its ends, where the formula is 0, it is what that is in proportion to near
            them: at 0 `forward_kl_div`, $\mathrm{KL}(p \| q)$; at 1 `reverse_kl_div`. So TRL has it.

    Reference: Lin 1991, "Divergence Measures Based on the Shannon Entropy"
    (https://doi.org/10.1109/18.61115), with equal weights; restated in section II of Raj and Wiggins 2008
    (https://arxiv.org/abs/0810.5117), who treat its cancellation too. Agarwal et al. 2024, "On-Policy
    Distillation of Language Models", equation 1 (https://arxiv.org/abs/2306.13649), for `beta`.

    >>> import jax.numpy as jnp
    >>> x, y = jnp.array([[100.0, 0.0]], jnp.float32), jnp.array([[0.0, 100.0]], jnp.float32)
    >>> print(jensen_shannon_div(x, y))
    0.6931472
    """
    beta = _checks.as_scalar("beta", beta, low=0.0, high=1.0)

    def skewed(input, target, axis):
        return softmax_skewed_jensen_shannon(input, target, axis, in_dtype(beta, input.dtype))

    return _divergence(skewed, input, target, reduction, where, sample_weight, axis)


def reverse_kl_div(
    input: Float[Array, "..."],
    target: Float[Array, "..."],
    *,
    reduction: str = "mean",
    where: Bool[Array, "..."] | None = None,
    sample_weight: Float[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Kullback-Leibler divergence KL(input || target): the input must stay where the target is.

    $$\ell_n = \mathrm{KL}(q_n \,\|\, p_n) = \sum_c q_{nc} \log \frac{q_{nc}}{p_{nc}}$$

    with $p_n = \mathrm{softmax}(y_n)$ and $q_n = \mathrm{softmax}(x_n)$. It seeks a mode where
    `forward_kl_div` spreads, and is the usual penalty for moving away from a reference policy. Infinite where
    the target excludes a class that the input allows.

    Args:
        input: logits $x$ of the model, classes along `axis`.
        target: logits $y$ of the reference, of the same shape.

    Differs from torch: `kl_div` with exchanged arguments has no gradient through its target's logarithm where
    a probability underflows.

    Reference: Gu et al. 2024, "MiniLLM: Knowledge Distillation of Large Language Models", its objective
    (https://arxiv.org/abs/2306.08543).

    >>> import jax.numpy as jnp
    >>> x, y = jnp.log(jnp.array([[[0.25, 0.75]], [[0.5, 0.5]]], jnp.float32))
    >>> print(reverse_kl_div(x, y))  # ln(1 / 2) / 4 + 3 ln(3 / 2) / 4
    0.13081206
    """
    return _divergence(softmax_reverse_kl, input, target, reduction, where, sample_weight, axis)


def total_variation_div(
    input: Float[Array, "..."],
    target: Float[Array, "..."],
    *,
    reduction: str = "mean",
    where: Bool[Array, "..."] | None = None,
    sample_weight: Float[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Total variation distance: the largest difference in probability that the two give to any set.

    $$\ell_n = \tfrac12 \sum_c |p_{nc} - q_{nc}|$$

    with $p_n = \mathrm{softmax}(y_n)$ and $q_n = \mathrm{softmax}(x_n)$. Its gradient does not shrink as the
    two approach each other, and is 0 at classes where they agree.

    Args:
        input: logits $x$ of the model, classes along `axis`.
        target: logits $y$ of the reference, of the same shape.

    Reference: Levin and Peres 2017, "Markov Chains and Mixing Times", second edition, on total variation
    distance (https://pages.uoregon.edu/dlevin/MARKOV/).

    >>> import jax.numpy as jnp
    >>> x, y = jnp.log(jnp.array([[[0.25, 0.75]], [[0.5, 0.5]]], jnp.float32))
    >>> print(total_variation_div(x, y))
    0.25
    """
    return _divergence(softmax_total_variation, input, target, reduction, where, sample_weight, axis)


def _divergence(
    divergence: Callable[[jax.Array, jax.Array, int], jax.Array],
    input,
    target,
    reduction: str,
    where,
    sample_weight,
    axis: int,
) -> jax.Array:
    input, target = _checks.as_floats("input", input), _checks.as_floats("target", target)
    _checks.check_shape("target", target, input.shape, "that of input")
    axis, where, sample_weight = _rows.check_rows(input, reduction, where, sample_weight, axis)
    _rows.check_classes(input, axis)
    dtype = compute_dtype(input, target, sample_weight)
    input, target = (select(where, logits.astype(dtype), axis=axis) for logits in (input, target))
    return _rows.reduce_weighted(divergence(input, target, axis), reduction, where, sample_weight)
