"""DPO's variants and the reward model's loss: torch's numbers, those of 50 digits, and what they refuse."""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import torch
from jax.experimental import checkify

import torch_ref.losses
from jaxloss import losses
from jaxloss.losses import bradley_terry_loss, dpo_loss, make_checked, sequence_logps
from jaxloss.losses._preference import SMOOTHED, VARIANTS
from parity_tests.compare import assert_same, assert_within
from parity_tests.losses import oracle
from parity_tests.losses.promises import (
    EACH_REDUCTION,
    assert_half_precision_is_rounded_once,
    assert_masking_deletes,
    assert_matches_torch,
    assert_transforms,
    compiled,
)
from parity_tests.quick_compilation import jit
from parity_tests.tolerances import (
    ACCURATE_GRADIENT_ULP,
    ACCURATE_VALUE_ULP,
    EPS,
    EXO_VALUE_ULP,
    GRADIENT_EPS_OF_MAX,
    VALUE_EPS_OF_MAX,
)

rng = np.random.default_rng(0)
NAMES = ("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps")
LOGPS = {name: -rng.uniform(0.0, 30.0, 8) for name in NAMES}
REWARDS = {"chosen_rewards": rng.standard_normal(8), "rejected_rewards": rng.standard_normal(8)}
MASK = rng.random(8) > 0.4
WRT = NAMES[:2]
SORTING = [name for name in VARIANTS if name.startswith("aot")]
CASES = [{"loss_type": name, "label_smoothing": 0.1 if name in SMOOTHED else 0.0} for name in VARIANTS]


def test_every_variant_matches_torch():
    cases = [case | reduction for case, reduction in zip(CASES, EACH_REDUCTION * 5, strict=False)]
    cases += [{"beta": 0.5, "discopop_tau": 2.0, "loss_type": "discopop"}, {"beta": 2.0, "loss_type": "ipo"}]
    assert_matches_torch(dpo_loss, torch_ref.losses.dpo_loss, LOGPS, cases, wrt=WRT)


def test_weighted_pairs_match_torch():
    arrays = LOGPS | {"sample_weight": rng.uniform(size=8)}
    wrt = (*WRT, "sample_weight")
    assert_matches_torch(dpo_loss, torch_ref.losses.dpo_loss, arrays, EACH_REDUCTION, wrt=wrt)


def test_the_reward_models_loss_matches_torch():
    arrays = REWARDS | {"margin": rng.uniform(size=8), "sample_weight": rng.uniform(size=8)}
    cases = [{"center_rewards_coefficient": 0.1} | reduction for reduction in EACH_REDUCTION]
    pair = bradley_terry_loss, torch_ref.losses.bradley_terry_loss
    assert_matches_torch(*pair, REWARDS, [{}], wrt=REWARDS)
    assert_matches_torch(*pair, arrays, cases, wrt=arrays)


@pytest.mark.parametrize("loss_type", ["nca_pair", *SORTING])
def test_masking_deletes(loss_type):
    options = {"loss_type": loss_type}
    assert_masking_deletes(dpo_loss, torch_ref.losses.dpo_loss, LOGPS, MASK, options, wrt=WRT)


def test_masking_deletes_rewards():
    pair = bradley_terry_loss, torch_ref.losses.bradley_terry_loss
    options = {"center_rewards_coefficient": 0.1}
    assert_masking_deletes(*pair, REWARDS | {"margin": np.ones(8)}, MASK, options, wrt=REWARDS)


def losses_of_pairs():
    """Every loss of log-probabilities, as a function of a pair's and of the reference model's."""
    cases = CASES + [{"loss_type": "discopop", "discopop_tau": tau} for tau in (1.0, 2.0)]
    found = [lambda a, b, c, d, case=case: dpo_loss(a, b, c, d, **case) for case in cases]
    for loss in (losses.simpo_loss, losses.cpo_loss):
        options = ({}, {"label_smoothing": 0.1})
        found += [lambda a, b, c, d, loss=loss, o=o: loss(a, b, **o) for o in options]
    found += [lambda a, b, c, d, loss=loss: loss(a, b) for loss in (losses.orpo_loss, bradley_terry_loss)]
    for loss, good in product((losses.kto_loss, losses.bco_loss), ([True], [False])):
        found += [lambda a, b, c, d, loss=loss, good=good: loss(a, c, jnp.array(good), jnp.array(0.5))]
    return found


def test_no_gradient_is_nan_where_the_loss_is_a_number():
    points = [np.where(np.arange(4) == i, low, -1.0) for i in range(4) for low in (-np.inf, -1e308, -1e5)]
    points = jnp.asarray([*points, *np.eye(4) - 1.0])

    def of_point(point):
        pairs = [jax.value_and_grad(loss, (0, 1))(*point[:, None]) for loss in losses_of_pairs()]
        return [(value, jnp.concatenate(slopes)) for value, slopes in pairs]

    for value, slopes in compiled(jax.vmap(of_point))(points):
        assert not jnp.any(jnp.isnan(value)[:, None] | jnp.isnan(slopes))


@pytest.mark.parametrize("average", [False, True])
def test_log_probabilities_of_sequences_match_torch(average):
    tokens, mask = -rng.uniform(size=(3, 5)), rng.random((3, 5)) > 0.4
    mask[:, 0] = True
    case = {"average": average}
    pair = sequence_logps, torch_ref.losses.sequence_logps
    assert_matches_torch(*pair, {"token_logps": tokens}, [case], wrt=["token_logps"])
    poisoned = np.where(mask, tokens, np.nan)
    assert_matches_torch(*pair, {"token_logps": poisoned, "where": mask}, [case], wrt=["token_logps"])


def test_a_sequence_without_tokens_has_no_average_and_no_gradient():
    tokens, mask = jnp.full((2, 3), -1.0), jnp.array([[True] * 3, [False] * 3])
    logps = sequence_logps(tokens, where=mask, average=True)
    assert_same(logps, [-1.0, np.nan])

    def loss(tokens):
        logps = sequence_logps(tokens, where=mask, average=True)
        return dpo_loss(logps, logps - 1.0, logps, logps, where=jnp.array([True, False]))

    assert_same(compiled(jax.grad(loss))(tokens)[1], np.zeros(3))


def test_the_reference_is_a_constant():
    gradients = compiled(jax.grad(dpo_loss, (2, 3)))(*LOGPS.values())
    assert_same(gradients, np.zeros((2, 8)))


def test_quantiles_do_not_ask_which_answer_was_paired_with_which():
    chosen, rejected, ref_chosen, ref_rejected = LOGPS.values()
    order, zeros = rng.permutation(8), np.zeros(8)
    loss, paired = compiled(partial(dpo_loss, loss_type="aot_unpaired")), compiled(dpo_loss)
    shuffled = loss(chosen, rejected[order], ref_chosen, ref_rejected[order])
    assert_within(shuffled, loss(*LOGPS.values()), VALUE_EPS_OF_MAX)
    by_rank = paired(np.sort(chosen), np.sort(rejected), zeros, zeros)
    assert_within(loss(chosen, rejected, zeros, zeros), by_rank, VALUE_EPS_OF_MAX)


# At these every number of the calculation is exact, up to the margin.
MARGINS = [-100, -40.5, -17, -5, -0.5, 2.0**-10, 0.5, 6.75, 17, 40.5, 80]
POINTS = np.array([(m + shift, shift - m) for m, shift in product(MARGINS, [0.25, 30.0])])
BETA, SMOOTHING, TAU = 0.5, 0.0625, 0.0625
SMOOTH = [name for name in VARIANTS if name not in SORTING]


def _smoothing(name):
    return SMOOTHING if name in SMOOTHED else 0.0


@compiled
@jax.vmap
def derivatives(chosen, rejected):
    """The value, gradient and Hessian of each variant."""

    def loss(name, *logps):
        options = {"loss_type": name, "label_smoothing": _smoothing(name), "discopop_tau": TAU}
        return dpo_loss(*logps, *[jnp.full((), -256.0, chosen.dtype)] * 2, beta=BETA, **options)

    def both(name, *logps):
        value, gradient = jax.value_and_grad(partial(loss, name), (0, 1))(*logps)
        return jnp.stack(gradient), (value, jnp.stack(gradient))

    return {
        name: jax.jacfwd(partial(both, name), (0, 1), has_aux=True)(chosen - 256, rejected - 256)
        for name in SMOOTH
    }


def test_values_gradients_and_hessians_are_those_of_50_digits():
    results = derivatives(*POINTS.T.astype(np.float32))
    for name, (hessian, (value, gradient)) in results.items():
        numbers = [mpmath.mpf(number) for number in (BETA, _smoothing(name), TAU)]

        def exact(chosen, rejected, name=name, numbers=numbers):
            return oracle.dpo_loss(name, chosen[0], rejected[0], *numbers)

        truths = [oracle.derivatives(exact, *point[:, None]) for point in POINTS]
        values, gradients, hessians = ([truth[i] for truth in truths] for i in range(3))
        allowed = EXO_VALUE_ULP if name == "exo_pair" else ACCURATE_VALUE_ULP
        assert oracle.error_in_ulp(value, values).max() <= allowed, name
        assert oracle.error_in_ulp(gradient, gradients).max() <= ACCURATE_GRADIENT_ULP, name
        for point, ours, theirs in zip(POINTS, np.stack(hessian, -1), hessians, strict=True):
            scale = max(np.abs(theirs).max(), float(np.finfo(np.float32).tiny) / EPS["float32"])
            assert_within(ours, theirs, GRADIENT_EPS_OF_MAX, "float32", scale, f"{name} at {point}")


def test_a_margin_of_40_has_a_gradient():
    kinds = ("sigmoid", "nca_pair", "bco_pair", "apo_zero", "apo_down")

    @compiled
    def slopes(chosen, rejected):
        return [
            jax.grad(partial(dpo_loss, loss_type=name), 1)(chosen, rejected, chosen, chosen) for name in kinds
        ]

    expected = 0.1 * np.exp(-40.0) * np.array([1, 0.5, 1, 1, 1])
    np.testing.assert_allclose(slopes(np.float32(-100), np.float32(-500)), expected, rtol=1e-5)


@pytest.mark.parametrize("loss_type", ["discopop", "aot"])
def test_transforms(loss_type):
    assert_transforms(dpo_loss, *LOGPS.values(), loss_type=loss_type)


def test_half_precision_is_rounded_once():
    assert_half_precision_is_rounded_once(partial(dpo_loss, beta=0.5), *LOGPS.values(), num_floats=4)


def test_sorting_over_devices():
    mesh = jax.make_mesh((2,), ("a",))
    arrays = [jnp.asarray(a) for a in LOGPS.values()]
    losses = jit(
        lambda *arrays: [
            jax.value_and_grad(partial(dpo_loss, loss_type=name, where=jnp.asarray(MASK)))(*arrays)
            for name in SORTING
        ]
    )
    expected = losses(*arrays)
    with jax.set_mesh(mesh):
        found = losses(*(jax.device_put(a, jax.NamedSharding(mesh, jax.P("a"))) for a in arrays))
    for (value, gradient), (wanted, wanted_gradient) in zip(found, expected, strict=True):
        assert_within(value, wanted, VALUE_EPS_OF_MAX)
        assert_within(gradient, wanted_gradient, GRADIENT_EPS_OF_MAX)


def test_a_positive_number_is_no_log_probability():
    logps = np.array([-1.0, 0.25, -2.0])
    everything, left_out = np.ones(3, bool), logps < 0.0
    message = r"rejected_logps\[1\] is 0.25, above 0, as no log-probability is; 1 of 3 numbers are"

    def loss(rejected, where):
        return make_checked(dpo_loss)(-(logps**2), rejected, *[-(logps**2)] * 2, where=where)

    step = jit(checkify.checkify(jax.value_and_grad(loss)))
    error, result = step(logps, everything)
    assert np.isnan(result[0])
    assert np.isnan(result[1]).tolist() == [False, True, False]
    with pytest.raises(ValueError, match=message):
        error.throw()
    error, result = step(logps, left_out)
    error.throw()
    assert np.isfinite(result[1]).all()
    with pytest.raises(ValueError, match=r"token_logps\[1\] is 0.25, above 0"):
        make_checked(sequence_logps)(logps)
    theirs, given = torch_ref.losses.make_checked(torch_ref.losses.dpo_loss), torch.tensor(logps)
    with pytest.raises(ValueError, match=message):
        theirs(-(given**2), given, *[-(given**2)] * 2)


BAD = [
    ({"beta": 0}, r"beta must be in \(0, inf\); got 0"),
    ({"beta": -0.1}, r"beta must be in \(0, inf\); got -0.1"),
    ({"loss_type": "sigmod"}, r"loss_type must be one of 'sigmoid', .*got 'sigmod'. Did you mean 'sigmoid'?"),
    ({"loss_type": "robust", "label_smoothing": 0.5}, r"label_smoothing must be in \[0, 0.5\); got 0.5"),
    ({"loss_type": "exo_pair"}, r"label_smoothing must be in \(0, 1\); got 0.0"),
    (
        {"loss_type": "ipo", "label_smoothing": 0.1},
        "label_smoothing must be 0 with loss_type='ipo'; got 0.1",
    ),
    ({"loss_type": "aot", "sample_weight": jnp.ones(8)}, r"sample_weight must be None with loss_type='aot'"),
    ({"discopop_tau": 0.0}, r"discopop_tau must be in \(0, inf\)"),
    (
        {"rejected_logps": jnp.zeros(3)},
        r"rejected_logps must have shape \[8\], that of chosen_logps",
    ),
    ({"where": jnp.ones(3, bool)}, r"where must have shape \[8\], that of chosen_logps"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        dpo_loss(**({name: jnp.asarray(a) for name, a in LOGPS.items()} | change))


def test_bad_tokens_are_named():
    with pytest.raises(ValueError, match=r"token_logps must have shape \[..., T\]; got float"):
        sequence_logps(jnp.float32(-1.0))
    with pytest.raises(TypeError, match="average must be True or False; got 'mean'"):
        sequence_logps(jnp.zeros(2), average="mean")
