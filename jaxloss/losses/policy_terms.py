"""What goes with a policy loss: advantages, the distance to a reference, a critic, off-policy weights.

Shapes: B sequences (any number of axes), T tokens, N rewards. As in `policy`, only the first argument of a
loss has a gradient.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxloss import _checks
from jaxloss._checks import Scalar, in_dtype
from jaxloss._mesh import lie_as
from jaxloss._reduction import compute_dtype, reduce_loss, select
from jaxloss.losses._elements import elementwise_arguments, nan_of
from jaxloss.losses._log_probs import bounded_exp, k3, only_log_probabilities

__all__ = ["clipped_value_loss", "group_advantages", "sampled_kl_div", "truncated_importance_weights"]

_ESTIMATORS, _LEVELS, _SCALES = ("k1", "k2", "k3"), ("token", "sequence"), ("group", "batch", "none")


def group_advantages(
    rewards: Float[Array, " N"],
    group_size: int,
    *,
    scale: str = "group",
    eps: Scalar = 1e-4,
    where: Bool[Array, " N"] | None = None,
) -> Float[Array, " N"]:
    r"""Advantages without a critic: each completion's reward, relative to the others of the same prompt.

    $$A_i = \frac{r_i - \mu_g}{\sigma + \epsilon}$$

    with $\mu_g$ the mean of the group, and $\sigma$ the standard deviation, of $n - 1$ degrees of freedom, of
    the group or the batch. Where it is 0, all rewards being the same or only one, so are the advantages:
    exactly, whatever the mean rounds to.

    Args:
        rewards: $r_i$, those of a group one after the other.
        group_size: completions for each prompt; it must divide N.
        scale: "group", as in GRPO; "batch", $\sigma$ over all rewards; or "none", no division, as in
            Dr. GRPO, whose authors find that division weighs easy and hard prompts more.
        eps: $\epsilon \ge 0$.
        where: a reward that is masked has the advantage 0.

    Returns:
        Advantages, constants without a gradient, at least float32.

    Reference: Shao et al. 2024, "DeepSeekMath", section 4.1.2, outcome supervision
    (https://arxiv.org/abs/2402.03300); Liu et al. 2025, "Understanding R1-Zero-Like Training", section 3.1,
    for "none" (https://arxiv.org/abs/2503.20783); the other choices are TRL's `scale_rewards`.

    >>> import jax.numpy as jnp
    >>> print(group_advantages(jnp.array([1.0, 0.0, 0.5, 0.5], jnp.float32), 2, scale="none"))
    [ 0.5 -0.5  0.   0. ]
    """
    rewards = _checks.as_floats("rewards", rewards)
    if rewards.ndim != 1:
        raise ValueError(f"rewards must have one axis, of completions; got {_checks.describe(rewards)}.")
    group_size = _checks.check_integer("group_size", group_size, low=1)
    if rewards.shape[0] % group_size:
        raise ValueError(
            f"group_size must divide the number of rewards, {rewards.shape[0]}; got {group_size}. Give each "
            "prompt as many completions, masked ones among them."
        )
    _checks.check_choice("scale", scale, _SCALES)
    eps = _checks.as_scalar("eps", eps, low=0.0)
    where = _checks.as_mask("where", where, rewards.shape, "that of rewards")
    dtype = compute_dtype(rewards)
    rewards = select(where, lax.stop_gradient(rewards).astype(dtype)).reshape(-1, group_size)
    valid = jnp.ones(rewards.shape, bool) if where is None else where.reshape(rewards.shape)
    centred = _deviations(rewards, valid, 1)
    if scale == "none":
        return centred.reshape(-1)
    axis = 1 if scale == "group" else None
    spread = centred if scale == "group" else _deviations(rewards, valid, axis)
    freedom = jnp.maximum(jnp.sum(valid, axis, keepdims=True) - 1, 1).astype(dtype)
    # In units of a power of two, since the square of 1e20 would be infinite in float32.
    _, exponent = jnp.frexp(jnp.max(jnp.abs(spread), axis, keepdims=True, initial=0.0))
    squares = jnp.square(jnp.ldexp(spread, -exponent))
    std = jnp.ldexp(jnp.sqrt(jnp.sum(squares, axis, keepdims=True) / freedom), exponent)
    return (centred / jnp.where(std == 0.0, 1.0, std + in_dtype(eps, dtype))).reshape(-1)


def _deviations(rewards: jax.Array, valid: jax.Array, axis: int | None) -> jax.Array:
    """What valid rewards differ from their mean by."""
    # Relative to the least, equal rewards are exactly 0, and so is their mean.
    least = jnp.min(jnp.where(valid, rewards, jnp.finfo(rewards.dtype).max), axis, keepdims=True)
    above = select(valid, rewards - least)
    count = jnp.maximum(jnp.sum(valid, axis, keepdims=True), 1).astype(rewards.dtype)
    return select(valid, above - jnp.sum(above, axis, keepdims=True) / count)


def sampled_kl_div(
    logps: Float[Array, "*B T"],
    ref_logps: Float[Array, "*B T"],
    *,
    estimator: str = "k3",
    reduction: str = "mean",
    where: Bool[Array, "*B T"] | None = None,
) -> Any:
    r"""Distance to a reference policy, estimated from the sampled tokens alone: the KL penalty of GRPO.

    $$k_1 = \log \frac{\pi(y_t)}{\pi_\text{ref}(y_t)}, \qquad k_2 = \tfrac12 k_1^2, \qquad
    k_3 = e^{-k_1} - 1 + k_1$$

    Over tokens sampled from $\pi$, the means of $k_1$ and $k_3$ are $\mathrm{KL}(\pi \,\|\, \pi_\text{ref})$;
    that of $k_2$ is nearly so. The mean gradient of $k_2$ is the divergence's, that of $k_1$ is 0, that of
    $k_3$ is the gradient of $\mathrm{KL}(\pi_\text{ref} \,\|\, \pi)$. In float32, $k_3$ is within 4 ULP of
    the true value, where the formula as written is noise of either sign from $k_1 = 10^{-3}$ down.

    Args:
        logps: log-probabilities of the sampled tokens under the policy that is trained.
        ref_logps: those under the reference, a constant.
        estimator: "k1", "k2" or "k3".

    Reference: Schulman 2020, "Approximating KL Divergence" (http://joschu.net/blog/kl-approx.html); Shao et
    al. 2024, "DeepSeekMath", equation 4 (https://arxiv.org/abs/2402.03300).

    >>> import jax.numpy as jnp
    >>> logps, ref_logps = jnp.array([[-1.25, -1.0]], jnp.float32), jnp.array([[-1.0, -1.0]], jnp.float32)
    >>> print(sampled_kl_div(logps, ref_logps, reduction="none"))  # e ** 0.25 - 1.25
    [[0.03402542 0.        ]]
    """
    _checks.check_choice("estimator", estimator, _ESTIMATORS)
    (logps, ref_logps), where = _log_probs(reduction, where, logps=logps, ref_logps=ref_logps)
    if estimator == "k1":
        return reduce_loss(logps - ref_logps, reduction, where)
    loss = jnp.square(logps - ref_logps) / 2 if estimator == "k2" else k3(logps, ref_logps)
    return reduce_loss(loss, reduction, where)


def truncated_importance_weights(
    old_logps: Float[Array, "*B T"],
    rollout_logps: Float[Array, "*B T"],
    *,
    cap: Scalar = 2.0,
    level: str = "token",
    where: Bool[Array, "*B T"] | None = None,
) -> Float[Array, "*B T"]:
    r"""Truncated importance sampling: weights for tokens that another engine sampled with other numerics.

    $$w_t = \min\!\Big(\frac{\pi_\text{old}(y_t)}{\pi_\text{rollout}(y_t)},\; C\Big)$$

    Multiply the advantages by them: every policy loss is proportional to these.

    Args:
        old_logps: log-probabilities of the sampled tokens, as the trainer computes them at sampling time.
        rollout_logps: those that the sampler (vLLM, SGLang) reports.
        cap: $C > 0$.
        level: "token"; or "sequence", the ratio of the whole sequence, the last axis, for each of its tokens.
        where: masked tokens have the weight 0.

    Returns:
        Weights, constants without a gradient, at least float32.

    Reference: Yao et al. 2025, "On the Rollout-Training Mismatch in Modern RL Systems"
    (https://fengyao.notion.site/off-policy-rl); Ionides 2008, "Truncated Importance Sampling"
    (https://doi.org/10.1198/106186008X320456).

    >>> import jax.numpy as jnp
    >>> old_logps, rollout_logps = jnp.log(jnp.array([[[0.5, 0.9]], [[0.25, 0.3]]], jnp.float32))
    >>> print(truncated_importance_weights(old_logps, rollout_logps))
    [[2. 2.]]
    """
    cap = _checks.as_scalar("cap", cap, low=0.0, open_low=True)
    _checks.check_choice("level", level, _LEVELS)
    constants = {"old_logps": old_logps, "rollout_logps": rollout_logps}
    (old_logps, rollout_logps), where = _log_probs("none", where, **constants)
    log_ratio = lax.stop_gradient(old_logps - rollout_logps)
    if level == "sequence":
        log_ratio = jnp.broadcast_to(jnp.sum(log_ratio, -1, keepdims=True), log_ratio.shape)
    return select(where, jnp.minimum(bounded_exp(log_ratio), in_dtype(cap, log_ratio.dtype)))


def clipped_value_loss(
    values: Float[Array, "*dims"],
    old_values: Float[Array, "*dims"],
    returns: Float[Array, "*dims"],
    *,
    clip: Scalar = 0.2,
    reduction: str = "mean",
    where: Bool[Array, "*dims"] | None = None,
) -> Any:
    r"""PPO's loss of the critic: half the squared error, with nothing to gain from a step beyond the clip.

    $$\ell_t = \tfrac12 \max\!\big((v_t - R_t)^2,\; (\mathrm{clip}(v_t, v_t^\text{old} - \epsilon,
    v_t^\text{old} + \epsilon) - R_t)^2\big)$$

    Where both squares are equal though the value is clipped, the gradient is half of the first's, as torch's.

    Args:
        values: the critic's estimates $v_t$.
        old_values: those when the tokens were sampled, constants.
        returns: what came of them, $R_t$, constants.
        clip: $\epsilon \ge 0$, in the unit of the values.

    Reference: the PPO of OpenAI Baselines, `ppo2/model.py`; it is not in the paper. Huang et al. 2022, "The
    37 Implementation Details of Proximal Policy Optimization", detail 9
    (https://iclr-blog-track.github.io/2022/03/25/ppo-implementation-details/).

    >>> import jax.numpy as jnp
    >>> values, returns = jnp.array([1.0, 2.0], jnp.float32), jnp.array([0.0, 3.0], jnp.float32)
    >>> print(clipped_value_loss(values, jnp.zeros(2, jnp.float32), returns, reduction="none", clip=0.5))
    [0.5   3.125]
    """
    clip = _checks.as_scalar("clip", clip, low=0.0)
    (values, old_values, returns), where = elementwise_arguments(
        reduction,
        where,
        values=values,
        old_values=_constant("old_values", old_values),
        returns=_constant("returns", returns),
    )
    old_values, clip = lie_as(old_values, values), in_dtype(clip, values.dtype)
    values = nan_of(values, clip)
    low, high = old_values - clip, old_values + clip
    clipped = jnp.where(values < low, low, jnp.where(values > high, high, values))
    loss = jnp.maximum(jnp.square(values - returns), jnp.square(clipped - returns)) / 2
    return reduce_loss(loss, reduction, where)


def _constant(name: str, value) -> jax.Array:
    return lax.stop_gradient(_checks.as_floats(name, value))


def _log_probs(reduction: str, where, **named):
    """The log-probabilities, of which only the first is no constant, and the mask."""
    first = next(iter(named))
    constants = {name: _constant(name, value) for name, value in named.items() if name != first}
    arrays, where = elementwise_arguments(reduction, where, **{first: named[first]} | constants)
    checked = [only_log_probabilities(*pair) for pair in zip(named, arrays, strict=True)]
    return checked, where
