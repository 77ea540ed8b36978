"""What preference losses share: log-probabilities read in one way, and functions of rewards and margins."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxloss import _checks
from jaxloss._checks import Scalar, in_dtype, is_number
from jaxloss._mesh import lie_as, take, whole_along
from jaxloss.losses._elements import elementwise_arguments, hinge, sigmoid, signed, softplus, zero_times
from jaxloss.losses._log_probs import only_log_probabilities
from jaxloss.numerics.divergence import softmax_reverse_kl


def read_logps(reduction: str, where, sample_weight, **logps) -> tuple[list[jax.Array], Any, Any]:
    """The named log-probabilities, one for each row, in the dtype of the loss; the mask; and the weights.

    Masked rows hold 0, and rows above 0 NaN, in value and in gradient.
    """
    (*arrays, sample_weight), where = elementwise_arguments(
        reduction, where, **logps, sample_weight=sample_weight
    )
    return [only_log_probabilities(*pair) for pair in zip(logps, arrays, strict=True)], where, sample_weight


def scaled(beta: Scalar, score: jax.Array) -> jax.Array:
    """`beta * score`; beta has no gradient where none arrives, even at an infinite score."""
    return signed(jnp.asarray(in_dtype(beta, score.dtype), score.dtype), score)


def logistic(margin: jax.Array, label_smoothing: Scalar = 0.0) -> jax.Array:
    """`-log sigmoid(margin)`, the label being the opposite with the probability `label_smoothing`."""
    if is_number(label_smoothing, 0.0):
        return softplus(-margin)
    flipped = in_dtype(label_smoothing, margin.dtype)
    return zero_times(1 - flipped, softplus(-margin)) + zero_times(flipped, softplus(margin))


class Pairs(NamedTuple):
    """Log-probabilities of pairs of answers, and the options of DPO's variants."""

    chosen_logps: jax.Array
    rejected_logps: jax.Array
    ref_chosen_logps: jax.Array
    ref_rejected_logps: jax.Array
    where: jax.Array | None
    beta: Scalar
    label_smoothing: Scalar
    discopop_tau: Scalar

    @property
    def log_ratios(self) -> tuple[jax.Array, jax.Array]:
        """`log pi(y) - log pi_ref(y)` of the chosen and of the rejected answers."""
        return self.chosen_logps - self.ref_chosen_logps, self.rejected_logps - self.ref_rejected_logps

    @property
    def rewards(self) -> tuple[jax.Array, jax.Array]:
        """The implicit rewards, `beta` times those."""
        chosen, rejected = self.log_ratios
        return scaled(self.beta, chosen), scaled(self.beta, rejected)

    @property
    def margin(self) -> jax.Array:
        """The lead of the chosen answer's reward."""
        chosen, rejected = self.log_ratios
        return scaled(self.beta, chosen - rejected)


def _robust(pairs: Pairs) -> jax.Array:
    # `softplus(x) = softplus(-x) + x` leaves no two terms that cancel as the smoothing comes near to 1/2.
    margin = pairs.margin
    flipped = in_dtype(pairs.label_smoothing, margin.dtype)
    return softplus(-margin) - zero_times(flipped / (1 - 2 * flipped), margin)


def _exo_pair(pairs: Pairs) -> jax.Array:
    logits = _two_logits(pairs.margin)
    flipped = jnp.asarray(in_dtype(pairs.label_smoothing, logits.dtype), logits.dtype)
    target = jnp.broadcast_to(_two_logits(jnp.log1p(-flipped) - jnp.log(flipped)), logits.shape)
    return softmax_reverse_kl(logits, lie_as(target, logits), -1)


def _two_logits(log_odds: jax.Array) -> jax.Array:
    """Logits of yes and no, of which the larger is 0: infinite log-odds have them too."""
    return jnp.stack([jnp.minimum(log_odds, 0.0), jnp.minimum(-log_odds, 0.0)], -1)


def _nca_pair(pairs: Pairs) -> jax.Array:
    chosen, rejected = pairs.rewards
    return softplus(-chosen) + 0.5 * softplus(chosen) + 0.5 * softplus(rejected)


def _bco_pair(pairs: Pairs) -> jax.Array:
    chosen, rejected = pairs.rewards
    return softplus(-chosen) + softplus(rejected)


def _sppo_hard(pairs: Pairs) -> jax.Array:
    chosen, rejected = pairs.log_ratios
    half = 0.5 / in_dtype(pairs.beta, chosen.dtype)
    return jnp.square(chosen - half) + jnp.square(rejected + half)


def _ipo(pairs: Pairs) -> jax.Array:
    chosen, rejected = pairs.log_ratios
    return jnp.square(chosen - rejected - 0.5 / in_dtype(pairs.beta, chosen.dtype))


def _aot(pairs: Pairs) -> jax.Array:
    of_policy = pairs.chosen_logps - pairs.rejected_logps
    return _quantiles(of_policy, pairs.ref_chosen_logps - pairs.ref_rejected_logps, pairs)


def _aot_unpaired(pairs: Pairs) -> jax.Array:
    return _quantiles(*pairs.log_ratios, pairs)


def _quantiles(above: jax.Array, below: jax.Array, pairs: Pairs) -> jax.Array:
    """The logistic loss of each row's `above` and that row's `below` which has the same rank."""
    order = _ranked(below, pairs.where)
    rank = jnp.argsort(_ranked(above, pairs.where))
    partner = lie_as(take(order, rank).reshape(above.shape), above)
    gap = above - take(whole_along(below).ravel(), partner)
    return logistic(scaled(pairs.beta, gap), pairs.label_smoothing)


def _ranked(scores: jax.Array, where: jax.Array | None) -> jax.Array:
    """The rows from the lowest score to the highest; those that take no part come last."""
    flat = whole_along(scores).ravel()
    if where is None:
        return jnp.argsort(flat)
    return jnp.lexsort((flat, ~whole_along(where).ravel()))


def _apo_zero(pairs: Pairs) -> jax.Array:
    chosen, rejected = pairs.rewards
    return sigmoid(-chosen) + sigmoid(rejected)


def _apo_down(pairs: Pairs) -> jax.Array:
    return sigmoid(pairs.rewards[0]) + sigmoid(-pairs.margin)


def _discopop(pairs: Pairs) -> jax.Array:
    margin = pairs.margin
    inverse = 1 / in_dtype(pairs.discopop_tau, margin.dtype)
    modulation = scaled(inverse, margin)
    is_behind = margin < 0.0
    ahead, behind = jnp.where(is_behind, 0.0, margin), jnp.where(is_behind, margin, 0.0)
    # A constant where it is 1: what it multiplies may be infinite there, and is not to meet a slope of 0.
    is_far = modulation < -800.0
    share = jnp.where(is_far, 1.0, sigmoid(-jnp.where(is_far, 0.0, modulation)))
    # `exp(-x) sigmoid(x / tau)`, with what would overflow in the first factor taken out of the second.
    exponential = jnp.exp(zero_times(inverse - 1, behind) - ahead)
    return softplus(-margin) * share + exponential * jnp.where(is_behind, share, sigmoid(modulation))


# What the argument `loss_type` of dpo_loss may name, by TRL's names.
VARIANTS: dict[str, Callable[[Pairs], jax.Array]] = {
    "sigmoid": lambda pairs: logistic(pairs.margin, pairs.label_smoothing),
    "hinge": lambda pairs: hinge(1 - pairs.margin),
    "ipo": _ipo,
    "robust": _robust,
    "exo_pair": _exo_pair,
    "nca_pair": _nca_pair,
    "bco_pair": _bco_pair,
    "sppo_hard": _sppo_hard,
    "aot": _aot,
    "aot_unpaired": _aot_unpaired,
    "apo_zero": _apo_zero,
    "apo_down": _apo_down,
    "discopop": _discopop,
}
# The range of `label_smoothing` in the variants that have it.
SMOOTHED: dict[str, dict[str, Any]] = {
    "sigmoid": {"high": 1.0},
    "robust": {"high": 0.5, "open_high": True},
    "exo_pair": {"high": 1.0, "open_low": True, "open_high": True},
    "aot": {"high": 1.0},
    "aot_unpaired": {"high": 1.0},
}


def check_smoothing(loss_type: str, label_smoothing) -> Scalar:
    """`label_smoothing` in the range that the variant allows."""
    if loss_type in SMOOTHED:
        return _checks.as_scalar("label_smoothing", label_smoothing, low=0.0, **SMOOTHED[loss_type])
    if not is_number(_checks.as_scalar("label_smoothing", label_smoothing), 0.0):
        smoothed = ", ".join(map(repr, SMOOTHED))
        raise ValueError(
            f"label_smoothing must be 0 with loss_type={loss_type!r}; got {label_smoothing!r}. "
            f"It is for {smoothed}."
        )
    return 0.0
