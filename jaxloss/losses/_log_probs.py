"""Log-probabilities as arguments: those above 0 are none; the exponentials of their differences overflow."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import checkify

from jaxloss import _checks
from jaxloss._mesh import whole_along

# What rounding may leave of 0: `logits - logsumexp(logits)` in float32 ends up to 1e-5 above.
ROUNDING = 1e-4


def poison_positive(name: str, log_probs: jax.Array) -> jax.Array:
    """`log_probs`, NaN in value and gradient where they are above 0; under `make_checked`, an error there.

    Those that take no part must have been selected away.
    """
    is_positive = log_probs > ROUNDING
    if _checks.checks_labels.value and log_probs.size > 0:
        _check_none(name, whole_along(log_probs), whole_along(is_positive))
    # A product, so that the NaN reaches the gradient as well.
    return log_probs * jnp.where(is_positive, jnp.nan, 1.0).astype(log_probs.dtype)


def _check_none(name: str, log_probs: jax.Array, is_positive: jax.Array) -> None:
    first = jnp.argmax(is_positive.ravel())
    indices: dict[str, Any] = {
        f"index_{i}": index for i, index in enumerate(jnp.unravel_index(first, log_probs.shape))
    }
    place = ", ".join(f"{{{index}}}" for index in indices)
    checkify.check(
        ~jnp.any(is_positive),
        f"{name}[{place}] is {{value}}, but log-probabilities are at most 0; {{num_wrong}} of "
        f"{log_probs.size} are above. Pass the logarithms.",
        value=log_probs.ravel()[first],
        num_wrong=jnp.sum(is_positive),
        **indices,
    )


def bounded_exp(x: jax.Array) -> jax.Array:
    """`exp(x)`, of what would overflow nearly the dtype's largest number."""
    return jnp.exp(jnp.minimum(x, largest_exponent(x.dtype)))


def largest_exponent(dtype) -> float:
    """Whose exponential is finite, with a rounding error put back too."""
    return math.log(float(jnp.finfo(dtype).max)) - 1.0
