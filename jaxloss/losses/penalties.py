"""Penalties on a language model's logits, beside the loss of its targets.

They are added to a loss with a factor, e.g. `next_token_loss(...) + 1e-4 * z_loss(...)`, or through
`make_hybrid_loss`. Shapes: B batch (any number of axes), T time, V vocabulary, K tokens to avoid.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxloss import _checks
from jaxloss._checked import check_labels
from jaxloss._checks import Scalar, in_dtype
from jaxloss._reduction import compute_dtype, select
from jaxloss.losses import _rows
from jaxloss.losses._elements import softplus
from jaxloss.numerics.divergence import log_ratio, softmax_difference, softmax_kl
from jaxloss.numerics.entropy import entropy
from jaxloss.numerics.log_odds import label_log_odds
from jaxloss.numerics.logsumexp import logsumexp
from jaxloss.numerics.softmax import Classes
from jaxloss.numerics.tangent import tangent_of

__all__ = ["entropy_loss", "previous_tokens", "token_set_loss", "unlikelihood_loss", "z_loss"]


def z_loss(
    input: Float[Array, "..."],
    *,
    reduction: str = "mean",
    where: Bool[Array, "..."] | None = None,
    sample_weight: Float[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Penalise logits whose softmax normaliser is far from 1, so that they do not drift.

    $$\ell_n = \Big(\log \sum_c \exp x_{nc}\Big)^2$$

    Cross entropy does not see a constant added to all logits; in bfloat16 a large one costs precision. The
    usual factor is 1e-4 for a model's head and 1e-3 for the router of a mixture of experts.

    Args:
        input: logits $x$, classes along `axis`.

    Reference: Chowdhery et al. 2022, "PaLM", its auxiliary loss (https://arxiv.org/abs/2204.02311); Zoph et
    al. 2022, "ST-MoE", the router z-loss (https://arxiv.org/abs/2202.08906).

    >>> import jax.numpy as jnp
    >>> print(z_loss(jnp.zeros((3, 50), jnp.float32)))  # (ln 50) ** 2
    15.303925
    """
    logits = _checks.as_floats("input", input)
    axis, where, sample_weight = _rows.check_rows(logits, reduction, where, sample_weight, axis)
    _rows.check_classes(logits, axis)
    logits = select(where, logits.astype(compute_dtype(logits, sample_weight)), axis=axis)
    loss = jnp.square(logsumexp(logits, Classes(axis)))
    return _rows.reduce_weighted(loss, reduction, where, sample_weight)


def entropy_loss(
    input: Float[Array, "..."],
    *,
    reduction: str = "mean",
    where: Bool[Array, "..."] | None = None,
    sample_weight: Float[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Penalise a distribution for being sure: the entropy bonus of a policy, as a loss.

    $$\ell_n = -H(p_n) = \sum_c p_{nc} \log p_{nc}, \qquad p_n = \mathrm{softmax}(x_n)$$

    Args:
        input: logits $x$, classes along `axis`; a class at $-\infty$ adds nothing.

    Reference: Williams and Peng 1991, "Function Optimization Using Connectionist Reinforcement Learning
    Algorithms" (https://doi.org/10.1080/09540099108946587); Schulman et al. 2017, "Proximal Policy
    Optimization Algorithms", equation 9, its bonus $S$ (https://arxiv.org/abs/1707.06347).

    >>> import jax.numpy as jnp
    >>> print(entropy_loss(jnp.zeros((3, 50), jnp.float32)))  # -ln 50
    -3.912023
    """
    logits = _checks.as_floats("input", input)
    axis, where, sample_weight = _rows.check_rows(logits, reduction, where, sample_weight, axis)
    _rows.check_classes(logits, axis)
    logits = select(where, logits.astype(compute_dtype(logits, sample_weight)), axis=axis)
    return _rows.reduce_weighted(-entropy(logits, Classes(axis)), reduction, where, sample_weight)


def unlikelihood_loss(
    input: Float[Array, "*B V"],
    target: Int[Array, "*B K"],
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    where: Bool[Array, "*B"] | None = None,
    sample_weight: Float[Array, "*B"] | None = None,
) -> Float[Array, "..."]:
    r"""Penalise the probability of tokens that should not come next, such as repetitions.

    $$\ell_n = -\sum_{k} \log\left(1 - p_{n t_{nk}}\right), \qquad p_n = \mathrm{softmax}(x_n)$$

    Its gradient stays finite and useful when the model is sure of a token to avoid, where $\log(1 - p)$ as
    written gives infinity.

    Args:
        input: logits $x$ of the next token.
        target: tokens to avoid, K for each row; `previous_tokens` makes them from a text.
        ignore_index: fills up rows that have fewer than K tokens to avoid.
        reduction: the mean is over all rows, also those without any token to avoid.

    Reference: Welleck et al. 2020, "Neural Text Generation With Unlikelihood Training", the token-level
    unlikelihood loss (https://arxiv.org/abs/1908.04319).

    >>> import jax.numpy as jnp
    >>> logits = jnp.array([[1e4, 0.0, 0.0]], jnp.float32)
    >>> print(unlikelihood_loss(logits, jnp.array([[0]])))  # 1e4 - ln 2
    9999.307
    """
    logits, labels = _checks.as_floats("input", input), _checks.as_labels("target", target)
    if logits.ndim < 1 or labels.ndim != logits.ndim or labels.shape[:-1] != logits.shape[:-1]:
        raise ValueError(
            f"target must have shape {[*logits.shape[:-1], 'K']}, K tokens for each row of input; "
            f"got {_checks.describe(labels)}."
        )
    ignore_index = _checks.check_integer("ignore_index", ignore_index)
    _, where, sample_weight = _rows.check_rows(logits, reduction, where, sample_weight, -1)
    _rows.check_classes(logits, -1)
    logits = logits.astype(compute_dtype(logits, sample_weight))
    labels, valid = _rows.lie_along(logits, -1, labels, _checks.not_ignored(target, ignore_index))
    valid = valid if where is None else valid & where[..., None]
    in_range = (labels >= 0) & (labels < logits.shape[-1])
    check_labels("target", target, valid, logits.shape[-1])
    log_odds = label_log_odds(select(where, logits, axis=-1), jnp.where(valid & in_range, labels, 0))
    # Selected before the softplus, whose gradient at infinite log-odds is not 0.
    terms = softplus(select(valid, log_odds))
    # A product, so that the NaN of a token out of range reaches the gradient as well.
    poison = jnp.where(in_range | ~valid, 1.0, jnp.nan).astype(logits.dtype)
    loss = jnp.sum(select(valid, poison * terms), -1)
    return _rows.reduce_weighted(loss, reduction, where, sample_weight)


def previous_tokens(target: Int[Array, "*B T"], *, ignore_index: int = -100) -> Int[Array, "*B T T"]:
    r"""The tokens to avoid at each position: those that came before, without the one that truly comes.

    $$\mathcal{C}_t = \{x_1, \ldots, x_{t-1}\} \setminus \{x_t\}$$

    Args:
        target: tokens $x$ in order, `ignore_index` where there is none.
        ignore_index: fills up the rows; also read in `target`.

    Returns:
        For each position, the set as a row of `unlikelihood_loss`'s `target`, every token once,
        `ignore_index` elsewhere.

    Reference: Welleck et al. 2020, "Neural Text Generation With Unlikelihood Training", the candidates
    "previous context tokens" (https://arxiv.org/abs/1908.04319).

    >>> import jax.numpy as jnp
    >>> print(previous_tokens(jnp.array([7, 8, 7, 9]), ignore_index=-1))
    [[-1 -1 -1 -1]
     [ 7 -1 -1 -1]
     [-1  8 -1 -1]
     [ 7  8 -1 -1]]
    """
    tokens = _checks.as_labels("target", target)
    ignore_index = _checks.check_integer("ignore_index", ignore_index)
    if tokens.ndim < 1:
        raise ValueError(f"target must have shape [..., T]; got {_checks.describe(tokens)}.")
    earlier = np.expand_dims(np.tri(tokens.shape[-1], k=-1, dtype=bool), tuple(range(tokens.ndim - 1)))
    same = tokens[..., :, None] == tokens[..., None, :]
    is_first = ~jnp.any(same & earlier, -1)
    avoid = earlier & ~same & is_first[..., None, :]
    return jnp.where(avoid, tokens[..., None, :], ignore_index)


def token_set_loss(
    input: Float[Array, "*B V"],
    token_set: Bool[Array, " V"] | Bool[Array, "*B V"],
    *,
    mass: Scalar = 1.0,
    reduction: str = "mean",
    where: Bool[Array, "*B"] | None = None,
    sample_weight: Float[Array, "*B"] | None = None,
) -> Float[Array, "..."]:
    r"""Pull the probability that a model gives to a set of tokens towards a wanted mass.

    $$\ell_n = \rho \log \frac{\rho}{P_n} + (1 - \rho) \log \frac{1 - \rho}{1 - P_n}, \qquad
    P_n = \sum_{c \in S} \mathrm{softmax}(x_n)_c$$

    That is the least Kullback-Leibler divergence to the model from any distribution with mass $\rho$ on the
    set. With $\rho = 1$ it is $-\log P$, which draws the model to the set without choosing among its tokens;
    with $\rho = 0$ it is $-\log(1 - P)$, which drives it away. A set of no tokens, or of all, gives infinity
    if the wanted mass is out of reach.

    Args:
        input: logits $x$.
        token_set: True for the tokens of the set $S$; one set, or one for each row. To make one from token
            ids: `jnp.zeros(V, bool).at[ids].set(True)`.
        mass: $\rho$ in [0, 1], the wanted probability of the set.

    Reference: Csiszar 1975, "I-Divergence Geometry of Probability Distributions and Minimization Problems",
    for the distribution of least divergence in a convex set, the I-projection
    (https://doi.org/10.1214/aop/1176996454).

    >>> import jax.numpy as jnp
    >>> token_set = jnp.array([True, False, False, False])
    >>> print(token_set_loss(jnp.zeros((1, 4), jnp.float32), token_set))  # ln 4
    1.3862944
    """
    logits = _checks.as_floats("input", input)
    mass = _checks.as_scalar("mass", mass, low=0.0, high=1.0)
    _, where, sample_weight = _rows.check_rows(logits, reduction, where, sample_weight, -1)
    _rows.check_classes(logits, -1)
    shape = logits.shape if getattr(token_set, "ndim", 1) > 1 else logits.shape[-1:]
    members = _checks.as_mask(
        "token_set", token_set, shape, "one flag for each token, of one set or of each row's"
    )
    if members is None:
        raise TypeError("token_set must be a boolean array; got None.")
    logits = select(where, logits.astype(compute_dtype(logits, sample_weight)), axis=-1)
    # A constant of the row changes nothing, but a large one would take the digits of both logarithms.
    peak = jnp.max(lax.stop_gradient(logits), -1, keepdims=True)
    logits = logits - jnp.where(jnp.isfinite(peak), peak, 0.0)
    members = jnp.expand_dims(members, range(logits.ndim - members.ndim))
    if isinstance(mass, jax.Array):
        loss = _of_mass(logits, members, in_dtype(mass, logits.dtype))
    else:
        masses = np.array([mass, 1 - mass])
        logs = jnp.asarray(np.log(np.where(masses > 0.0, masses, 1.0)), logits.dtype)
        loss = _of_mass(logits, members, (logs, jnp.asarray(masses > 0.0)))
    return _rows.reduce_weighted(loss, reduction, where, sample_weight)


# Jitted for JAX's debug_infs too, which looks at every step outside `jit`: no mass has a logit of -inf.
@jax.jit
def _of_mass(logits: jax.Array, members: jax.Array, mass) -> jax.Array:
    """The losses of rows, given the mass, or its logarithm and that of the rest, and whether there is any."""
    lumped = _log_sum(logits, members), _log_sum(logits, ~members)
    if isinstance(mass, jax.Array):
        return _divergence_from_mass(*lumped, mass)
    logs, has_mass = mass
    return _divergence(*lumped, jnp.where(has_mass, logs, -jnp.inf))


def _divergence(inside: jax.Array, outside: jax.Array, wanted: jax.Array) -> jax.Array:
    lumped = jnp.stack([inside, outside], -1)
    return softmax_kl(lumped, jnp.broadcast_to(wanted, lumped.shape), -1)


@jax.custom_jvp
def _divergence_from_mass(inside: jax.Array, outside: jax.Array, mass: jax.Array) -> jax.Array:
    """The divergence of the softmax of two logits from the mass on the first."""
    return _divergence(inside, outside, jnp.stack([jnp.log(mass), jnp.log1p(-mass)]))


def _divergence_from_mass_jvp(primals, tangents):
    inside, outside, mass = primals
    wanted = jnp.stack([jnp.log(mass), jnp.log1p(-mass)])
    lumped = jnp.stack([inside, outside], -1)
    wanted = jnp.broadcast_to(wanted, lumped.shape)
    # With the mass's own derivative, -1: that by way of its logarithm is infinite at 0.
    excess = softmax_difference(lumped, lax.stop_gradient(wanted), -1)[..., 0] - (
        mass - lax.stop_gradient(mass)
    )

    def by_mass() -> jax.Array:
        ratios = log_ratio(lumped, wanted, -1)
        # Of a side that has neither logits nor mass, the ratio is any number.
        ratios = jnp.where((lumped == -jnp.inf) & (wanted == -jnp.inf), jnp.inf, ratios)
        return ratios[..., 0] - ratios[..., 1]

    slopes = (lambda: excess), (lambda: -excess), by_mass
    return _divergence_from_mass(*primals), tangent_of(slopes, tangents)


_divergence_from_mass.defjvp(_divergence_from_mass_jvp, symbolic_zeros=True)


def _log_sum(logits: jax.Array, members: jax.Array) -> jax.Array:
    """Log-sum-exp over the members; -inf, with a gradient of 0, without any."""
    is_empty = ~jnp.any(members & (logits != -jnp.inf), -1)
    chosen = jnp.where(members | is_empty[..., None], logits, -jnp.inf)
    return jnp.where(is_empty, -jnp.inf, logsumexp(jnp.where(is_empty[..., None], 0.0, chosen), Classes()))
