"""The policy losses and GKD's divergence against Liger-Kernel's and TRL's: the same, written by others.

TRL's is a method of its trainer, of which a stand-in has what that method reads.
"""

import warnings
from collections import defaultdict
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxloss.fused import linear_log_prob
from jaxloss.losses import cispo_loss, clipped_policy_loss, jensen_shannon_div, sampled_kl_div, sapo_loss
from parity_tests.compare import assert_within
from parity_tests.losses.promises import compiled
from parity_tests.tolerances import GRADIENT_EPS_OF_MAX, VALUE_EPS_OF_MAX

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    liger = pytest.importorskip("liger_kernel.chunked_loss.grpo_loss", reason="liger-kernel is not installed")

B, T, D, V, BETA, LENGTH = 4, 6, 8, 12, 0.1, 10
rng = np.random.default_rng(0)
HIDDEN, HEAD = rng.standard_normal((B, T, D)), rng.standard_normal((V, D))
TOKENS, ADVANTAGES = rng.integers(0, V, (B, T)), rng.standard_normal(B)
LENGTHS = np.array([6.0, 1.0, 4.0, 5.0])
MASK = np.arange(T) < LENGTHS[:, None]


LOGPS = np.asarray(linear_log_prob(HIDDEN, HEAD, TOKENS))
OLD_LOGPS, REF_LOGPS = (np.minimum(LOGPS + rng.uniform(-0.5, 0.5, (B, T)), 0.0) for _ in range(2))


def sequence_mean(losses):
    return jnp.mean(losses.sum(1) / LENGTHS)


def token_mean(losses):
    return jnp.sum(losses) / LENGTHS.sum()


def fixed_length(losses):
    return jnp.sum(losses) / (B * LENGTH)


clipped = partial(clipped_policy_loss, clip_high=0.28)
sequence = {"importance_sampling_level": "sequence"}
# Liger's settings; the same loss and mean of ours.
VARIANTS = {
    "grpo": ({"loss_type": "grpo"}, clipped, sequence_mean),
    "bnpo": ({"loss_type": "bnpo"}, clipped, token_mean),
    "dr_grpo": ({"loss_type": "dr_grpo", "max_completion_length": LENGTH}, clipped, fixed_length),
    "dapo": ({"loss_type": "dapo"}, clipped, token_mean),
    "dual clip": ({"loss_type": "grpo", "delta": 1.3}, partial(clipped, dual_clip=1.3), sequence_mean),
    "gspo": ({"loss_type": "grpo"} | sequence, partial(clipped, level="sequence"), sequence_mean),
    "gspo-token": ({"loss_type": "grpo"} | sequence, partial(clipped, level="sequence_token"), sequence_mean),
    "cispo": ({"loss_type": "cispo", "epsilon_high": 1.2}, partial(cispo_loss, clip_high=0.2), token_mean),
    # A temperature that float32 holds, in which TRL has it.
    "sapo": (
        {"loss_type": "sapo", "sapo_temperature_neg": 1.25},
        partial(sapo_loss, negative_temperature=1.25),
        sequence_mean,
    ),
}


SETTINGS = {"epsilon_low": 0.2, "epsilon_high": 0.28, "beta": BETA}


def objective(name, logps):
    """Ours, and the share of tokens that are clipped."""
    _, policy_loss, mean = VARIANTS[name]
    options = {"reduction": "none", "where": MASK}
    losses, statistics = policy_loss(logps, OLD_LOGPS, ADVANTAGES, return_statistics=True, **options)
    loss = mean(losses + BETA * sampled_kl_div(logps, REF_LOGPS, **options))
    return loss, token_mean(statistics.is_clipped.astype(loss.dtype))


@pytest.fixture(scope="module")
def ours():
    """Of each variant the value, the share of clipped tokens, and the gradient."""
    both = {name: jax.value_and_grad(partial(objective, name), has_aux=True) for name in VARIANTS}
    return compiled(lambda logps: {name: run(logps) for name, run in both.items()})(LOGPS)


@pytest.mark.parametrize("name", VARIANTS)
def test_value_gradient_and_clip_fraction_are_ligers(name, ours):
    (value, clipped), gradient = ours[name]
    old_logps, ref_logps, mask, logps = map(torch.tensor, (OLD_LOGPS, REF_LOGPS, MASK * 1.0, LOGPS))
    expected, (_, expected_clipped) = liger.LigerFusedLinearGRPOFunction.ppo_loss_fn(
        logps.requires_grad_(),
        mask,
        torch.tensor(ADVANTAGES),
        mask,
        ref_per_token_logps=ref_logps,
        old_per_token_logps=old_logps,
        **SETTINGS | VARIANTS[name][0],
    )
    assert_within(value, expected.detach(), VALUE_EPS_OF_MAX)
    assert_within(gradient, torch.autograd.grad(expected, logps)[0], GRADIENT_EPS_OF_MAX)
    if name not in ("cispo", "dual clip"):  # of which it counts some only
        assert_within(clipped, expected_clipped, VALUE_EPS_OF_MAX)


@pytest.mark.parametrize("name", VARIANTS)
def test_value_and_gradient_are_trls(name, ours):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trl = pytest.importorskip("trl.trainer.grpo_trainer", reason="trl is not installed")
    logps, settings = torch.tensor(LOGPS, requires_grad=True), SETTINGS | VARIANTS[name][0]
    arguments = {"delta": None, "use_bias_correction_kl": False, "steps_per_generation": 1}
    arguments |= {"sapo_temperature_pos": 1.0} | settings
    absent = ["aux_loss_enabled", "use_vllm", "_entropy_bonus_enabled"]
    trainer = SimpleNamespace(
        **{"importance_sampling_level": "token"} | settings | dict.fromkeys(absent, False),
        args=SimpleNamespace(**arguments),
        accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
        model=SimpleNamespace(training=True),
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        current_gradient_accumulation_steps=1,
        _get_per_token_logps_and_entropies=lambda *args, **options: (logps, torch.zeros(B, T), None),
        _metrics={"train": defaultdict(list)},
    )
    tokens = {name: torch.tensor(TOKENS) for name in ("prompt_ids", "completion_ids")}
    arrays = {"old_per_token_logps": OLD_LOGPS, "ref_per_token_logps": REF_LOGPS, "advantages": ADVANTAGES}
    arrays |= {"prompt_mask": MASK * 1, "completion_mask": MASK * 1, "num_items_in_batch": LENGTHS.sum()}
    inputs = tokens | {name: torch.tensor(array) for name, array in arrays.items()}
    expected = trl.GRPOTrainer._compute_loss(trainer, None, inputs)
    (value, _), gradient = ours[name]
    assert_within(value, expected.detach(), VALUE_EPS_OF_MAX)
    assert_within(gradient, torch.autograd.grad(expected, logps)[0], GRADIENT_EPS_OF_MAX)


def test_from_hidden_states_to_gradients_is_as_ligers():
    def loss(hidden, head):
        return objective("grpo", linear_log_prob(hidden, head, TOKENS, where=MASK))[0]

    value, gradients = compiled(jax.value_and_grad(loss, (0, 1)))(HIDDEN, HEAD)
    hidden, head = (torch.tensor(array, requires_grad=True) for array in (HIDDEN, HEAD))
    peer = liger.LigerFusedLinearGRPOLoss(compiled=False, **SETTINGS | VARIANTS["grpo"][0])
    per_token = {
        "ref_per_token_logps": torch.tensor(REF_LOGPS),
        "old_per_token_logps": torch.tensor(OLD_LOGPS),
    }
    expected, _ = peer(
        hidden, head, torch.tensor(TOKENS), torch.tensor(MASK), torch.tensor(ADVANTAGES), **per_token
    )
    # Its head computes in float32, whatever comes in.
    assert_within(value, expected.detach(), VALUE_EPS_OF_MAX, "float32")
    for found, wanted in zip(gradients, torch.autograd.grad(expected, (hidden, head)), strict=True):
        assert_within(found, wanted, GRADIENT_EPS_OF_MAX, "float32")


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 1.0])
def test_generalised_jensen_shannon_is_trls(beta):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trl = pytest.importorskip("trl.experimental.gkd.gkd_trainer", reason="trl is not installed")
    student, teacher = torch.tensor(HIDDEN, requires_grad=True), torch.tensor(HIDDEN[::-1].copy())
    expected = trl.GKDTrainer.generalized_jsd_loss(student, teacher, beta=beta, reduction="sum")
    loss = partial(jensen_shannon_div, beta=beta, reduction="sum")
    value, gradient = compiled(jax.value_and_grad(loss))(HIDDEN, HIDDEN[::-1])
    assert_within(value, expected.detach(), VALUE_EPS_OF_MAX)
    assert_within(gradient, torch.autograd.grad(expected, student)[0], GRADIENT_EPS_OF_MAX)
