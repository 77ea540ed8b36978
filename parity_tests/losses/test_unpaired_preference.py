"""KTO and BCO against torch, and their baselines."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import torch_ref.losses
from jaxloss import losses
from parity_tests.compare import assert_same
from parity_tests.losses import oracle
from parity_tests.losses.promises import (
    EACH_REDUCTION,
    assert_masking_deletes,
    assert_matches_torch,
    assert_transforms,
    compiled,
)
from parity_tests.tolerances import ACCURATE_GRADIENT_ULP, ACCURATE_VALUE_ULP

rng = np.random.default_rng(0)
ARRAYS = {
    "logps": -rng.uniform(0.0, 30.0, 8),
    "ref_logps": -rng.uniform(0.0, 30.0, 8),
    "is_desirable": rng.random(8) > 0.5,
}
BASELINES = {"kto_loss": "kl", "bco_loss": "reward_shift"}
OPTIONS = {"kto_loss": {"desirable_weight": 1.5, "undesirable_weight": 0.5, "beta": 0.5}, "bco_loss": {}}


def _pair(name):
    return getattr(losses, name), getattr(torch_ref.losses, name)


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("baseline", [0.75, -0.75])
def test_matches_torch(name, baseline):
    arrays = ARRAYS | {BASELINES[name]: np.array(baseline), "sample_weight": rng.uniform(size=8)}
    cases = [OPTIONS[name] | reduction for reduction in EACH_REDUCTION]
    assert_matches_torch(*_pair(name), arrays, cases, wrt=("logps", "sample_weight"))


@pytest.mark.parametrize("name", BASELINES)
def test_masking_deletes(name):
    arrays = ARRAYS | {BASELINES[name]: np.array(0.75)}
    assert_masking_deletes(*_pair(name), arrays, rng.random(8) > 0.4, wrt=["logps"])


@pytest.mark.parametrize("name", BASELINES)
def test_reference_and_baseline_are_constants(name):
    gradients = compiled(jax.grad(getattr(losses, name), (1, 3)))(*ARRAYS.values(), 0.75)
    assert_same(gradients[0], np.zeros(8))
    assert gradients[1] == 0


@pytest.mark.parametrize("name", BASELINES)
def test_values_and_gradients_are_those_of_50_digits(name):
    log_ratios = np.float32([-200, -81, -34, -1, 0.5, 1, 34, 81, 160])
    exact = {"kto_loss": oracle.sigmoid, "bco_loss": oracle.softplus}[name]
    for sign in (1, -1):

        def loss(x, sign=sign):
            return getattr(losses, name)(x, jnp.float32(-256), jnp.asarray(sign > 0), 1.0, beta=0.5)

        value, gradient = compiled(jax.vmap(jax.value_and_grad(loss)))(log_ratios - 256)
        shift = 0.5 if name == "kto_loss" else 1
        truths = [
            oracle.derivatives(lambda x, sign=sign, shift=shift: exact(sign * (shift - x[0] / 2)), point)
            for point in log_ratios[:, None]
        ]
        assert oracle.error_in_ulp(value, [truth[0] for truth in truths]).max() <= ACCURATE_VALUE_ULP
        expected = [truth[1][0] for truth in truths]
        assert oracle.error_in_ulp(gradient, expected).max() <= ACCURATE_GRADIENT_ULP


def test_transforms():
    assert_transforms(partial(losses.kto_loss, kl=0.75), *ARRAYS.values())


BAD = [
    ({"beta": 0.0}, ValueError, r"beta must be in \(0, inf\); got 0.0"),
    ({"ref_logps": jnp.zeros(7)}, ValueError, r"ref_logps must have shape \[8\], that of logps; got float"),
    ({"is_desirable": None}, TypeError, "is_desirable must be a boolean array; got None"),
    ({"is_desirable": jnp.ones(8)}, TypeError, r"is_desirable must be boolean; got float64\[8\]"),
    ({"kl": jnp.zeros(8)}, ValueError, r"kl must have shape \[\], a single number; got float64\[8\]"),
    ({"desirable_weight": -1}, ValueError, r"desirable_weight must be in \[0, inf\); got -1"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bad_arguments_are_named(change, error, message):
    with pytest.raises(error, match=message):
        losses.kto_loss(**({name: jnp.asarray(a) for name, a in ARRAYS.items()} | {"kl": 0.0} | change))
