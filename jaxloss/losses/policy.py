"""Policy gradients on tokens: raise the probability of what did better than expected, within bounds.

Shapes: B sequences (any number of axes), T tokens. Only the current policy has a gradient: `old_logps` and
`advantages` are constants, so that on the first step after sampling `old_logps=logps` is right. Which of
these losses, at which level and with which mean, is GRPO, DAPO, GSPO, ... is a table in docs/policy.md.
"""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxloss import _checks
from jaxloss._checks import Scalar, in_dtype
from jaxloss._mesh import lie_as
from jaxloss._reduction import reduce_loss, select
from jaxloss.losses._elements import elementwise_arguments, nan_of, sigmoid, zero_times
from jaxloss.losses._log_probs import bounded_exp, k3, largest_exponent, only_log_probabilities
from jaxloss.losses._rows import lie_along
from jaxloss.numerics.two_sum import two_difference

__all__ = ["PolicyStatistics", "cispo_loss", "clipped_policy_loss", "sapo_loss"]

_LEVELS = ("token", "sequence", "sequence_token")


class PolicyStatistics(NamedTuple):
    r"""What a policy loss says about each token; without derivatives, and 0 for tokens that take no part.

    $$r_t = \frac{\pi(y_t)}{\pi_\text{old}(y_t)}, \qquad k_t = r_t - 1 - \log r_t$$

    The mean of `is_clipped` is the clip fraction, the least and the largest `ratio` are its range, and the
    mean of `kl` estimates $\mathrm{KL}(\pi_\text{old} \,\|\, \pi)$; give them the loss's `where`.

    Args:
        ratio: $r_t$, or that of the token's sequence where the loss is at that level.
        is_clipped: the bounds leave the token no gradient (in `cispo_loss`, less than its whole weight).
        kl: $k_t \ge 0$, of the token at every level.

    Reference: Schulman 2020, "Approximating KL Divergence", the third estimator
    (http://joschu.net/blog/kl-approx.html).

    >>> import jax.numpy as jnp
    >>> logps, old_logps = jnp.array([[-1.0, -1.0, -9.0]]), jnp.array([[-2.0, -1.0, 0.0]])
    >>> mask = jnp.array([[True, True, False]])
    >>> options = {"where": mask, "return_statistics": True}
    >>> _, statistics = clipped_policy_loss(logps, old_logps, jnp.ones(1), **options)
    >>> print(statistics.is_clipped.mean(where=mask), statistics.ratio.max(where=mask, initial=0).round(4))
    0.5 2.7183
    """

    ratio: Array
    is_clipped: Array
    kl: Array


def clipped_policy_loss(
    logps: Float[Array, "*B T"],
    old_logps: Float[Array, "*B T"],
    advantages: Float[Array, "*B T"] | Float[Array, "*B"],
    *,
    clip_low: Scalar = 0.2,
    clip_high: Scalar = 0.2,
    dual_clip: Scalar | None = None,
    level: str = "token",
    reduction: str = "mean",
    where: Bool[Array, "*B T"] | None = None,
    return_statistics: bool = False,
) -> Any:
    r"""The clipped objective of PPO, GRPO, Dr. GRPO, BNPO, DAPO and GSPO: no reward for going further.

    $$\ell_t = -\min\!\big(r_t A_t,\; \mathrm{clip}(r_t, 1 - \epsilon_\text{low}, 1 + \epsilon_\text{high})
    A_t\big), \qquad r_t = \frac{\pi(y_t)}{\pi_\text{old}(y_t)}$$

    With `dual_clip` $c$, the ratio of tokens with $A_t < 0$ is at most $c$, and so their loss at most
    $-c A_t$; without it, a ratio beyond the dtype's range makes theirs inf. A ratio exactly at a bound passes
    its gradient, as in torch's clamp.

    At the level "sequence", $r_t$ is $s = \exp\big(\tfrac1{|y|} \sum_t \log r_t\big)$ for every token of the
    sequence, the last axis (GSPO). At "sequence_token", it has that value, and the gradient of the token
    alone: $\mathrm{sg}(s)\, \pi(y_t) / \mathrm{sg}(\pi(y_t))$ (GSPO-token), for advantages that differ within
    a sequence.

    Args:
        logps: log-probabilities $\log \pi(y_t)$ of the sampled tokens under the policy that is trained.
        old_logps: those under the policy that they were sampled from.
        advantages: $A_t$, or one for each sequence, as of `group_advantages`.
        clip_low: $\epsilon_\text{low}$ in [0, 1].
        clip_high: $\epsilon_\text{high} \ge 0$; above `clip_low` it is DAPO's clip-higher.
        dual_clip: $c \ge 1$, the largest ratio of a token with a negative advantage; None for no bound.
        level: "token", "sequence" or "sequence_token"; for the last two a row is one sequence, never several
            packed in it.
        return_statistics: return `PolicyStatistics` too, of the shape of `logps`.

    Reference: Schulman et al. 2017, "Proximal Policy Optimization Algorithms", equation 7
    (https://arxiv.org/abs/1707.06347); Ye et al. 2020 for the dual clip
    (https://arxiv.org/abs/1912.09729); Shao et al. 2024, "DeepSeekMath", equation 3, GRPO
    (https://arxiv.org/abs/2402.03300); Yu et al. 2025, "DAPO", equation 8 (https://arxiv.org/abs/2503.14476);
    Zheng et al. 2025, "Group Sequence Policy Optimization", equations 5, 7, 13 and 14
    (https://arxiv.org/abs/2507.18071).

    >>> import jax.numpy as jnp
    >>> old_logps = jnp.log(jnp.array([[0.25, 0.25]], jnp.float32))
    >>> logps = jnp.log(jnp.array([[0.5, 0.25]], jnp.float32))
    >>> print(clipped_policy_loss(logps, old_logps, jnp.ones(1, jnp.float32), reduction="none"))
    [[-1.2 -1. ]]
    """
    clip_low = _checks.as_scalar("clip_low", clip_low, low=0.0, high=1.0)
    clip_high = _checks.as_scalar("clip_high", clip_high, low=0.0)
    cap = math.inf if dual_clip is None else _checks.as_scalar("dual_clip", dual_clip, low=1.0)
    _checks.check_choice("level", level, _LEVELS)
    logps, old_logps, advantages, where = _read(logps, old_logps, advantages, reduction, where)
    low, high = 1 - in_dtype(clip_low, logps.dtype), 1 + in_dtype(clip_high, logps.dtype)
    cap = in_dtype(cap, logps.dtype)
    log_ratio, error = _log_ratio(logps, old_logps, where, level)
    log_ratio = nan_of(log_ratio, low, high, cap)

    ratio = lax.stop_gradient(bounded_exp(log_ratio) * (1 + error))
    is_high, is_low = (advantages > 0.0) & (ratio > high), (advantages < 0.0) & (ratio < low)
    is_capped = (advantages < 0.0) & (ratio > cap)
    is_clipped = is_high | is_low | is_capped
    # What does not count is left out before the exponential, which may be infinite: 0 times that is NaN.
    counts = ~is_clipped & ~((advantages == 0.0) & (log_ratio > 0.0))
    free = jnp.exp(select(counts, log_ratio)) * (1 + select(counts, error))
    bound = jnp.where(is_high, high, jnp.where(is_low, low, 1.0 if dual_clip is None else cap))
    loss = reduce_loss(-advantages * jnp.where(is_clipped, bound, free), reduction, where)
    if not return_statistics:
        return loss
    return loss, _statistics(logps, old_logps, log_ratio, error, is_clipped, where)


def cispo_loss(
    logps: Float[Array, "*B T"],
    old_logps: Float[Array, "*B T"],
    advantages: Float[Array, "*B T"] | Float[Array, "*B"],
    *,
    clip_low: Scalar = 1.0,
    clip_high: Scalar = 4.0,
    reduction: str = "mean",
    where: Bool[Array, "*B T"] | None = None,
    return_statistics: bool = False,
) -> Any:
    r"""CISPO: the importance weight is clipped, not the gradient, so that every token is learnt from.

    $$\ell_t = -\mathrm{sg}\big(\mathrm{clip}(r_t, 1 - \epsilon_\text{low}, 1 + \epsilon_\text{high})\big)
    A_t \log \pi(y_t), \qquad r_t = \frac{\pi(y_t)}{\pi_\text{old}(y_t)}$$

    Args:
        logps: log-probabilities $\log \pi(y_t)$ of the sampled tokens under the policy that is trained.
        old_logps: those under the policy that they were sampled from.
        advantages: $A_t$, or one for each sequence.
        clip_low: $\epsilon_\text{low}$ in [0, 1]; 1, the paper's choice, is no lower bound.
        clip_high: $\epsilon_\text{high} \ge 0$. TRL's `epsilon_high` is the largest weight itself,
            $1 + \epsilon_\text{high}$.
        return_statistics: return `PolicyStatistics` too, of the shape of `logps`.

    Reference: MiniMax 2025, "MiniMax-M1", the objective of CISPO (https://arxiv.org/abs/2506.13585).

    >>> import jax, jax.numpy as jnp
    >>> old_logps = jnp.log(jnp.array([[0.0625, 0.25]], jnp.float32))
    >>> logps = jnp.log(jnp.array([[0.5, 0.25]], jnp.float32))
    >>> jax.grad(cispo_loss)(logps, old_logps, jnp.ones(1, jnp.float32), reduction="sum").tolist()
    [[-5.0, -1.0]]
    """
    clip_low = _checks.as_scalar("clip_low", clip_low, low=0.0, high=1.0)
    clip_high = _checks.as_scalar("clip_high", clip_high, low=0.0)
    logps, old_logps, advantages, where = _read(logps, old_logps, advantages, reduction, where)
    low, high = 1 - in_dtype(clip_low, logps.dtype), 1 + in_dtype(clip_high, logps.dtype)
    log_ratio, error = _log_ratio(logps, old_logps, where, "token")
    ratio = lax.stop_gradient(bounded_exp(log_ratio) * (1 + error))
    weight = nan_of(jnp.where(ratio > high, high, jnp.where(ratio < low, low, ratio)), low, high)
    loss = reduce_loss(-zero_times(advantages * weight, logps), reduction, where)
    if not return_statistics:
        return loss
    return loss, _statistics(logps, old_logps, log_ratio, error, (ratio > high) | (ratio < low), where)


def sapo_loss(
    logps: Float[Array, "*B T"],
    old_logps: Float[Array, "*B T"],
    advantages: Float[Array, "*B T"] | Float[Array, "*B"],
    *,
    positive_temperature: Scalar = 1.0,
    negative_temperature: Scalar = 1.05,
    reduction: str = "mean",
    where: Bool[Array, "*B T"] | None = None,
    return_statistics: bool = False,
) -> Any:
    r"""SAPO: a smooth gate in place of clipping, which lets go of tokens the further they are off-policy.

    $$\ell_t = -\frac4{\tau_t}\, \sigma\big(\tau_t (r_t - 1)\big)\, A_t, \qquad
    \tau_t = \begin{cases} \tau_\text{pos} & A_t > 0 \\ \tau_\text{neg} & A_t \le 0 \end{cases}$$

    On-policy, at $r_t = 1$, its gradient is that of the unclipped objective; it is finite at every ratio.

    Args:
        logps: log-probabilities $\log \pi(y_t)$ of the sampled tokens under the policy that is trained.
        old_logps: those under the policy that they were sampled from.
        advantages: $A_t$, or one for each sequence.
        positive_temperature: $\tau_\text{pos} > 0$; the larger, the narrower the gate.
        negative_temperature: $\tau_\text{neg} > 0$.
        return_statistics: return `PolicyStatistics` too, of the shape of `logps`; nothing `is_clipped`.

    Reference: Gao et al. 2025, "Soft Adaptive Policy Optimization", its objective and gate
    (https://arxiv.org/abs/2511.20347).

    >>> import jax, jax.numpy as jnp
    >>> logps, old_logps = jnp.zeros((1, 2), jnp.float32), jnp.array([[0.0, -200.0]], jnp.float32)
    >>> jax.grad(sapo_loss)(logps, old_logps, jnp.ones(1, jnp.float32), reduction="sum").tolist()
    [[-1.0, -0.0]]
    """
    positive, negative = (
        _checks.as_scalar(name, value, low=0.0, open_low=True)
        for name, value in (
            ("positive_temperature", positive_temperature),
            ("negative_temperature", negative_temperature),
        )
    )
    logps, old_logps, advantages, where = _read(logps, old_logps, advantages, reduction, where)
    positive, negative = in_dtype(positive, logps.dtype), in_dtype(negative, logps.dtype)
    log_ratio, error = _log_ratio(logps, old_logps, where, "token")
    temperature = nan_of(jnp.where(advantages > 0.0, positive, negative), positive, negative)
    # Beyond this the gate is open to the last digit, and its slope times an infinite ratio would be NaN.
    furthest = jnp.minimum(math.log(1000.0) - jnp.log(temperature), largest_exponent(logps.dtype))
    gate = sigmoid(temperature * jnp.expm1(jnp.minimum(log_ratio, furthest)))
    loss = reduce_loss(-advantages * (4 / temperature * gate), reduction, where)
    if not return_statistics:
        return loss
    return loss, _statistics(logps, old_logps, log_ratio, error, jnp.zeros(logps.shape, bool), where)


def _read(logps, old_logps, advantages, reduction: str, where):
    """The arguments of a policy loss, those but `logps` as constants, and the mask."""
    logps, old_logps = _checks.as_floats("logps", logps), _checks.as_floats("old_logps", old_logps)
    advantages = _checks.as_floats("advantages", advantages)
    if logps.ndim == 0:
        raise ValueError(f"logps must have an axis of tokens; got the scalar {_checks.describe(logps)}.")
    if advantages.shape == logps.shape[:-1]:
        advantages = lie_along(logps, -1, advantages)[0][..., None]
    elif advantages.shape != logps.shape:
        raise ValueError(
            f"advantages must have the shape of logps, {list(logps.shape)}, or that without its last axis, "
            f"one for each sequence; got {_checks.describe(advantages)}."
        )
    (logps, old_logps, advantages), where = elementwise_arguments(
        reduction,
        where,
        logps=logps,
        old_logps=lax.stop_gradient(old_logps),
        advantages=lax.stop_gradient(advantages),
        broadcastable=("advantages",),
    )
    logps = only_log_probabilities("logps", logps)
    old_logps = only_log_probabilities("old_logps", old_logps)
    return logps, lie_as(old_logps, logps), lie_as(advantages, logps), where


def _log_ratio(logps, old_logps, where, level: str):
    """The log-ratio that each token has at this level, and its rounding error."""
    log_ratio, error = two_difference(logps, old_logps)
    if level == "token":
        return log_ratio, lax.stop_gradient(error)
    is_token = jnp.ones(logps.shape, bool) if where is None else where
    count = jnp.maximum(jnp.sum(is_token, -1, keepdims=True), 1).astype(logps.dtype)
    mean = jnp.sum(log_ratio, -1, keepdims=True) / count
    mean = lie_as(jnp.broadcast_to(mean, logps.shape), logps)
    if level == "sequence":
        return mean, jnp.zeros_like(mean)
    own = jnp.where(jnp.isfinite(logps), logps, 0.0)
    return lax.stop_gradient(mean) + (own - lax.stop_gradient(own)), jnp.zeros_like(mean)


def _statistics(logps, old_logps, log_ratio, error, is_clipped, where) -> PolicyStatistics:
    ratio = jnp.exp(log_ratio) * (1 + error)
    statistics = ratio, is_clipped, k3(old_logps, logps)
    return PolicyStatistics(*(select(where, lax.stop_gradient(array)) for array in statistics))
