r"""Powers of `1 - p`, the probability that a focal loss scales by, and their derivatives.

Where a model is sure, `1 - p` is 1e-26, and for a gamma below 1 the slope of its power overflows, to be
multiplied by what underflows. So its derivatives are those of `exp(gamma log(1 - p))`, whose logarithm has
bounded slopes. All is differentiable twice, and by gamma.
"""

import jax
import jax.numpy as jnp

from jaxloss.numerics.tangent import tangent_of


def _power(base: jax.Array, exponent: float | jax.Array) -> jax.Array:
    """`base ** exponent`, where a base of 0 gives 0, but 1 with an exponent of 0, and NaN is NaN."""
    positive = jnp.where(base == 0.0, 1.0, base) ** exponent
    power = jnp.where((base == 0.0) & (exponent != 0.0), 0.0, positive)
    # 1 ** NaN is 1.
    return jnp.where(jnp.isnan(exponent), jnp.nan, power)


@jax.custom_jvp
def sigmoid_wrong_to(x: jax.Array, y: jax.Array, gamma: float | jax.Array) -> jax.Array:
    """`(1 - p) ** gamma` of a sigmoid."""
    return _power(_wrong(x, y), gamma)


def _sigmoid_wrong_to_jvp(primals, tangents):
    x, y, gamma = primals
    power = sigmoid_wrong_to(x, y, gamma)
    slopes = (
        # By the logarithm's: the power's own slope overflows where the power underflows.
        lambda: gamma * power * _log_wrong_slope(x, y),
        lambda: gamma * sigmoid_wrong_to(x, y, gamma - 1) * -jnp.tanh(x / 2),
        lambda: power * _log_wrong(x, y),
    )
    return power, tangent_of(slopes, tangents)


sigmoid_wrong_to.defjvp(_sigmoid_wrong_to_jvp, symbolic_zeros=True)


def _wrong(x: jax.Array, y: jax.Array) -> jax.Array:
    return y * jax.nn.sigmoid(-x) + (1 - y) * jax.nn.sigmoid(x)


@jax.custom_jvp
def _log_wrong(x: jax.Array, y: jax.Array) -> jax.Array:
    """`log(1 - p)`, and 0 where `1 - p` underflows."""
    wrong, right = _wrong(x, y), _wrong(-x, y)
    return jnp.where(wrong < right, jnp.log(jnp.where(wrong == 0.0, 1.0, wrong)), jnp.log1p(-right))


def _log_wrong_jvp(primals, tangents):
    x, y = primals
    slopes = (
        lambda: _log_wrong_slope(x, y),
        lambda: -jnp.tanh(x / 2) / _or_infinite(_wrong(x, y)),
    )
    return _log_wrong(x, y), tangent_of(slopes, tangents)


_log_wrong.defjvp(_log_wrong_jvp, symbolic_zeros=True)


@jax.custom_jvp
def _log_wrong_slope(x: jax.Array, y: jax.Array) -> jax.Array:
    """The derivative of `log(1 - p)` by the logit."""
    # The derivative of `1 - p` over it, with what the two have in common divided out.
    positive = y / jnp.where(y == 0.0, 1.0, jax.nn.sigmoid(x))
    negative = (1 - y) / jnp.where(y == 1.0, 1.0, jax.nn.sigmoid(-x))
    return (1 - 2 * y) / (positive + negative)


def _log_wrong_slope_jvp(primals, tangents):
    x, y = primals
    slope, wrong = _log_wrong_slope(x, y), _or_infinite(_wrong(x, y))
    slopes = (
        lambda: -slope * (jnp.tanh(x / 2) + slope),
        lambda: -(jax.nn.sigmoid(x) / wrong) * (jax.nn.sigmoid(-x) / wrong),
    )
    return slope, tangent_of(slopes, tangents)


_log_wrong_slope.defjvp(_log_wrong_slope_jvp, symbolic_zeros=True)


def _or_infinite(wrong: jax.Array) -> jax.Array:
    """Where `1 - p` underflows, what is divided by it is to be 0."""
    return jnp.where(wrong == 0.0, jnp.inf, wrong)


@jax.custom_jvp
def one_minus_p(nll: jax.Array) -> jax.Array:
    """`1 - p` for `nll = -log p`; the derivative that `expm1` has in JAX, `expm1 + 1`, cancels."""
    return -jnp.expm1(-nll)


@one_minus_p.defjvp
def _one_minus_p_jvp(primals, tangents):
    return one_minus_p(primals[0]), jnp.exp(-primals[0]) * tangents[0]


@jax.custom_jvp
def _log_one_minus_p(nll: jax.Array) -> jax.Array:
    """`log(1 - p)` for `nll = -log p`, and 0 for one of 0."""
    near, far = jnp.where(nll == 0.0, 1.0, nll), jnp.maximum(nll, 0.5)
    return jnp.where(
        nll == 0.0, 0.0, jnp.where(nll < 0.7, jnp.log(one_minus_p(near)), jnp.log1p(-jnp.exp(-far)))
    )


@_log_one_minus_p.defjvp
def _log_one_minus_p_jvp(primals, tangents):
    (nll,) = primals
    odds = jnp.where(nll == 0.0, 0.0, 1 / jnp.expm1(jnp.where(nll == 0.0, 1.0, nll)))
    return _log_one_minus_p(nll), odds * tangents[0]


@jax.custom_jvp
def _one_minus_p_to(nll: jax.Array, gamma: float | jax.Array) -> jax.Array:
    """`(1 - p) ** gamma` for `nll = -log p`."""
    return _power(one_minus_p(nll), gamma)


def _one_minus_p_to_jvp(primals, tangents):
    nll, gamma = primals
    power = _one_minus_p_to(nll, gamma)
    slopes = (
        lambda: gamma * _one_minus_p_to(nll, gamma - 1) * jnp.exp(-nll),
        lambda: power * _log_one_minus_p(nll),
    )
    return power, tangent_of(slopes, tangents)


_one_minus_p_to.defjvp(_one_minus_p_to_jvp, symbolic_zeros=True)


@jax.custom_jvp
def scale_down_easy(nll: jax.Array, gamma: float | jax.Array) -> jax.Array:
    """`(1 - p) ** gamma * nll` for `nll = -log p`."""
    return _one_minus_p_to(nll, gamma) * nll


def _scale_down_easy_jvp(primals, tangents):
    nll, gamma = primals
    # nll / (e^nll - 1) is 1 at 0, and 0 at infinity, where autodiff would multiply 0 by infinity. Clipping to
    # these bounds changes no digit, and keeps the second derivative from overflow and underflow.
    bounded = jnp.clip(nll, jnp.finfo(nll.dtype).eps, 1000.0)
    ratio = bounded * jnp.exp(-bounded) / one_minus_p(bounded)
    power = _one_minus_p_to(nll, gamma)
    slopes = (
        lambda: power * (1 + gamma * ratio),
        lambda: power * (jnp.minimum(nll, 1000.0) * _log_one_minus_p(nll)),
    )
    return scale_down_easy(nll, gamma), tangent_of(slopes, tangents)


scale_down_easy.defjvp(_scale_down_easy_jvp, symbolic_zeros=True)
