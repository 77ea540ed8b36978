r"""What two softmax distributions differ by, computed without cancelling.

Divergences between nearly equal distributions are of second order in the difference, while their terms are of
first: summed as written, a Kullback-Leibler divergence of 1e-9 comes out as noise of either sign. Everything
here is built on the log-ratio `d = log p - log q`, accurate however small it is, and on terms that are never
negative. The distributions are given by their logits: q by the input's, p by the target's.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from jaxloss._mesh import indices_along, take_along
from jaxloss.numerics.softmax import Classes, centred, log_softmax, softmax, softmax_tangent
from jaxloss.numerics.tangent import tangent_of
from jaxloss.numerics.two_sum import two_difference

# Beyond this, exp(d) might overflow float32; distributions that far apart need no help.
_FAR_APART = 60.0


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def log_ratio(input: jax.Array, target: jax.Array, axis: int, is_odd: bool = False) -> jax.Array:
    """`log softmax(target) - log softmax(input)`; where both logits are -inf, any finite number.

    If it `is_odd`, exchanging the two changes its sign and no digit.
    """
    absent = (input == -jnp.inf) & (target == -jnp.inf)
    q = softmax(input, Classes(axis))
    sign: jax.Array | float = 1.0
    if is_odd:
        # The base is then the one whose logit is the larger in the last class where the two differ.
        exchange = _is_less_at_last(input, target, axis)
        q, sign = jnp.where(exchange, softmax(target, Classes(axis)), q), jnp.where(exchange, -1.0, 1.0)
    clean_input, clean_target = jnp.where(absent, 0.0, input), jnp.where(absent, 0.0, target)
    difference, error = two_difference(clean_target, clean_input)
    finite = jnp.isfinite(difference)
    # Centred on its mean, it is as small as the log-ratio, and so is the normaliser's share of it.
    centre = jnp.sum(jnp.where(finite, q * difference, 0.0), axis, keepdims=True)
    centred = (difference - centre) + error
    from_q = sign * centred
    largest = jnp.max(from_q, axis, keepdims=True, initial=-jnp.inf)
    grown = jnp.sum(q * jnp.expm1(jnp.minimum(from_q, _FAR_APART)), axis, keepdims=True)
    is_near = (largest < _FAR_APART) & (grown > -0.5)
    near = centred - sign * jnp.log1p(jnp.where(is_near, grown, 0.0))
    return jnp.where(is_near, near, _far_apart(input, target, difference, error, axis))


def _far_apart(input, target, difference, error, axis):
    """The log-ratio from `difference + error`, relative to the class to which both give most."""
    log_p, log_q = log_softmax(target, Classes(axis)), log_softmax(input, Classes(axis))
    best = jnp.argmax(jnp.minimum(log_p, log_q), axis, keepdims=True)
    own, own_error, own_p, own_q = (take_along(a, best, axis) for a in (difference, error, log_p, log_q))
    # Distributions without a common class have infinite ratios only, which no reference changes.
    has_common = jnp.isfinite(own) | jnp.isnan(own)
    relative = (difference - own) + (error - own_error) + (own_p - own_q)
    return jnp.where(has_common, relative, difference)


@log_ratio.defjvp
def _log_ratio_jvp(axis, is_odd, primals, tangents):
    input, target = primals
    input_dot, target_dot = tangents
    p, q = softmax(target, Classes(axis)), softmax(input, Classes(axis))
    dot = centred(p, target_dot, Classes(axis)) - centred(q, input_dot, Classes(axis))
    return log_ratio(input, target, axis, is_odd), dot


def _is_less_at_last(input: jax.Array, target: jax.Array, axis: int) -> jax.Array:
    """Whether the input is the less of the two in the last class where they differ."""
    # Twice the class's index, plus one for yes: the largest of them tells.
    places = 2 * indices_along(input, axis, jnp.int32) + (input < target).astype(jnp.int32)
    return jnp.max(jnp.where(input == target, 0, places), axis, keepdims=True, initial=0) % 2 == 1


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def softmax_difference(input: jax.Array, target: jax.Array, axis: int) -> jax.Array:
    """`softmax(input) - softmax(target)`, accurate where they nearly agree."""
    p, q, d = softmax(target, Classes(axis)), softmax(input, Classes(axis)), log_ratio(input, target, axis)
    return jnp.sign(d) * jnp.maximum(p, q) * jnp.expm1(-jnp.abs(d))


@softmax_difference.defjvp
def _difference_jvp(axis, primals, tangents):
    input, target = primals
    q_dot = softmax_tangent(softmax(input, Classes(axis)), tangents[0], Classes(axis))
    p_dot = softmax_tangent(softmax(target, Classes(axis)), tangents[1], Classes(axis))
    return softmax_difference(input, target, axis), q_dot - p_dot


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def softmax_kl(input: jax.Array, target: jax.Array, axis: int) -> jax.Array:
    """`KL(p || q)`, summed as `p log(p / q) - p + q`, whose terms are never negative."""
    p, q, d = softmax(target, Classes(axis)), softmax(input, Classes(axis)), log_ratio(input, target, axis)
    more = jnp.where(p == 0.0, 0.0, p * linear_growth(jnp.abs(d)))
    return jnp.sum(jnp.where(d > 0.0, more, q * _bounded_growth(jnp.abs(d))), axis)


@partial(softmax_kl.defjvp, symbolic_zeros=True)
def _kl_jvp(axis, primals, tangents):
    input, target = primals
    divergence = softmax_kl(input, target, axis)

    def by_target():
        p, d = softmax(target, Classes(axis)), log_ratio(input, target, axis)
        slope, whole = _times_centred(p, d, axis), jnp.expand_dims(divergence, axis)
        # It is infinite by classes that the input excludes, and the less by the more the others have.
        infinite = jnp.where(p == 0.0, 0.0, jnp.where(d == jnp.inf, whole, -whole))
        return jnp.where(whole == jnp.inf, infinite, slope)

    slopes = (lambda: softmax_difference(input, target, axis)), by_target
    return divergence, jnp.sum(tangent_of(slopes, tangents), axis)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def softmax_jensen_shannon(input: jax.Array, target: jax.Array, axis: int) -> jax.Array:
    """`(KL(p || m) + KL(q || m)) / 2` with `m = (p + q) / 2`, as `sum m (h tanh h - log cosh h)`."""
    p, q = softmax(target, Classes(axis)), softmax(input, Classes(axis))
    half = jnp.abs(log_ratio(input, target, axis, True)) / 2
    near = jnp.minimum(half, 1.0)
    # One ends in its limit, log 2; the other starts with h^2 - h^2 / 2, which costs a factor of three.
    decay = jnp.exp(-2 * jnp.clip(half, 1.0, 1000.0))
    far = math.log(2.0) - 2 * jnp.clip(half, 1.0, 1000.0) * decay / (1 + decay) - jnp.log1p(decay)
    growth = jnp.where(
        half < 1.0, near * jnp.tanh(near) - _log_cosh(near), jnp.where(jnp.isnan(half), half, far)
    )
    return jnp.sum((p + q) / 2 * growth, axis)


@partial(softmax_jensen_shannon.defjvp, symbolic_zeros=True)
def _jensen_shannon_jvp(axis, primals, tangents):
    input, target = primals
    d = log_ratio(input, target, axis, True)

    def slope(logits, ratio):
        share = softmax(logits, Classes(axis))
        return _times_centred(share, _to_middle(ratio, share, axis), axis)

    slopes = (lambda: slope(input, d)), (lambda: slope(target, -d))
    return softmax_jensen_shannon(input, target, axis), jnp.sum(tangent_of(slopes, tangents), axis) / 2


def softmax_skewed_jensen_shannon(
    input: jax.Array, target: jax.Array, axis: int, beta: float | jax.Array
) -> jax.Array:
    """`b KL(p || m) + (1 - b) KL(q || m)`, `m = b p + (1 - b) q`; `KL(p || q)` at 0, `KL(q || p)` at 1."""
    ends: dict[float, Callable[..., jax.Array]] = {0.0: softmax_kl, 1.0: softmax_reverse_kl}
    if not isinstance(beta, jax.Array):
        at_number = ends | {0.5: softmax_jensen_shannon}
        if beta in at_number:
            return at_number[beta](input, target, axis)
        # The rest of a number such as 0.99 is taken before it is rounded.
        return skewed_jensen_shannon(input, target, *jnp.asarray([beta, 1 - beta], input.dtype), axis)

    def inside(input: jax.Array, target: jax.Array) -> jax.Array:
        return skewed_jensen_shannon(input, target, beta, 1 - beta, axis)

    branches: list[Callable[..., jax.Array]] = [
        inside,
        *(partial(limit, axis=axis) for limit in ends.values()),
    ]
    index = sum(jnp.where(beta == end, i, 0) for i, end in enumerate(ends, 1))
    # Computed again on the way back, or what each branch keeps for that would be kept of all three.
    return jax.lax.switch(index, [jax.checkpoint(branch) for branch in branches], input, target)


@partial(jax.custom_jvp, nondiff_argnums=(4,))
def skewed_jensen_shannon(input, target, beta: jax.Array, rest: jax.Array, axis: int) -> jax.Array:
    """The same, for a `beta` in (0, 1), whose `rest` is `1 - beta`."""
    of_p, of_q = _parts_to_mixture(input, target, beta, rest, axis)
    return beta * of_p + rest * of_q


@partial(skewed_jensen_shannon.defjvp, symbolic_zeros=True)
def _skewed_jensen_shannon_jvp(axis, primals, tangents):
    input, target, beta, rest = primals
    d = log_ratio(input, target, axis)

    def by_input():
        return -rest * _times_centred(softmax(input, Classes(axis)), _log_mixture(d, beta, rest), axis)

    def by_target():
        return -beta * _times_centred(softmax(target, Classes(axis)), _log_mixture(-d, rest, beta), axis)

    def by_share(index):
        return lambda: _parts_to_mixture(input, target, beta, rest, axis)[index]

    dot = jnp.zeros((), input.dtype)
    if any(type(tangent) is not SymbolicZero for tangent in tangents[:2]):
        dot += jnp.sum(tangent_of((by_input, by_target), tangents[:2]), axis)
    if any(type(tangent) is not SymbolicZero for tangent in tangents[2:]):
        dot += tangent_of((by_share(0), by_share(1)), tangents[2:])
    return skewed_jensen_shannon(*primals, axis), dot


def _parts_to_mixture(input, target, beta, rest, axis: int) -> list[jax.Array]:
    """`KL(p || m)` and `KL(q || m)` with `m = beta p + rest q`, of terms that are never negative."""
    p, q, d = softmax(target, Classes(axis)), softmax(input, Classes(axis)), log_ratio(input, target, axis)
    middle, parts = beta * p + rest * q, []
    for own, ratio in ((p, -_log_mixture(-d, rest, beta)), (q, -_log_mixture(d, beta, rest))):
        more = own * linear_growth(jnp.maximum(ratio, 0.0))
        parts.append(jnp.sum(jnp.where(ratio > 0.0, more, middle * _bounded_growth(-ratio)), axis))
    return parts


def _log_mixture(d: jax.Array, share: jax.Array, rest: jax.Array) -> jax.Array:
    """`log(rest + share * exp(d))`, the two adding up to 1."""
    far = d + jnp.log1p(rest * jnp.expm1(-jnp.maximum(d, 1.0)))
    return jnp.where(d > 1.0, far, jnp.log1p(share * jnp.expm1(jnp.minimum(d, 1.0))))


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def softmax_total_variation(input: jax.Array, target: jax.Array, axis: int) -> jax.Array:
    """`sum |p - q| / 2`."""
    p, q = softmax(target, Classes(axis)), softmax(input, Classes(axis))
    share = -jnp.expm1(-jnp.abs(log_ratio(input, target, axis, True)))
    return jnp.sum(jnp.maximum(p, q) * share, axis) / 2


@partial(softmax_total_variation.defjvp, symbolic_zeros=True)
def _total_variation_jvp(axis, primals, tangents):
    input, target = primals
    sign = jnp.sign(-log_ratio(input, target, axis, True))
    slopes = (
        lambda: _times_centred(softmax(input, Classes(axis)), sign, axis),
        lambda: _times_centred(softmax(target, Classes(axis)), -sign, axis),
    )
    return softmax_total_variation(input, target, axis), jnp.sum(tangent_of(slopes, tangents), axis) / 2


def softmax_reverse_kl(input: jax.Array, target: jax.Array, axis: int) -> jax.Array:
    """`KL(q || p)`."""
    return softmax_kl(target, input, axis)


# What the argument `divergence` of a distillation may name: functions of student and teacher.
DIVERGENCES: dict[str, Callable[[jax.Array, jax.Array, int], jax.Array]] = {
    "forward_kl": softmax_kl,
    "reverse_kl": softmax_reverse_kl,
    "jensen_shannon": softmax_jensen_shannon,
    "total_variation": softmax_total_variation,
}


def _to_middle(d: jax.Array, share: jax.Array, axis: int) -> jax.Array:
    """`log(q / m)` for `d = log(p / q)`, up to a constant of the row: `-log(1 + e^d)`, or that plus log 2.

    Of these the constant is the one that keeps digits at the largest share, from which the others count.
    """
    is_far = jnp.abs(take_along(d, jnp.argmax(share, axis, keepdims=True), axis)) > 2.0
    near = jnp.clip(d / 2, -1.0, 1.0)
    return jnp.where(
        jnp.abs(d) < 2.0,
        -near - _log_cosh(near) - jnp.where(is_far, math.log(2.0), 0.0),
        jnp.where(is_far, 0.0, math.log(2.0)) - jax.nn.softplus(d),
    )


def _log_cosh(h: jax.Array) -> jax.Array:
    return jnp.log1p(2 * jnp.square(jnp.sinh(h / 2)))


def _times_centred(share: jax.Array, factor: jax.Array, axis: int) -> jax.Array:
    """`share * (factor - sum(share * factor))`: the gradient of a mean over a softmax; 0 at a share of 0.

    The factor is taken relative to that of the largest share, whose own entry would otherwise cancel.
    """
    factor = jnp.where(share == 0.0, 0.0, factor)
    factor = factor - take_along(factor, jnp.argmax(share, axis, keepdims=True), axis)
    return share * (factor - jnp.sum(share * factor, axis, keepdims=True))


def linear_growth(t: jax.Array) -> jax.Array:
    """`t - 1 + exp(-t)`, never negative; infinite at both infinities."""
    is_near = jnp.abs(t) < 0.5
    far = jnp.maximum(jnp.where(is_near, 0.5, t), -jnp.finfo(t.dtype).max)
    return jnp.where(is_near, _series(t, lambda k: 1), far + jnp.expm1(-far))


def _bounded_growth(t: jax.Array) -> jax.Array:
    """`1 - (1 + t) exp(-t)` for `t >= 0`; 1 at infinity."""
    far = jnp.clip(t, 0.5, 1000.0)
    return jnp.where(
        t < 0.5, _series(t, lambda k: 1 - k), jnp.where(jnp.isnan(t), t, 1 - (1 + far) * jnp.exp(-far))
    )


def _series(t: jax.Array, coefficient) -> jax.Array:
    """`sum_{k >= 2} |coefficient(k)| (-1)^k t^k / k!` for t within one half of 0, to full precision."""
    small, total = jnp.clip(t, -0.5, 0.5), jnp.zeros_like(t)
    for k in range(16 if t.dtype == jnp.float64 else 9, 1, -1):
        total = abs(coefficient(k)) / math.factorial(k) - small * total
    return small * small * total
