"""Advantages, estimators of the divergence, importance weights and the critic's loss, against torch."""

from functools import partial

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import torch

import torch_ref.losses
from jaxloss import losses
from parity_tests.compare import assert_same, assert_within
from parity_tests.losses.oracle import error_in_ulp
from parity_tests.losses.promises import (
    EACH_REDUCTION,
    assert_masking_deletes,
    assert_matches_torch,
    assert_transforms,
    compiled,
)
from parity_tests.tolerances import (
    ACCURATE_GRADIENT_ULP,
    ACCURATE_VALUE_ULP,
    GRADIENT_EPS_OF_MAX,
    VALUE_EPS_OF_MAX,
)

rng = np.random.default_rng(0)
LOGPS, REF_LOGPS = -rng.exponential(1.0, (2, 4, 3))
PAIR = {"logps": LOGPS, "ref_logps": np.where(rng.random((4, 3)) < 0.2, LOGPS, REF_LOGPS)}
# On a grid of halves, values lie at the bounds of a clip of 0.5, and both squares are equal.
VALUES = {name: rng.integers(-2, 3, (20, 3)) / 2 for name in ("values", "old_values", "returns")}
DIVERGENCES = losses.reverse_kl_div, losses.forward_kl_div
MASK = rng.random((4, 3)) > 0.4
REWARDS = np.array([1.0, 0.0, 0.5, 0.3, 0.3, 0.3, 2.0, -1.0, 2.0])


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_sampled_kl_div_matches_torch(estimator):
    cases = [{"estimator": estimator} | each for each in EACH_REDUCTION]
    ours, theirs = losses.sampled_kl_div, torch_ref.losses.sampled_kl_div
    # Torch's own k3 cancels.
    apart = {name: array[:, :2] for name, array in PAIR.items()}
    assert_matches_torch(ours, theirs, apart if estimator == "k3" else PAIR, cases, wrt=["logps"])
    assert_masking_deletes(ours, theirs, PAIR, MASK, {"estimator": estimator}, wrt=["logps"])


def test_clipped_value_loss_matches_torch():
    ours, theirs = losses.clipped_value_loss, torch_ref.losses.clipped_value_loss
    cases = [{"clip": clip} | each for clip in (0.5, 0.2, 0.0) for each in EACH_REDUCTION]
    assert_matches_torch(ours, theirs, VALUES, cases, wrt=["values"])
    few = {name: array[:4] for name, array in VALUES.items()}
    assert_masking_deletes(ours, theirs, few, MASK, {"clip": 0.5}, wrt=["values"])


@pytest.mark.parametrize("scale", ["group", "batch"])
def test_group_advantages_of_rewards_whose_squares_overflow_or_vanish(scale):
    rewards = jnp.array([1.0, 2.0, 4.0, 3.0, 7.0, 5.0], jnp.float32)
    advantages = compiled(partial(losses.group_advantages, group_size=3, scale=scale, eps=0.0))
    for exponent in (100, -100):
        assert_same(advantages(jnp.ldexp(rewards, exponent)), advantages(rewards))


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("where", [None, np.arange(9) % 4 > 0, np.arange(9) > 2])
def test_group_advantages_match_torch(scale, where):
    masks = [None, None] if where is None else [jnp.asarray(where), torch.tensor(where)]
    expected = torch_ref.losses.group_advantages(torch.tensor(REWARDS), 3, scale=scale, where=masks[1])
    rewards = REWARDS if where is None else np.where(where, REWARDS, np.nan)
    ours = compiled(partial(losses.group_advantages, group_size=3, scale=scale))(rewards, where=masks[0])
    assert_within(ours, expected, VALUE_EPS_OF_MAX)


@pytest.mark.parametrize("scale", ["group", "batch"])
def test_equal_rewards_have_no_advantage(scale):
    """Though their mean is rounded: the standard deviation is that rounding, and the quotient 1 or -1."""
    rewards = np.full(7, 0.1, np.float32)
    assert np.std(rewards, ddof=1) != 0
    for group_size in (7, 1):
        advantages = partial(losses.group_advantages, group_size=group_size, scale=scale, eps=0.0)
        assert_same(compiled(advantages)(rewards), np.zeros(7))


def test_half_precision_rewards_have_advantages_in_float32():
    rewards = jnp.asarray(REWARDS, jnp.bfloat16)
    advantages = compiled(partial(losses.group_advantages, group_size=3))(rewards)
    assert advantages.dtype == jnp.float32
    assert_within(advantages, losses.group_advantages(rewards.astype(jnp.float64), 3), VALUE_EPS_OF_MAX)


def test_advantages_and_weights_are_constants():
    def total(x):
        weights = losses.truncated_importance_weights(x, x - 1.0)
        return jnp.sum(losses.group_advantages(x, 3)) + jnp.sum(weights)

    assert_same(compiled(jax.grad(total))(-jnp.abs(jnp.asarray(REWARDS))), np.zeros(9))


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("masked", [False, True])
def test_truncated_importance_weights_match_torch(level, masked):
    arrays = [np.where(MASK | (not masked), a, np.nan) for a in PAIR.values()]
    masks = [jnp.asarray(MASK), torch.tensor(MASK)] if masked else [None, None]
    weights = compiled(partial(losses.truncated_importance_weights, cap=1.5, level=level))
    ours = weights(*arrays, where=masks[0])
    theirs = torch_ref.losses.truncated_importance_weights(
        *map(torch.tensor, arrays), cap=1.5, level=level, where=masks[1]
    )
    assert_within(ours, theirs, VALUE_EPS_OF_MAX)


def test_weights_multiply_the_loss_where_they_multiply_the_advantages():
    weights = losses.truncated_importance_weights(PAIR["logps"], PAIR["ref_logps"])
    advantages = rng.standard_normal((4, 3))
    for name in ("clipped_policy_loss", "cispo_loss", "sapo_loss"):
        loss = compiled(getattr(losses, name), static_argnames="reduction")
        weighed = loss(*PAIR.values(), weights * advantages, reduction="none")
        expected = weights * loss(*PAIR.values(), advantages, reduction="none")
        assert_within(weighed, expected, VALUE_EPS_OF_MAX)


def test_k3_is_accurate_from_nearly_equal_to_far_apart():
    apart = np.geomspace(1e-6, 10.0, 100)
    nearer = np.float32(-rng.exponential(1.0, 200))
    further = np.float32(nearer - np.concatenate([apart, apart[::-1]]))
    both = np.where(np.arange(200) < 100, [nearer, further], [further, nearer])
    value, pullback = jax.vjp(jax.jit(lambda x: losses.sampled_kl_div(x, both[1], reduction="none")), both[0])
    assert (value > 0).all()
    exact = [mpmath.mpf(float(b)) - mpmath.mpf(float(a)) for a, b in both.T]
    assert error_in_ulp(value, [mpmath.expm1(d) - d for d in exact]).max() <= ACCURATE_VALUE_ULP
    gradient = pullback(jnp.ones_like(value))[0]
    assert error_in_ulp(gradient, [-mpmath.expm1(d) for d in exact]).max() <= ACCURATE_GRADIENT_ULP


def test_estimators_at_the_ends():
    logps, ref_logps = jnp.float32([-200.0, 0.0, -1.0, -jnp.inf]), jnp.float32([0.0, -200.0, -1.0, -1.0])
    loss = jax.jit(lambda x: losses.sampled_kl_div(x, ref_logps, reduction="none"))
    value, pullback = jax.vjp(loss, logps)
    assert value.tolist() == [np.inf, 199, 0, np.inf]
    assert pullback(jnp.ones_like(value))[0].tolist() == [-np.inf, 1, 0, -np.inf]
    assert_same(jax.jvp(loss, (logps,), (jnp.zeros_like(logps),))[1], np.zeros(4))


def test_the_estimators_mean_what_they_estimate():
    """Over all tokens, weighed by their probability: the divergence, and the gradients of the docstring."""
    x, reference = jnp.asarray(rng.standard_normal((2, 5)))
    q, p = jax.nn.log_softmax(x), jax.nn.log_softmax(reference)

    def mean(logits, estimator):
        own = jax.nn.log_softmax(logits)
        return jnp.sum(jnp.exp(q) * losses.sampled_kl_div(own, p, estimator=estimator, reduction="none"))

    @compiled
    def everything(x):
        estimates = {k: jax.value_and_grad(mean)(x, k) for k in ("k1", "k2", "k3")}
        return estimates, *(jax.value_and_grad(div)(x, reference) for div in DIVERGENCES)

    estimates, (divergence, gradient), (_, other_gradient) = everything(x)
    for estimator, slope in {"k1": np.zeros(5), "k2": gradient, "k3": other_gradient}.items():
        if estimator != "k2":
            assert_within(estimates[estimator][0], divergence, VALUE_EPS_OF_MAX)
        assert_within(estimates[estimator][1], slope, GRADIENT_EPS_OF_MAX, scale=1.0, what=estimator)


def test_transforms():
    assert_transforms(losses.sampled_kl_div, LOGPS[:2], REF_LOGPS[:2])
    assert_transforms(losses.clipped_value_loss, LOGPS[:2], REF_LOGPS[:2], np.ones((2, 3)))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("group_advantages", (np.zeros(7), 3), "group_size must divide the number of rewards, 7; got 3"),
        (
            "group_advantages",
            (np.zeros((2, 3)), 3),
            r"rewards must have one axis, of completions; got float64\[2, 3\]",
        ),
        ("group_advantages", (np.zeros(6), 0), "group_size must be at least 1; got 0"),
        ("group_advantages", (np.zeros(6), 3, "groups"), "scale must be one of .* Did you mean 'group'"),
        ("sampled_kl_div", (np.zeros(2), np.zeros(3)), r"ref_logps must have shape \[2\], that of logps"),
        ("sampled_kl_div", (np.zeros(2), np.zeros(2), "K3"), "estimator must be one of .* Did you mean 'k3'"),
        ("clipped_value_loss", (*[np.zeros(2)] * 3, -1.0), r"clip must be in \[0, inf\); got -1"),
        ("truncated_importance_weights", (*[np.zeros(2)] * 2, 0.0), r"cap must be in \(0, inf\)"),
    ],
)
def test_bad_arguments_are_named(name, arguments, message):
    option = {"group_advantages": "scale", "sampled_kl_div": "estimator", "clipped_value_loss": "clip"}.get(
        name, "cap"
    )
    num_arrays = 3 if name == "clipped_value_loss" else 2
    with pytest.raises(ValueError, match=message):
        getattr(losses, name)(
            *arguments[:num_arrays], **dict.fromkeys([option][: len(arguments) - num_arrays], arguments[-1])
        )
