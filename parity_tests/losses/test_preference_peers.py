"""The trainers that the losses are known from, TRL's and Liger-Kernel's own code, on the CPU.

Their losses stand in methods of trainers, which are called with what they read of a trainer and a model. They
round some numbers to float32, which the values' tolerance allows for; gradients are compared in float64.
"""

import collections
import importlib
import os
import warnings
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxloss import (
    bradley_terry_loss,
    cpo_loss,
    dpo_loss,
    kto_loss,
    linear_sequence_logps,
    orpo_loss,
    simpo_loss,
)
from jaxloss.losses._preference import SMOOTHED, VARIANTS
from parity_tests.compare import assert_within
from parity_tests.losses.promises import compiled
from parity_tests.tolerances import GRADIENT_EPS_OF_MAX, VALUE_EPS_OF_MAX

rng = np.random.default_rng(0)
CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED = -rng.uniform(0.1, 9.0, (4, 6))
BETA, SMOOTHING, TAU = 0.5, 0.125, 0.25


def _import(module):
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(module)
        except ImportError as error:
            pytest.skip(f"cannot import {module}: {error}; `make test` installs it")


def _trainer(**attributes):
    """What the methods read of a trainer."""
    accelerator = SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x)
    return SimpleNamespace(
        model=SimpleNamespace(training=False),
        accelerator=accelerator,
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        beta=BETA,
        label_smoothing=SMOOTHING,
        _total_train_tokens=0,
        _metrics=collections.defaultdict(lambda: collections.defaultdict(list)),
        **attributes,
    )


def _outputs(logps):
    """What a model says of sequences of one token after the prompt's."""
    one = torch.zeros(len(logps), 1)
    return SimpleNamespace(log_probs=logps[:, None], entropy=one, mean_logits=one, is_top1=one.bool())


def _tensors(*arrays):
    return [torch.tensor(array, requires_grad=True) for array in arrays]


def _assert_same_loss(theirs, tensors, ours, *arrays, gradient_dtype="float64", what=""):
    """The loss of `arrays`, as a function of them, has the value of theirs, and its gradients."""
    value, gradients = compiled(jax.value_and_grad(ours, tuple(range(len(arrays)))))(*arrays)
    assert_within(value, theirs, VALUE_EPS_OF_MAX, "float32", what=what)
    for ours_of, theirs_of in zip(gradients, torch.autograd.grad(theirs, tensors), strict=True):
        assert_within(ours_of, theirs_of, GRADIENT_EPS_OF_MAX, gradient_dtype, what=what)


@pytest.mark.parametrize("loss_type", VARIANTS)
def test_dpo_is_trls(loss_type):
    trl = _import("trl.trainer.dpo_trainer")
    trainer = _trainer(
        loss_types=[loss_type],
        loss_weights=[1.0],
        f_divergence_type="reverse_kl",
        ld_alpha=None,
        use_weighting=False,
        args=SimpleNamespace(discopop_tau=TAU),
    )
    tokens, mask = torch.zeros(12, 2, dtype=torch.int64), torch.tensor([[0, 1]] * 12)
    inputs = {"input_ids": tokens, "attention_mask": mask, "completion_mask": mask}
    inputs |= {"ref_chosen_logps": torch.tensor(REF_CHOSEN), "ref_rejected_logps": torch.tensor(REF_REJECTED)}
    tensors = _tensors(CHOSEN, REJECTED)
    outputs = _outputs(torch.cat(tensors))
    theirs = trl.DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, False)
    # TRL's "sigmoid" has no smoothing any more.
    smoothing = SMOOTHING if loss_type in SMOOTHED and loss_type != "sigmoid" else 0.0
    options = {"beta": BETA, "loss_type": loss_type, "label_smoothing": smoothing, "discopop_tau": TAU}

    def ours(*logps):
        return dpo_loss(*logps, jnp.asarray(REF_CHOSEN), jnp.asarray(REF_REJECTED), **options)

    # TRL takes the logarithms of the smoothing in float32.
    dtype = "float32" if loss_type == "exo_pair" else "float64"
    _assert_same_loss(theirs, tensors, ours, CHOSEN, REJECTED, gradient_dtype=dtype)


@pytest.mark.parametrize(
    ("loss_type", "ours"),
    [
        ("sigmoid", partial(cpo_loss, beta=BETA, label_smoothing=SMOOTHING, nll_weight=0.0)),
        ("simpo", partial(simpo_loss, beta=BETA, gamma=0.75, label_smoothing=SMOOTHING)),
    ],
)
def test_cpo_and_simpo_are_trls(loss_type, ours):
    trl = _import("trl.experimental.cpo")
    trainer, tensors = _trainer(loss_type=loss_type, alpha=0.0, simpo_gamma=0.75), _tensors(CHOSEN, REJECTED)
    theirs = trl.CPOTrainer.cpo_loss(trainer, *tensors)[0].mean()
    _assert_same_loss(theirs, tensors, ours, CHOSEN, REJECTED)


def test_orpo_is_trls():
    trl = _import("trl.experimental.orpo")
    tensors = _tensors(CHOSEN, REJECTED)
    theirs = -trl.ORPOTrainer.odds_ratio_loss(_trainer(), *tensors)[0].mean()
    ours = partial(orpo_loss, beta=BETA, nll_weight=0.0)
    # TRL takes the odds in float32.
    _assert_same_loss(theirs, tensors, ours, CHOSEN, REJECTED, gradient_dtype="float32")


def test_kto_is_trls():
    trl = _import("trl.trainer.kto_trainer")
    trainer = _trainer(calculate_KL=True, loss_type="kto", desirable_weight=1.5, undesirable_weight=0.5)
    kinds, tokens, mask = np.arange(6) < 2, torch.zeros(6, 2, dtype=torch.int64), torch.tensor([[0, 1]] * 6)
    batch = {"label": torch.tensor(kinds), "input_ids": tokens, "KL_input_ids": tokens + 1}
    batch |= dict.fromkeys(
        ("attention_mask", "completion_mask", "KL_attention_mask", "KL_completion_mask"), mask
    )
    batch |= {"ref_logps": torch.tensor(REF_CHOSEN), "ref_KL_logps": torch.tensor(REJECTED - 1.25)}
    (logps,) = _tensors(CHOSEN)
    others = torch.tensor(REJECTED)

    def model(input_ids, **_):
        return _outputs(others if input_ids.any() else logps)

    trainer._compute_kl_logps = partial(trl.KTOTrainer._compute_kl_logps, trainer)
    theirs = trl.KTOTrainer._compute_loss(trainer, model, batch, False)
    options = {"beta": BETA, "desirable_weight": 1.5, "undesirable_weight": 0.5}

    def ours(logps):
        return kto_loss(logps, jnp.asarray(REF_CHOSEN), jnp.asarray(kinds), 1.25, **options)

    _assert_same_loss(theirs, [logps], ours, CHOSEN)


@pytest.mark.parametrize("coefficient", [None, 0.125])
def test_the_reward_models_loss_is_trls(coefficient):
    trl = _import("trl.trainer.reward_trainer")
    tensors, margin = _tensors(CHOSEN, REJECTED), rng.uniform(size=6)
    outputs = SimpleNamespace(logits=torch.cat(tensors)[:, None])
    trainer = _trainer(args=SimpleNamespace(center_rewards_coefficient=coefficient))
    inputs = {"margin": torch.tensor(margin)}
    theirs = trl.RewardTrainer.compute_loss(trainer, lambda **_: outputs, inputs)
    options = {"margin": jnp.asarray(margin), "center_rewards_coefficient": coefficient or 0.0}
    _assert_same_loss(theirs, tensors, partial(bradley_terry_loss, **options), CHOSEN, REJECTED)


HIDDEN, HEAD = rng.standard_normal((2, 4, 5, 3)), rng.standard_normal((2, 7, 3))
LABELS = rng.integers(0, 7, (4, 5))
LABELS[1:, :2] = -100
# The name of Liger's function; whether it averages; and the loss.
LIGER = {
    "dpo": (False, partial(dpo_loss, beta=BETA)),
    "cpo": (False, partial(cpo_loss, beta=BETA, nll_weight=0.0)),
    "simpo": (True, partial(simpo_loss, beta=BETA, gamma=0.75)),
    "orpo": (True, partial(orpo_loss, beta=BETA, nll_weight=0.0)),
}


@pytest.mark.parametrize("name", LIGER)
def test_losses_of_hidden_states_are_ligers(name):
    liger = _import("liger_kernel.chunked_loss")
    average, loss = LIGER[name]
    make = {"dpo": liger.LigerFusedLinearDPOLoss, "cpo": liger.LigerFusedLinearCPOLoss}
    make |= {"simpo": liger.LigerFusedLinearSimPOLoss, "orpo": liger.LigerFusedLinearORPOLoss}
    options = {"gamma": 0.75} if name == "simpo" else {}
    chunked = make[name](beta=BETA, compute_nll_loss=False, compiled=False, **options)
    hidden, head = _tensors(HIDDEN[0], HEAD[0])
    reference = {}
    if name == "dpo":
        reference = {"ref_input": torch.tensor(HIDDEN[1]), "ref_weight": torch.tensor(HEAD[1])}
    theirs = chunked(head, hidden, torch.tensor(LABELS), **reference)[0]

    def ours(*heads):
        logps = linear_sequence_logps(*heads, LABELS, average=average)
        of_reference = linear_sequence_logps(*map(jnp.asarray, (HIDDEN[1], HEAD[1])), LABELS)
        return loss(*jnp.split(logps, 2), *(jnp.split(of_reference, 2) if name == "dpo" else ()))

    # Liger takes the softmax in float32.
    _assert_same_loss(theirs, [hidden, head], ours, HIDDEN[0], HEAD[0], gradient_dtype="float32")
