"""Divergences between distributions: Kullback-Leibler."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxloss import _checks
from jaxloss._reduction import REDUCTIONS, count, reduce_loss
from jaxloss.losses._elements import elementwise_arguments, zero_times
from jaxloss.numerics.tangent import bounded_log, slope_times
from jaxloss.numerics.two_sum import log_minus

__all__ = ["kl_div"]


def kl_div(
    input: Float[Array, "*dims"],
    target: Float[Array, "*dims"],
    reduction: str = "mean",
    log_target: bool = False,
    *,
    where: Bool[Array, "*dims"] | None = None,
) -> Float[Array, "..."]:
    r"""Terms of the Kullback-Leibler divergence KL(target || input), the input given in logarithms.

    $$\ell_i = p_i\, (\log p_i - x_i)$$

    Summed over the classes, they are $\mathrm{KL}(p \,\|\, q)$ with $q = \exp x$. The mean of that over
    examples is "batchmean"; "mean" divides by the number of elements, as torch's default does.

    In float32 each term is within 4 ULP of the true one down to a difference of 2e-8 between $\log p_i$ and
    $x_i$, which is below the rounding of $p_i$ itself.

    Args:
        input: log-probabilities $x$; the first axis is the batch.
        target: probabilities $p$, or $\log p$ with `log_target`; the same shape.
        reduction: also "batchmean", the sum over the size of the first axis; NaN without any element.
        log_target: `target` holds logarithms.
        where: a batch entry without any element counts as deleted too.

    Differs from torch: $p_i = 0$ contributes 0, even where $x_i = -\infty$ or with `log_target`, where torch
    gives NaN; its gradient with respect to the target is that of the smallest normal $p_i$, not $-\infty$, so
    that a softmax before it multiplies it to 0 (0 itself where both exclude the class), where torch gives
    NaN.

    Reference: Kullback and Leibler 1951, "On Information and Sufficiency"
    (https://doi.org/10.1214/aoms/1177729694).

    >>> import jax.numpy as jnp
    >>> p, q = jnp.array([[0.5, 0.5, 0.0]], jnp.float32), jnp.array([[0.25, 0.5, 0.25]], jnp.float32)
    >>> print(jnp.round(kl_div(jnp.log(q), p, reduction="batchmean"), 4))
    0.3466
    """
    _checks.check_flag("log_target", log_target)
    (x, p), where = elementwise_arguments(
        reduction, where, input=input, target=target, reductions=(*REDUCTIONS, "batchmean")
    )
    # The masked targets are 0 by now; 1 keeps their gradient finite.
    p = p if where is None else jnp.where(where, p, 1.0)
    loss = _term_of_logs(x, p) if log_target else _term(x, p)
    if reduction != "batchmean":
        return reduce_loss(loss, reduction, where)
    if loss.ndim == 0:
        return reduce_loss(loss, "sum", where)
    has_any = None if where is None else jnp.any(where, axis=tuple(range(1, loss.ndim)))
    batch = jnp.zeros(loss.shape[0], loss.dtype)
    return reduce_loss(loss, "mean", where, count(batch, has_any))


@jax.custom_jvp
def _term(input: jax.Array, target: jax.Array) -> jax.Array:
    """`target * (log(target) - input)`, 0 where the target is 0."""
    positive = jnp.where(target == 0.0, 1.0, target)
    difference = log_minus(positive, input) if input.dtype == jnp.float32 else jnp.log(positive) - input
    return jnp.where(target == 0.0, 0.0, target * difference)


def _term_jvp(primals, tangents):
    (input, target), (input_dot, target_dot) = primals, tangents
    loss_dot = jnp.zeros_like(input)
    if type(input_dot) is not jax.custom_derivatives.SymbolicZero:
        loss_dot -= target * input_dot
    if type(target_dot) is not jax.custom_derivatives.SymbolicZero:
        slope = bounded_log(target) - input + 1
        excluded = (target == 0.0) & (input == -jnp.inf)
        loss_dot += slope_times(jnp.where(excluded, 0.0, slope), target_dot)
    return _term(input, target), loss_dot


_term.defjvp(_term_jvp, symbolic_zeros=True)


def _term_of_logs(input: jax.Array, log_target: jax.Array) -> jax.Array:
    """`exp(log_target) * (log_target - input)`, 0 with a zero gradient where the log-target is -inf."""
    absent = log_target == -jnp.inf
    finite = jnp.where(absent, 0.0, log_target)
    return jnp.where(absent, 0.0, zero_times(jnp.exp(finite), finite - input))
