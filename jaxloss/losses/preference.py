"""Preferences between pairs of answers: reward models, and direct optimisation against a reference model."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxloss import _checks
from jaxloss._checks import Scalar, in_dtype
from jaxloss._reduction import compute_dtype, select, weighted_mean
from jaxloss.losses._elements import elementwise_arguments, softplus
from jaxloss.losses._log_probs import only_log_probabilities
from jaxloss.losses._preference import VARIANTS, Pairs, check_smoothing, read_logps
from jaxloss.losses._rows import reduce_weighted

__all__ = ["bradley_terry_loss", "dpo_loss", "sequence_logps"]


def sequence_logps(
    token_logps: Float[Array, "*B T"],
    *,
    where: Bool[Array, "*B T"] | None = None,
    average: bool = False,
) -> Float[Array, "*B"]:
    r"""Log-probability of each sequence, from those of its tokens: what preference losses take.

    $$\log \pi(y) = \sum_t \log \pi(y_t \mid y_{<t})$$

    Args:
        token_logps: log-probabilities of the tokens, at most 0; a positive one gives NaN.
        where: True for the answer's tokens, False for the prompt's and for padding.
        average: divide by the number of tokens, as `orpo_loss` and `simpo_loss` ask for; a sequence without
            any is then NaN.

    Reference: Rafailov et al. 2023, "Direct Preference Optimization" (https://arxiv.org/abs/2305.18290),
    equation 7, for the sum; Meng et al. 2024, "SimPO" (https://arxiv.org/abs/2405.14734), equation 3, for the
    average.

    >>> import jax.numpy as jnp
    >>> tokens, answer = jnp.array([[-9.0, -1.0, -2.0]], jnp.float32), jnp.array([[False, True, True]])
    >>> print(sequence_logps(tokens, where=answer), sequence_logps(tokens, where=answer, average=True))
    [-3.] [-1.5]
    """
    logps = _checks.as_floats("token_logps", token_logps)
    if logps.ndim == 0:
        raise ValueError(f"token_logps must have shape [..., T]; got {_checks.describe(logps)}.")
    _checks.check_flag("average", average)
    where = _checks.as_mask("where", where, logps.shape, "that of token_logps")
    logps = only_log_probabilities("token_logps", select(where, logps.astype(compute_dtype(logps))))
    total = jnp.sum(logps, -1)
    if not average:
        return total
    return weighted_mean(total, jnp.sum(select(where, jnp.ones_like(logps)), -1))


def dpo_loss(
    chosen_logps: Float[Array, "*B"],
    rejected_logps: Float[Array, "*B"],
    ref_chosen_logps: Float[Array, "*B"],
    ref_rejected_logps: Float[Array, "*B"],
    *,
    beta: Scalar = 0.1,
    loss_type: str = "sigmoid",
    label_smoothing: Scalar = 0.0,
    discopop_tau: Scalar = 0.05,
    reduction: str = "mean",
    where: Bool[Array, "*B"] | None = None,
    sample_weight: Float[Array, "*B"] | None = None,
) -> Float[Array, "..."]:
    r"""Direct preference optimisation: the chosen answer should gain more on a reference model's probability.

    With $\Delta_w, \Delta_l = \log \pi(y) - \log \pi_\mathrm{ref}(y)$ of the chosen and the rejected answer,
    the margin $m = \beta (\Delta_w - \Delta_l)$ and the smoothing $\epsilon$, `loss_type` names one of

    $$\begin{aligned}
    \text{sigmoid} &\quad -(1 - \epsilon) \log \sigma(m) - \epsilon \log \sigma(-m) \\
    \text{hinge} &\quad \max(0,\; 1 - m) \\
    \text{ipo} &\quad \bigl(\Delta_w - \Delta_l - \tfrac{1}{2 \beta}\bigr)^2 \\
    \text{robust} &\quad \frac{-(1 - \epsilon) \log \sigma(m) + \epsilon \log \sigma(-m)}{1 - 2 \epsilon} \\
    \text{exo\_pair} &\quad \sigma(m) \log \tfrac{\sigma(m)}{1 - \epsilon}
        + \sigma(-m) \log \tfrac{\sigma(-m)}{\epsilon} \\
    \text{nca\_pair} &\quad -\log \sigma(\beta \Delta_w) - \tfrac12 \log \sigma(-\beta \Delta_w)
        - \tfrac12 \log \sigma(-\beta \Delta_l) \\
    \text{bco\_pair} &\quad -\log \sigma(\beta \Delta_w) - \log \sigma(-\beta \Delta_l) \\
    \text{sppo\_hard} &\quad \bigl(\Delta_w - \tfrac{1}{2 \beta}\bigr)^2
        + \bigl(\Delta_l + \tfrac{1}{2 \beta}\bigr)^2 \\
    \text{apo\_zero} &\quad 1 - \sigma(\beta \Delta_w) + \sigma(\beta \Delta_l) \\
    \text{apo\_down} &\quad \sigma(\beta \Delta_w) + 1 - \sigma(m) \\
    \text{discopop} &\quad -(1 - \sigma(m / \tau)) \log \sigma(m) + \sigma(m / \tau)\, e^{-m}
    \end{aligned}$$

    or "aot_unpaired", which is "sigmoid" with each $\Delta_w$ beside the $\Delta_l$ of its rank in the batch,
    or "aot", which pairs the policy's $\log \pi(y_w) - \log \pi(y_l)$ with the reference's in that way. None
    cancels: the gradient is right however large the margin. The names are TRL's, whose "ipo" averages over
    the tokens: for that, pass averaged log-probabilities.

    Args:
        chosen_logps: log-probabilities of the chosen answers under the policy, as `sequence_logps` gives
            them; a positive one gives NaN.
        rejected_logps: those of the rejected answers.
        ref_chosen_logps: those of the chosen answers under the reference model, constants without a gradient.
        ref_rejected_logps: those of the rejected answers under the reference model, alike.
        beta: $\beta > 0$, what a deviation from the reference costs.
        loss_type: the variant.
        label_smoothing: $\epsilon$, the share of pairs labelled the wrong way round; in "exo_pair" it must be
            positive, in "robust" below 1/2, and in variants without $\epsilon$ it must be 0.
        discopop_tau: $\tau > 0$, the temperature of "discopop".
        sample_weight: as by convention; not for the variants that sort the batch.

    Reference: Rafailov et al. 2023 (https://arxiv.org/abs/2305.18290), equation 7, and Mitchell 2023, "A note
    on DPO with noisy preferences", for its smoothing; hinge: Zhao et al. 2023, SLiC-HF
    (https://arxiv.org/abs/2305.10425); ipo: Azar et al. 2023 (https://arxiv.org/abs/2310.12036), equation 17;
    robust: Chowdhury et al. 2024 (https://arxiv.org/abs/2403.00409); exo_pair: Ji et al. 2024
    (https://arxiv.org/abs/2402.00856), equation 16; nca_pair: Chen et al. 2024
    (https://arxiv.org/abs/2402.05369); bco_pair: Jung et al. 2024 (https://arxiv.org/abs/2404.04656);
    sppo_hard: Wu et al. 2024 (https://arxiv.org/abs/2405.00675), equation 4.7; aot: Melnyk et al. 2024
    (https://arxiv.org/abs/2406.05882); apo: D'Oosterlinck et al. 2024 (https://arxiv.org/abs/2408.06266),
    equations 7 and 8; discopop: Lu et al. 2024 (https://arxiv.org/abs/2406.08414), equation 5.

    >>> import jax, jax.numpy as jnp
    >>> chosen, rejected = jnp.array([-5.0, -5.0], jnp.float32), jnp.array([-5.0, -405.0], jnp.float32)
    >>> reference = jnp.full(2, -5.0, jnp.float32)
    >>> print([f"{x:.3g}" for x in dpo_loss(chosen, rejected, reference, reference, reduction="none")])
    ['0.693', '4.25e-18']
    """
    _checks.check_choice("loss_type", loss_type, tuple(VARIANTS))
    beta = _checks.as_scalar("beta", beta, low=0.0, open_low=True)
    tau = _checks.as_scalar("discopop_tau", discopop_tau, low=0.0, open_low=True)
    label_smoothing = check_smoothing(loss_type, label_smoothing)
    if loss_type.startswith("aot") and sample_weight is not None:
        raise ValueError(
            f"sample_weight must be None with loss_type={loss_type!r}, which pairs answers by their rank in "
            "the batch; use where to leave rows out."
        )
    (chosen, rejected, *reference), where, weight = read_logps(
        reduction,
        where,
        sample_weight,
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        ref_chosen_logps=ref_chosen_logps,
        ref_rejected_logps=ref_rejected_logps,
    )
    ref_chosen, ref_rejected = map(lax.stop_gradient, reference)
    pairs = Pairs(chosen, rejected, ref_chosen, ref_rejected, where, beta, label_smoothing, tau)
    return reduce_weighted(VARIANTS[loss_type](pairs), reduction, where, weight)


def bradley_terry_loss(
    chosen_rewards: Float[Array, "*B"],
    rejected_rewards: Float[Array, "*B"],
    *,
    margin: Float[Array, "*B"] | None = None,
    center_rewards_coefficient: Scalar = 0.0,
    reduction: str = "mean",
    where: Bool[Array, "*B"] | None = None,
    sample_weight: Float[Array, "*B"] | None = None,
) -> Float[Array, "..."]:
    r"""Reward model's loss: the chosen answer should have the larger reward.

    $$\ell = -\log \sigma(r_w - r_l - \mu) + c\, (r_w + r_l)^2$$

    Only differences of rewards matter to the first term; the second keeps them around 0.

    Args:
        chosen_rewards: $r_w$, any real numbers.
        rejected_rewards: $r_l$.
        margin: $\mu$, by how much the reward should lead, for each pair; None is 0.
        center_rewards_coefficient: $c \ge 0$; 0.01 is usual.

    Reference: Ouyang et al. 2022, "InstructGPT" (https://arxiv.org/abs/2203.02155), equation 1, after Bradley
    and Terry 1952; Touvron et al. 2023, "Llama 2" (https://arxiv.org/abs/2307.09288), equation 2, for the
    margin; Eisenstein et al. 2023, "Helping or Herding?" (https://arxiv.org/abs/2312.09244), for the centre.

    >>> import jax.numpy as jnp
    >>> chosen, rejected = jnp.array([1.0, 60.0], jnp.float32), jnp.array([1.0, 20.0], jnp.float32)
    >>> print([f"{x:.3g}" for x in bradley_terry_loss(chosen, rejected, reduction="none")])
    ['0.693', '4.25e-18']
    """
    centring = _checks.as_scalar("center_rewards_coefficient", center_rewards_coefficient, low=0.0)
    (chosen, rejected, lead, weight), where = elementwise_arguments(
        reduction,
        where,
        chosen_rewards=chosen_rewards,
        rejected_rewards=rejected_rewards,
        margin=margin,
        sample_weight=sample_weight,
    )
    gap = chosen - rejected if lead is None else chosen - rejected - lead
    loss = softplus(-gap)
    if not _checks.is_number(centring, 0.0):
        loss += in_dtype(centring, loss.dtype) * jnp.square(chosen + rejected)
    return reduce_weighted(loss, reduction, where, weight)
