"""Preferences between pairs of answers, optimised without a reference model."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxloss import _checks
from jaxloss._checks import Scalar, in_dtype, is_number
from jaxloss._mesh import lie_as
from jaxloss.losses._elements import zero_times
from jaxloss.losses._preference import logistic, read_logps, scaled
from jaxloss.losses._rows import reduce_weighted
from jaxloss.numerics.log_odds import odds_ratio_loss

__all__ = ["cpo_loss", "orpo_loss", "simpo_loss"]


def cpo_loss(
    chosen_logps: Float[Array, "*B"],
    rejected_logps: Float[Array, "*B"],
    *,
    beta: Scalar = 0.1,
    label_smoothing: Scalar = 0.0,
    nll_weight: Scalar = 1.0,
    reduction: str = "mean",
    where: Bool[Array, "*B"] | None = None,
    sample_weight: Float[Array, "*B"] | None = None,
) -> Float[Array, "..."]:
    r"""Contrastive preference optimisation: DPO for a uniform reference, and imitation.

    $$\ell = -(1 - \epsilon) \log \sigma(m) - \epsilon \log \sigma(-m) - \lambda \log \pi(y_w), \qquad
    m = \beta\, (\log \pi(y_w) - \log \pi(y_l))$$

    Args:
        chosen_logps: log-probabilities of the chosen answers, as `sequence_logps` gives them; a positive one
            gives NaN.
        rejected_logps: those of the rejected answers.
        beta: $\beta > 0$, the scale of the margin.
        label_smoothing: $\epsilon$ in [0, 1], the share of pairs labelled the wrong way round.
        nll_weight: $\lambda \ge 0$, the weight of the behaviour cloning; TRL's `cpo_alpha`.

    Reference: Xu et al. 2024, "Contrastive Preference Optimization" (https://arxiv.org/abs/2401.08417),
    equation 3 and the objective after it.

    >>> import jax.numpy as jnp
    >>> chosen, rejected = jnp.array([-5.0], jnp.float32), jnp.array([-405.0], jnp.float32)
    >>> print(f"{cpo_loss(chosen, rejected):.3g}, {cpo_loss(chosen, rejected, nll_weight=0.0):.3g}")
    5, 4.25e-18
    """
    beta = _checks.as_scalar("beta", beta, low=0.0, open_low=True)
    label_smoothing = _checks.as_scalar("label_smoothing", label_smoothing, low=0.0, high=1.0)
    nll_weight = _checks.as_scalar("nll_weight", nll_weight, low=0.0)
    (chosen, rejected), where, weight = read_logps(
        reduction, where, sample_weight, chosen_logps=chosen_logps, rejected_logps=rejected_logps
    )
    loss = logistic(scaled(beta, chosen - rejected), label_smoothing)
    return reduce_weighted(_with_nll(loss, chosen, nll_weight), reduction, where, weight)


def orpo_loss(
    chosen_logps: Float[Array, "*B"],
    rejected_logps: Float[Array, "*B"],
    *,
    beta: Scalar = 0.1,
    nll_weight: Scalar = 1.0,
    reduction: str = "mean",
    where: Bool[Array, "*B"] | None = None,
    sample_weight: Float[Array, "*B"] | None = None,
) -> Float[Array, "..."]:
    r"""Odds-ratio preference optimisation: imitation of the chosen answer, and its odds ratio.

    $$\ell = -\lambda \log p_w
    - \beta \log \sigma\Bigl(\log \frac{p_w}{1 - p_w} - \log \frac{p_l}{1 - p_l}\Bigr)$$

    Within 4 ULP and with its gradient for answers that are nearly certain too, where $1 - p$ cancels: it is
    taken as $\log\bigl(1 + \frac{1 - p_w}{p_w} \frac{p_l}{1 - p_l}\bigr)$.

    Args:
        chosen_logps: $\log p_w$ of the chosen answers, averaged over their tokens, as
            `sequence_logps(..., average=True)` gives them; a positive one gives NaN.
        rejected_logps: $\log p_l$ of the rejected answers, averaged alike.
        beta: the weight of the odds ratio, above 0; the paper's $\lambda$.
        nll_weight: $\lambda \ge 0$ here, the weight of the chosen answer's negative log-likelihood.

    Reference: Hong et al. 2024, "ORPO" (https://arxiv.org/abs/2403.07691), equations 6 and 7.

    >>> import jax, jax.numpy as jnp
    >>> chosen, rejected = jnp.array([-1e-9], jnp.float32), jnp.array([-1.0], jnp.float32)
    >>> value, slope = jax.value_and_grad(orpo_loss)(chosen, rejected, beta=1.0, nll_weight=0.0)
    >>> print(f"{value:.4g} {slope[0]:.4g}")
    5.82e-10 -0.582
    """
    beta = _checks.as_scalar("beta", beta, low=0.0, open_low=True)
    nll_weight = _checks.as_scalar("nll_weight", nll_weight, low=0.0)
    (chosen, rejected), where, weight = read_logps(
        reduction, where, sample_weight, chosen_logps=chosen_logps, rejected_logps=rejected_logps
    )
    if where is not None:
        # Two answers that are both certain, as masked ones would be, have no odds ratio.
        chosen, rejected = (jnp.where(lie_as(where, logps), logps, -1.0) for logps in (chosen, rejected))
    loss = in_dtype(beta, chosen.dtype) * odds_ratio_loss(chosen, rejected)
    return reduce_weighted(_with_nll(loss, chosen, nll_weight), reduction, where, weight)


def simpo_loss(
    chosen_logps: Float[Array, "*B"],
    rejected_logps: Float[Array, "*B"],
    *,
    beta: Scalar = 2.0,
    gamma: Scalar = 0.5,
    label_smoothing: Scalar = 0.0,
    reduction: str = "mean",
    where: Bool[Array, "*B"] | None = None,
    sample_weight: Float[Array, "*B"] | None = None,
) -> Float[Array, "..."]:
    r"""Simple preference optimisation: the reward is the average log-probability, to lead by a margin.

    $$\ell = -(1 - \epsilon) \log \sigma(m) - \epsilon \log \sigma(-m), \qquad
    m = \beta \Bigl(\frac{\log \pi(y_w)}{|y_w|} - \frac{\log \pi(y_l)}{|y_l|}\Bigr) - \gamma$$

    Args:
        chosen_logps: log-probabilities of the chosen answers, averaged over their tokens, as
            `sequence_logps(..., average=True)` gives them; a positive one gives NaN.
        rejected_logps: those of the rejected answers, averaged alike.
        beta: $\beta > 0$, the scale of the reward. The defaults are the authors'; TRL's `beta` is 0.1.
        gamma: $\gamma$, the margin.
        label_smoothing: $\epsilon$ in [0, 1], the share of pairs labelled the wrong way round.

    Reference: Meng et al. 2024, "SimPO" (https://arxiv.org/abs/2405.14734), equation 6.

    >>> import jax.numpy as jnp
    >>> logps = jnp.array([-1.0], jnp.float32)
    >>> print(simpo_loss(logps, logps, gamma=0.0), simpo_loss(logps, logps - 20, gamma=1.0))
    0.6931472 1.1548224e-17
    """
    beta = _checks.as_scalar("beta", beta, low=0.0, open_low=True)
    gamma = _checks.as_scalar("gamma", gamma)
    label_smoothing = _checks.as_scalar("label_smoothing", label_smoothing, low=0.0, high=1.0)
    (chosen, rejected), where, weight = read_logps(
        reduction, where, sample_weight, chosen_logps=chosen_logps, rejected_logps=rejected_logps
    )
    margin = scaled(beta, chosen - rejected) - in_dtype(gamma, chosen.dtype)
    return reduce_weighted(logistic(margin, label_smoothing), reduction, where, weight)


def _with_nll(loss, chosen, nll_weight: Scalar) -> Any:
    if is_number(nll_weight, 0.0):
        return loss
    return loss - zero_times(in_dtype(nll_weight, chosen.dtype), chosen)
