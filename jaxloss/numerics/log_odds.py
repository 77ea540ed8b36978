"""The odds of classes under a softmax, and of answers, computed without cancelling."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxloss._mesh import take_along
from jaxloss.numerics.softmax import Classes, softmax
from jaxloss.numerics.tangent import tangent_of
from jaxloss.numerics.two_sum import exp_difference, two_difference


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


@jax.custom_jvp
def odds_ratio_loss(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    """`-log sigmoid(log_odds(p) - log_odds(q))`, that is `log(1 + ((1 - p) / p) / ((1 - q) / q))`.

    The odds against p and q keep their digits near 1, where `1 - p` loses them; so does their ratio.
    """
    pair = _odds_against(log_p, log_q)
    # Beyond, the loss is so large that the difference of the logarithms has all its digits.
    is_near = pair.against_q > pair.against_p * jnp.sqrt(jnp.finfo(log_p.dtype).tiny)
    near = jnp.log1p(pair.against_p / jnp.where(is_near, pair.against_q, 1.0))
    far = _log_odds(jnp.where(is_near, -1.0, log_q)) - _log_odds(jnp.where(is_near, -1.0, log_p))
    return jnp.where(is_near, near, far)


def _odds_ratio_loss_jvp(primals, tangents):
    slopes = (lambda: _slope_of_p(*primals)), (lambda: _slope_of_q(*primals))
    return odds_ratio_loss(*primals), tangent_of(slopes, tangents)


odds_ratio_loss.defjvp(_odds_ratio_loss_jvp, symbolic_zeros=True)


# The slopes have rules of their own, without the terms that cancel in the derivatives of these quotients.
@jax.custom_jvp
def _slope_of_p(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    pair = _odds_against(log_p, log_q)
    return -pair.over_p / pair.total


@_slope_of_p.defjvp
def _slope_of_p_jvp(primals, tangents):
    pair = _odds_against(*primals)
    of_p = pair.over_p * (pair.over_q - 2 * pair.smaller) / jnp.square(pair.total)
    return _slope_of_p(*primals), of_p * tangents[0] + _mixed(pair) * tangents[1]


@jax.custom_jvp
def _slope_of_q(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    pair = _odds_against(log_p, log_q)
    # Not a quotient of a quotient, of which XLA would make a product below that may underflow.
    return pair.against_p / pair.total * (-1 / jnp.expm1(log_q))


@_slope_of_q.defjvp
def _slope_of_q_jvp(primals, tangents):
    pair, log_q = _odds_against(*primals), primals[1]
    odds = -jnp.exp(log_q) / jnp.expm1(log_q)
    growth = pair.against_q + pair.against_p * odds + 2 * pair.smaller
    of_q = -pair.against_p / jnp.square(pair.total) * growth / jnp.expm1(log_q)
    return _slope_of_q(*primals), _mixed(pair) * tangents[0] + of_q * tangents[1]


class _Pair(NamedTuple):
    """The smaller of p and q; and that times `1 / p`, `1 / q`, `(1 - p) / p` and `(1 - q) / q`."""

    smaller: jax.Array
    over_p: jax.Array
    over_q: jax.Array
    against_p: jax.Array
    against_q: jax.Array

    @property
    def total(self) -> jax.Array:
        return self.against_p + self.against_q


def _mixed(pair: _Pair) -> jax.Array:
    return -pair.over_p * pair.over_q / jnp.square(pair.total)


def _odds_against(log_p: jax.Array, log_q: jax.Array) -> _Pair:
    over_p, over_q = _smaller_over(log_q, log_p), _smaller_over(log_p, log_q)
    against_p, against_q = -over_p * jnp.expm1(log_p), -over_q * jnp.expm1(log_q)
    return _Pair(jnp.exp(jnp.minimum(log_p, log_q)), over_p, over_q, against_p, against_q)


def _smaller_over(log_other: jax.Array, log_p: jax.Array) -> jax.Array:
    """The smaller of two probabilities over the second; NaN for equal infinities, which have no ratio."""
    is_smaller = log_p < log_other
    return exp_difference(jnp.where(is_smaller, 0.0, log_other), jnp.where(is_smaller, 0.0, log_p))


def _log_odds(log_p: jax.Array) -> jax.Array:
    """`log(p / (1 - p))`, whose error is that of the larger logarithm."""
    is_large = log_p > -0.5
    of_large = jnp.log(-jnp.expm1(jnp.where(is_large, log_p, -1.0)))
    return log_p - jnp.where(is_large, of_large, jnp.log1p(-jnp.exp(log_p)))
