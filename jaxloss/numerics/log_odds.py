"""The odds of single classes under a softmax, computed without cancelling."""

import jax
import jax.numpy as jnp

from jaxloss._mesh import take_along
from jaxloss.numerics.softmax import Classes, softmax
from jaxloss.numerics.two_sum import two_difference


@jax.jit
def label_log_odds(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """`log(p / (1 - p))` of several labels for each row, `[..., K]`, under the softmax of `[..., V]`.

    That is the label's logit minus the log-sum-exp of the others. `1 - p` cancels only for a single largest
    logit, so only for that one are the others summed by themselves. Labels must be valid.
    """
    return _label_log_odds(logits, labels)


@jax.custom_jvp
def _label_log_odds(logits: jax.Array, labels: jax.Array) -> jax.Array:
    own = take_along(logits, labels, -1)
    peak = jnp.max(logits, -1, keepdims=True, initial=-jnp.inf)
    peak = jnp.where(peak < jnp.inf, peak, jnp.nan)
    leads, others = _split_leader(logits, labels)
    runner_up = jnp.max(others, -1, keepdims=True, initial=-jnp.inf)
    runner_up = jnp.where(runner_up == -jnp.inf, peak, runner_up)
    gap, error = two_difference(peak, runner_up)
    leader_log_odds = gap + (error - jnp.log(jnp.sum(jnp.exp(others - runner_up), -1, keepdims=True)))

    share = jnp.where(leads, 0.0, jnp.exp(own - peak))
    total = jnp.sum(jnp.exp(logits - peak), -1, keepdims=True)
    return jnp.where(leads, leader_log_odds, (own - peak) - jnp.log(total - share))


@_label_log_odds.defjvp
def _label_log_odds_jvp(primals, tangents):
    logits, labels = primals
    own_dot = take_along(tangents[0], labels, -1)
    leads, others = _split_leader(logits, labels)
    shares = softmax(logits, Classes())
    own_share = jnp.where(leads, 0.0, take_along(shares, labels, -1))
    others_dot = (jnp.sum(shares * tangents[0], -1, keepdims=True) - own_share * own_dot) / (1 - own_share)
    # A row without any other class has log-odds of infinity, and a gradient of 0.
    has_others = jnp.any(others > -jnp.inf, -1, keepdims=True)
    others_share = softmax(jnp.where(has_others, others, 0.0), Classes())
    others_share = jnp.where(others == -jnp.inf, 0.0, others_share)
    leader_dot = jnp.sum(others_share * tangents[0], -1, keepdims=True)
    return label_log_odds(logits, labels), own_dot - jnp.where(leads, leader_dot, others_dot)


def _split_leader(logits, labels):
    """Whether each label has the single largest logit of its row; and the logits without the largest."""
    is_peak = logits == jnp.max(logits, -1, keepdims=True, initial=-jnp.inf)
    alone = jnp.sum(is_peak, -1, keepdims=True) == 1
    leader = jnp.argmax(logits, -1, keepdims=True)
    leads = alone & (labels.astype(leader.dtype) == leader)
    return leads, jnp.where(is_peak, -jnp.inf, logits)
