"""Single answers that are desirable or not: no pairs are needed."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxloss import _checks
from jaxloss._checks import Scalar, in_dtype
from jaxloss._mesh import lie_as
from jaxloss.losses._elements import sigmoid, softplus
from jaxloss.losses._preference import read_logps, scaled
from jaxloss.losses._rows import reduce_weighted

__all__ = ["bco_loss", "kto_loss"]


def bco_loss(
    logps: Float[Array, "*B"],
    ref_logps: Float[Array, "*B"],
    is_desirable: Bool[Array, "*B"],
    reward_shift: Float[Array, ""],
    *,
    beta: Scalar = 0.1,
    reduction: str = "mean",
    where: Bool[Array, "*B"] | None = None,
    sample_weight: Float[Array, "*B"] | None = None,
) -> Float[Array, "..."]:
    r"""Binary classifier optimisation: the implicit reward tells desirable answers from others.

    $$\ell = \begin{cases} -\log \sigma(r - \delta) & \text{desirable} \\
    -\log \sigma(\delta - r) & \text{else} \end{cases}, \qquad
    r = \beta\, (\log \pi(y) - \log \pi_\mathrm{ref}(y))$$

    Args:
        logps: log-probabilities of the answers under the policy, as `sequence_logps` gives them; a positive
            one gives NaN.
        ref_logps: those under the reference model, a constant without a gradient.
        is_desirable: whether each answer is.
        reward_shift: $\delta$, a constant: the mean of the rewards of both kinds so far, each kind counting
            for half; a running mean as a rule.
        beta: $\beta > 0$, what a deviation from the reference costs.
        sample_weight: as by convention; the density ratios of the paper's section on distribution shift.

    Reference: Jung et al. 2024, "Binary Classifier Optimization for Large Language Model Alignment"
    (https://arxiv.org/abs/2404.04656), its loss with the reward shift.

    >>> import jax.numpy as jnp
    >>> logps, reference = jnp.array([-5.0, -405.0], jnp.float32), jnp.full(2, -5.0, jnp.float32)
    >>> losses = bco_loss(logps, reference, jnp.array([True, False]), 0.0, reduction="none")
    >>> print([f"{x:.3g}" for x in losses])
    ['0.693', '4.25e-18']
    """
    beta = _checks.as_scalar("beta", beta, low=0.0, open_low=True)
    log_ratios, is_desirable, where, weight = _read(
        logps, ref_logps, is_desirable, reduction, where, sample_weight
    )
    lead = scaled(beta, log_ratios) - _constant("reward_shift", reward_shift, log_ratios.dtype)
    return reduce_weighted(softplus(jnp.where(is_desirable, -lead, lead)), reduction, where, weight)


def kto_loss(
    logps: Float[Array, "*B"],
    ref_logps: Float[Array, "*B"],
    is_desirable: Bool[Array, "*B"],
    kl: Float[Array, ""],
    *,
    beta: Scalar = 0.1,
    desirable_weight: Scalar = 1.0,
    undesirable_weight: Scalar = 1.0,
    reduction: str = "mean",
    where: Bool[Array, "*B"] | None = None,
    sample_weight: Float[Array, "*B"] | None = None,
) -> Float[Array, "..."]:
    r"""Kahneman-Tversky optimisation: how much an answer gains on the reference, felt less the more it is.

    $$\ell = \begin{cases} \lambda_D \bigl(1 - \sigma(\beta (\Delta - z))\bigr) & \text{desirable} \\
    \lambda_U \bigl(1 - \sigma(\beta (z - \Delta))\bigr) & \text{else} \end{cases}, \qquad
    \Delta = \log \pi(y) - \log \pi_\mathrm{ref}(y), \quad z = \max(0, \mathrm{KL})$$

    Args:
        logps: log-probabilities of the answers under the policy, as `sequence_logps` gives them; a positive
            one gives NaN.
        ref_logps: those under the reference model, a constant without a gradient.
        is_desirable: whether each answer is.
        kl: an estimate of the policy's divergence from the reference, a constant: as a rule the mean of
            $\Delta$ over answers that belong to other prompts of the batch. Below 0 it counts as 0.
        beta: $\beta > 0$, how fast the value saturates.
        desirable_weight: $\lambda_D \ge 0$; unlike `sample_weight`, not in the denominator of the mean.
        undesirable_weight: $\lambda_U \ge 0$, alike.

    Reference: Ethayarajh et al. 2024, "KTO: Model Alignment as Prospect Theoretic Optimization"
    (https://arxiv.org/abs/2402.01306), equations 7 and 8.

    >>> import jax.numpy as jnp
    >>> logps, reference = jnp.array([-5.0, -405.0], jnp.float32), jnp.full(2, -5.0, jnp.float32)
    >>> losses = kto_loss(logps, reference, jnp.array([True, False]), 0.0, reduction="none")
    >>> print([f"{x:.3g}" for x in losses])
    ['0.5', '4.25e-18']
    """
    beta = _checks.as_scalar("beta", beta, low=0.0, open_low=True)
    desirable_weight = _checks.as_scalar("desirable_weight", desirable_weight, low=0.0)
    undesirable_weight = _checks.as_scalar("undesirable_weight", undesirable_weight, low=0.0)
    log_ratios, is_desirable, where, weight = _read(
        logps, ref_logps, is_desirable, reduction, where, sample_weight
    )
    lead = scaled(beta, log_ratios - jnp.maximum(_constant("kl", kl, log_ratios.dtype), 0.0))
    desirable = in_dtype(desirable_weight, lead.dtype) * sigmoid(-lead)
    undesirable = in_dtype(undesirable_weight, lead.dtype) * sigmoid(lead)
    loss = jnp.where(is_desirable, desirable, undesirable)
    return reduce_weighted(loss, reduction, where, weight)


def _read(logps, ref_logps, is_desirable, reduction, where, sample_weight) -> tuple[jax.Array, Any, Any, Any]:
    """Log-ratios of policy and reference, whether each answer is desirable, the mask, and the weights."""
    (policy, reference), where, weight = read_logps(
        reduction, where, sample_weight, logps=logps, ref_logps=ref_logps
    )
    if is_desirable is None:
        raise TypeError("is_desirable must be a boolean array; got None.")
    kinds: Any = _checks.as_mask("is_desirable", is_desirable, policy.shape, "that of logps")
    log_ratios = policy - lax.stop_gradient(reference)
    return log_ratios, lie_as(kinds, log_ratios), where, weight


def _constant(name: str, value, dtype) -> jax.Array:
    """A single number without a gradient."""
    number = _checks.as_floats(name, value)
    _checks.check_shape(name, number, (), "a single number")
    return lax.stop_gradient(number.astype(dtype))
