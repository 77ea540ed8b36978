"""The policy losses against torch, at their kinks, with masks, and where ratios overflow."""

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
    assert_half_precision_is_rounded_once,
    assert_masking_deletes,
    assert_matches_torch,
    assert_transforms,
    compiled,
)
from parity_tests.tolerances import ACCURATE_VALUE_ULP, VALUE_EPS_OF_MAX

LOSSES = ["clipped_policy_loss", "cispo_loss", "sapo_loss"]
LEVELS = ["token", "sequence", "sequence_token"]
rng = np.random.default_rng(0)
LOGPS = -rng.exponential(1.0, (4, 6))
# The first two columns are on-policy: a ratio of exactly 1, where the bounds of some cases are.
OLD_LOGPS = np.concatenate([LOGPS[:, :2], LOGPS[:, 2:] + rng.uniform(-1.0, 0.0, (4, 4)).round(3)], 1)
OLD_LOGPS[1::2, 2:] = np.minimum(LOGPS[1::2, 2:] + rng.uniform(0.0, 1.0, (2, 4)).round(3), 0.0)
ADVANTAGES = np.array([1.5, -0.5, -2.0, 0.0])[:, None] * np.array([1, 1, 1, 1, -1, -1])
# Clipped or not, by ratios alone.
ADVANTAGES[:2, 3] = 0.0
ARRAYS = {"logps": LOGPS, "old_logps": OLD_LOGPS, "advantages": ADVANTAGES}
MASK = rng.random((4, 6)) > 0.4
MASK[2], MASK[0, 0], MASK[:2, 3] = False, True, True
AT_1 = {"clip_low": 0.0, "clip_high": 0.0}
CASES = {
    "clipped_policy_loss": [
        {"level": level} | options
        for level in LEVELS
        for options in ({}, {"clip_high": 0.28}, {"dual_clip": 1.5}, AT_1, AT_1 | {"dual_clip": 1.0})
    ],
    "cispo_loss": [{}, {"clip_low": 0.1, "clip_high": 0.2}, AT_1],
    "sapo_loss": [{}, {"positive_temperature": 10.0, "negative_temperature": 0.5}],
}


@pytest.mark.parametrize("name", LOSSES)
def test_matches_torch(name):
    ours, theirs = getattr(losses, name), getattr(torch_ref.losses, name)
    cases = [*({"reduction": "none"} | case for case in CASES[name]), *EACH_REDUCTION]
    assert_matches_torch(ours, theirs, ARRAYS, cases, wrt=["logps"])
    of_sequences = ARRAYS | {"advantages": ADVANTAGES[:, 0]}
    assert_matches_torch(ours, theirs, of_sequences, EACH_REDUCTION[:1], wrt=["logps"])


@pytest.mark.parametrize("name", LOSSES)
def test_masking_deletes(name):
    ours, theirs = getattr(losses, name), getattr(torch_ref.losses, name)
    assert_masking_deletes(ours, theirs, ARRAYS, MASK, wrt=["logps"])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("level", LEVELS)
def test_a_masked_token_changes_nothing(name, level):
    if name != "clipped_policy_loss" and level != "token":
        return
    options = {"return_statistics": True} | ({"level": level} if level != "token" else {})

    @compiled
    def run(*arrays):
        loss = jax.value_and_grad(
            lambda x: getattr(losses, name)(x, *arrays[1:], where=mask, **options), has_aux=True
        )
        return loss(arrays[0])

    mask, clean = jnp.asarray(MASK), [jnp.asarray(a) for a in ARRAYS.values()]
    (_, statistics), gradient = expected = run(*clean)
    _, theirs = getattr(torch_ref.losses, name)(
        *map(torch.tensor, ARRAYS.values()), where=torch.tensor(MASK), **options
    )
    for what, ours in statistics._asdict().items():
        assert_within(ours, getattr(theirs, what), VALUE_EPS_OF_MAX, what=what)
    assert not np.any(gradient[~mask])
    for junk in (np.nan, np.inf, -np.inf, -200.0, 200.0):
        found = run(*(jnp.where(mask, array, junk) for array in clean))
        jax.tree.map(assert_same, found, expected)


@pytest.mark.parametrize("level", LEVELS[1:])
def test_a_sequence_is_as_if_alone_without_its_masked_tokens(level):
    options = {"level": level, "reduction": "none"}
    ours = compiled(partial(losses.clipped_policy_loss, **options))(**ARRAYS, where=MASK)
    for row, mask in enumerate(MASK):
        alone = (torch.tensor(array[row][mask]) for array in ARRAYS.values())
        expected = torch_ref.losses.clipped_policy_loss(*alone, **options)
        assert_within(ours[row][mask], expected, VALUE_EPS_OF_MAX)


def test_the_levels_of_gspo_agree_where_a_sequence_has_one_advantage():
    """Equations 14 to 17 of the paper: value, clipping and gradient."""

    def objective(level, logps):
        token = losses.clipped_policy_loss(logps, OLD_LOGPS, ADVANTAGES[:, 0], level=level, reduction="none")
        return jnp.sum(jnp.mean(token, 1))

    both = compiled(lambda x: [jax.value_and_grad(partial(objective, level))(x) for level in LEVELS[1:]])
    results = both(LOGPS)
    for found, expected in zip(*results, strict=True):
        assert_within(found, expected, VALUE_EPS_OF_MAX)


def test_ratios_are_accurate_however_far_off_policy():
    logps = np.float32(-rng.exponential(1.0, (1, 64)))
    old_logps = np.float32(logps - np.geomspace(1e-6, 10.0, 64))
    options = {"reduction": "none", "return_statistics": True}
    value, statistics = losses.clipped_policy_loss(logps, old_logps, jnp.float32([-1.0]), **options)
    exact = [
        mpmath.exp(mpmath.mpf(float(a)) - mpmath.mpf(float(b)))
        for a, b in zip(logps[0], old_logps[0], strict=True)
    ]
    assert error_in_ulp(value[0], exact).max() <= ACCURATE_VALUE_ULP
    assert error_in_ulp(statistics.ratio[0], exact).max() <= ACCURATE_VALUE_ULP
    assert error_in_ulp(statistics.kl[0], [r - 1 - mpmath.log(r) for r in exact]).max() <= ACCURATE_VALUE_ULP


# A ratio of exp(200), beyond float32, and one of exp(-200): the value, and what the gradient is.
EXTREMES = {
    "clipped_policy_loss": {1: ([-1.2, 0], [0, 0]), -1: ([np.inf, 0.8], [np.inf, 0]), 0: ([0, 0], [0, 0])},
    "dual": {1: ([-1.2, 0], [0, 0]), -1: ([3, 0.8], [0, 0]), 0: ([0, 0], [0, 0])},
    "cispo_loss": {1: ([0, 0], [-5, 0]), -1: ([0, 0], [5, 0]), 0: ([0, 0], [0, 0])},
    "sapo_loss": {1: ([-4, -1.0757657], [0, 0]), -1: ([4 / 1.05, 0.9875243], [0, 0]), 0: ([0, 0], [0, 0])},
}


@pytest.mark.parametrize("name", EXTREMES)
def test_what_overflows_is_left_out_where_it_does_not_count(name):
    options = {"dual_clip": 3.0} if name == "dual" else {}
    loss = partial(getattr(losses, name, losses.clipped_policy_loss), reduction="none", **options)
    logps, old_logps = jnp.float32([[0.0, -201.0]]), jnp.float32([[-200.0, -1.0]])

    @compiled
    def both(advantages):
        value, pullback = jax.vjp(lambda x: loss(x, old_logps, advantages), logps)
        return value, pullback(jnp.ones_like(value))[0]

    for advantage, expected in EXTREMES[name].items():
        for found, wanted in zip(both(jnp.float32([advantage])), expected, strict=True):
            np.testing.assert_allclose(found[0], wanted, rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize("name", LOSSES)
def test_a_token_of_probability_0_has_a_ratio_of_0(name):
    logps, old_logps = jnp.array([[-np.inf, -1.0]]), -jnp.ones((1, 2))
    value, gradient = compiled(jax.value_and_grad(getattr(losses, name)))(logps, old_logps, jnp.ones(1))
    assert np.isfinite(value)
    assert gradient[0, 0] == 0


def test_half_precision_is_rounded_once():
    rest = np.float32(OLD_LOGPS), np.float32(ADVANTAGES)
    assert_half_precision_is_rounded_once(losses.clipped_policy_loss, LOGPS, *rest)


@pytest.mark.parametrize("name", LOSSES)
def test_transforms(name):
    # The weight of cispo_loss is a constant in its gradient; bounds of 1 make it one in its value.
    options = AT_1 if name == "cispo_loss" else {}
    arrays = LOGPS[:2, 2:5], OLD_LOGPS[:2, 2:5], ADVANTAGES[:2, 2:5]
    assert_transforms(getattr(losses, name), *arrays, **options)


def test_transforms_at_the_level_of_sequences():
    arrays = LOGPS[:2, 2:5], OLD_LOGPS[:2, 2:5], ADVANTAGES[:2, 2:5]
    assert_transforms(losses.clipped_policy_loss, *arrays, level="sequence")


@pytest.mark.parametrize("name", LOSSES)
def test_probabilities_in_place_of_log_probabilities(name):
    arrays = dict(ARRAYS, old_logps=np.where(MASK, OLD_LOGPS, 0.25))
    loss = partial(getattr(losses, name), reduction="none")
    alone, masked = compiled(lambda a: (loss(**a), loss(**a, where=jnp.asarray(MASK))))(arrays)
    assert_same(jnp.isnan(alone), ~MASK)
    assert np.isfinite(masked).all()


def test_checked_losses_name_what_is_no_log_probability():
    arrays = dict(ARRAYS, old_logps=np.where(MASK, OLD_LOGPS, 0.25))
    message = (
        rf"old_logps\[0, \d\] is 0\.25, above 0, as no log-probability is; {(~MASK).sum()} of 24 numbers"
    )
    for side, as_array in ((losses, jnp.asarray), (torch_ref.losses, torch.tensor)):
        checked, given = side.make_checked(side.sapo_loss), {k: as_array(a) for k, a in arrays.items()}
        with pytest.raises(ValueError, match=message):
            checked(**given)
        checked(**given, where=as_array(MASK))
        # What rounding leaves of 0.
        checked(**given | {"old_logps": as_array(np.full((4, 6), 1e-5))})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"old_logps": np.zeros((4, 5))},
            r"old_logps must have shape \[4, 6\], that of logps; got float64\[4, 5\]",
        ),
        (
            {"advantages": np.zeros(6)},
            r"advantages must have the shape of logps, \[4, 6\], or that without its last",
        ),
        ({"logps": np.zeros(())}, "logps must have an axis of tokens"),
        ({"where": np.ones(4, bool)}, r"where must have shape \[4, 6\]"),
        ({"clip_low": -0.1}, r"clip_low must be in \[0, 1\]; got -0.1"),
        ({"clip_high": -0.1}, r"clip_high must be in \[0, inf\)"),
        ({"dual_clip": 0.5}, r"dual_clip must be in \[1, inf\)"),
        ({"level": "sequences"}, "level must be one of .* Did you mean 'sequence'"),
    ],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        losses.clipped_policy_loss(**(ARRAYS | change))
