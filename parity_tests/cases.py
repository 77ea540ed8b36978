"""What each public loss is called with in tests of all losses, in the report, and on several devices.

A loss without an entry here fails a test.

Shapes: N examples, C classes, B batch, T time, V vocabulary, D width. Sizes are even, so that two devices
    can share every axis; those of a sample's axes differ, so that a size tells which axis of another array
    belongs to them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxloss.testing import (
    booleans,
    grid,
    integers,
    log_probabilities,
    normal,
    probabilities,
    signs,
    uniform,
)
from jaxloss.testing.inputs import draw_inputs


@dataclass(frozen=True)
class Sample:
    """Inputs of a loss.

    Args:
        inputs: positional arguments, as `assert_parity` takes them.
        options: keyword arguments that are settings.
        wrt: see `assert_parity`.
        case: added to the loss's name where it has several samples.
        dtypes: to compare in, where torch has not implemented all of them.
        make: from the losses of either framework to the function to compare, where the public name makes one.
    """

    inputs: Sequence[Any]
    options: dict[str, Any] = field(default_factory=dict)
    wrt: tuple[int, ...] | None = None
    case: str = ""
    dtypes: tuple[str, ...] | None = None
    make: Callable[[Any], Callable[..., Any]] | None = None

    def loss(self, name: str, side: Any, **options: Any) -> Callable[..., Any]:
        """The loss as either framework has it, with the options filled in."""
        loss = getattr(side, name) if self.make is None else self.make(side)
        return partial(loss, **self.options, **options)

    def arguments(self, dtype: str = "float64") -> list[Any]:
        """The inputs as arrays of JAX, floating point in `dtype`; settings among them as they are."""

        def as_jax(leaf: Any) -> Any:
            is_array = isinstance(leaf, np.ndarray)
            return jnp.asarray(leaf, dtype if leaf.dtype.kind == "f" else None) if is_array else leaf

        return jax.tree.map(as_jax, list(draw_inputs(tuple(self.inputs), seed=0)))


def _ignored(rng):
    labels = rng.integers(0, 6, 12, dtype=np.int32)
    labels[::4] = -100
    return labels


def _counts(rng):
    return rng.poisson(2.0, (4, 6)).astype(np.float64)


def _sets(rng):
    """Neither empty nor full."""
    return np.concatenate([rng.random((12, 4)) < 0.5, np.ones((12, 1), bool), np.zeros((12, 1), bool)], 1)


def _label_sets(rng):
    """Labels in any order, then -1."""
    sets = np.full((4, 6), -1, np.int32)
    for row, count in zip(sets, rng.integers(1, 6, 4), strict=True):
        row[:count] = rng.permutation(6)[:count]
    return sets


_logits, _labels = normal(12, 6), integers(12, high=6)
_real = [normal(4, 6), normal(4, 6)]
_margins = [normal(20), signs(20)]
_class_weight = np.array([0.5, 1.1, 2.0, 1.7, 0.25, 1.3])
_top_k = [
    lambda rng: np.log(rng.dirichlet(np.ones(5), 12)[:, :4]),
    lambda rng: np.argsort(rng.random((12, 6)), 1)[:, :4],
]
_token_logps = [lambda rng: -rng.exponential(1.0, (2, 6)), lambda rng: -rng.exponential(1.0, (2, 6))]
_policy = [*_token_logps, normal(2)]
_terms = {"mse": 0.25, "l1": 2.0}
_hidden, _head, _tokens = normal(2, 6, 4), normal(8, 4), integers(2, 6, high=8)
_logps = [uniform(12, low=-6.0, high=-0.1)] * 2
_heads = [normal(12, 4), normal(8, 4), normal(12, 6), normal(8, 6)]


def _hybrid(losses):
    return losses.make_hybrid_loss({"mse": losses.mse_loss, "l1": losses.l1_loss}, _terms)


def _packed(losses):
    def mean_of_sequences(loss, where, ids, **options):
        return losses.aggregate(loss, where, mode="seq-mean-token-mean", segment_ids=ids, **options)

    return mean_of_sequences


def _uncertainty_weighted(losses):
    loss = losses.make_uncertainty_weighted_loss(
        {"mse": losses.mse_loss, "l1": losses.l1_loss}, {"mse": "gaussian", "l1": "softmax"}
    )
    return lambda y_hat, y, log_variances: loss(y_hat, y, log_variances)


def _squared_error(losses):
    return losses.make_linear_loss(lambda z, target, scale=1.0: scale * ((z - target) ** 2).mean(-1))


def _squared_gap(losses):
    def of_pairs(chosen, rejected, *, margin=0.0, reduction):
        return (chosen - rejected - margin) ** 2

    return losses.make_linear_preference_loss(of_pairs)


def _ctc_of_logits(losses):
    """From logits: torch's gradient to log-probabilities is right only after a log-softmax."""
    is_jax = losses.__name__.startswith("jaxloss")

    def loss(logits, *rest, **options):
        log_softmax = jax.nn.log_softmax if is_jax else torch.nn.LogSoftmax(-1)
        return losses.ctc_loss(log_softmax(logits), *rest, **options)

    return loss


# Where torch has no kernel for bfloat16 on the CPU.
_NO_BFLOAT16 = ("float64", "float32")

_MIXED = {"divergence": "jensen_shannon", "beta": 0.25}

CASES: dict[str, list[Sample]] = {
    "aggregate": [
        Sample([normal(4, 6)]),
        # Of odd length: the sum over sequences that are cut is no sum.
        Sample([normal(4, 5), booleans(4, 5), integers(4, 5, high=2)], case="packed", make=_packed),
        Sample([normal(4, 5)], {"mode": "seq-mean-token-sum-norm", "max_length": 8}, case="fixed length"),
    ],
    "bco_loss": [Sample([*_logps, booleans(12), np.array(0.3)], wrt=(0,))],
    "binary_cross_entropy": [
        Sample([uniform(4, 6, low=0.05, high=0.95), uniform(4, 6), uniform(6)], wrt=(0,))
    ],
    "binary_cross_entropy_with_logits": [
        Sample([normal(4, 6), uniform(4, 6), uniform(4, 6), "mean", uniform(6)], wrt=(0, 1))
    ],
    "bradley_terry_loss": [Sample([normal(12), normal(12)], {"center_rewards_coefficient": 0.01})],
    "cispo_loss": [Sample(_policy, wrt=(0,))],
    "clipped_policy_loss": [
        Sample(_policy, {"dual_clip": 3.0}, wrt=(0,)),
        Sample([*_token_logps, normal(2, 6)], {"level": "sequence_token"}, wrt=(0,), case="GSPO-token"),
        Sample(_policy, {"level": "sequence"}, wrt=(0,), case="GSPO"),
    ],
    "clipped_value_loss": [Sample([normal(4, 6), normal(4, 6), normal(4, 6)], wrt=(0,))],
    "correlation_loss": [Sample(_real)],
    "cosine_embedding_loss": [Sample([normal(4, 6), normal(4, 6), signs(4)], wrt=(0, 1))],
    "cpo_loss": [Sample(_logps)],
    "cross_entropy": [
        Sample([_logits, _labels]),
        Sample([_logits, _ignored, _class_weight], wrt=(0,), case="weights, ignored labels"),
        Sample([_logits, _labels], {"label_smoothing": 0.1}, case="smoothing"),
        Sample([_logits, probabilities(12, 6)], case="probabilities"),
        Sample([normal(12, 6, scale=0.02), _labels], case="near-uniform"),
    ],
    "ctc_loss": [
        Sample(
            [
                normal(8, 2, 6),
                integers(2, 3, low=1, high=6),
                np.array([8, 6]),
                np.array([3, 2]),
            ],
            dtypes=_NO_BFLOAT16,
            make=_ctc_of_logits,
        )
    ],
    "distillation_loss": [
        Sample([_logits, normal(12, 6), _labels], _MIXED | {"hard_weight": 0.25}, wrt=(0,)),
    ],
    "dpo_loss": [
        Sample([*_logps, *_logps], {"loss_type": "discopop", "discopop_tau": 0.5}, (0, 1), "discopop"),
        Sample([*_logps, *_logps], {"label_smoothing": 0.1}, (0, 1)),
    ],
    "entropy_loss": [Sample([_logits])],
    "final_token_loss": [Sample([normal(2, 4, 6), integers(2, 4, high=6)])],
    "focal_loss": [Sample([_logits, _labels])],
    "forward_kl_div": [Sample(_real)],
    "gaussian_nll_loss": [Sample([normal(4, 6), normal(4, 6), uniform(4, low=0.1, high=2.0)])],
    "group_gap_penalty": [Sample([normal(20), integers(20, high=3), 3])],
    "hinge_embedding_loss": [Sample(_margins, wrt=(0,))],
    "huber_loss": [Sample([*_real, "mean", 0.5, uniform(4, 6)])],
    "jensen_shannon_div": [Sample(_real)],
    "kl_div": [
        Sample([log_probabilities(12, 6), probabilities(12, 6)], {"reduction": "batchmean"}),
        Sample([log_probabilities(12, 6), log_probabilities(12, 6)], {"log_target": True}, case="log target"),
    ],
    "kto_loss": [Sample([*_logps, booleans(12), np.array(0.3)], wrt=(0,))],
    "l1_loss": [Sample(_real), Sample([grid(40), grid(40), "none", uniform(40)], case="ties, weights")],
    "make_hybrid_loss": [Sample(_real, make=_hybrid)],
    "make_uncertainty_weighted_loss": [
        Sample([*_real, {"mse": np.array(0.3), "l1": np.array(-0.2)}], make=_uncertainty_weighted)
    ],
    "margin_ranking_loss": [Sample([normal(20), normal(20), signs(20)], wrt=(0, 1))],
    "mse_loss": [Sample(_real), Sample([*_real, "none"], case="none")],
    "multi_margin_loss": [Sample([_logits, _labels, 2], dtypes=_NO_BFLOAT16)],
    "multilabel_margin_loss": [Sample([normal(4, 6), _label_sets], dtypes=_NO_BFLOAT16)],
    "multilabel_soft_margin_loss": [Sample([normal(4, 6), uniform(4, 6), uniform(6)], wrt=(0, 1))],
    "next_token_loss": [
        Sample([normal(2, 4, 6), integers(2, 4, high=6)]),
        Sample([normal(2, 4, 6), integers(2, 4, high=6)], {"reduction": "sum"}, case="sum"),
    ],
    "nll_loss": [Sample([log_probabilities(12, 6), _ignored, _class_weight], wrt=(0,))],
    "orpo_loss": [Sample(_logps)],
    "poisson_nll_loss": [Sample([uniform(4, 6, low=0.1, high=3.0), _counts, False, True], wrt=(0,))],
    "poly_loss": [Sample([_logits, _labels])],
    "reverse_kl_div": [Sample(_real)],
    "sampled_kl_div": [Sample(_token_logps, wrt=(0,))],
    "sapo_loss": [Sample(_policy, wrt=(0,))],
    "sigmoid_focal_loss": [
        Sample([normal(4, 6), lambda rng: booleans(4, 6)(rng).astype(np.float64)], wrt=(0,))
    ],
    "simpo_loss": [Sample(_logps)],
    "smooth_l1_loss": [Sample([*_real, "mean", 0.5])],
    "soft_margin_loss": [Sample(_margins, wrt=(0,))],
    "token_set_loss": [
        Sample([_logits, np.array([True, False, True, False, False, False])]),
        Sample([_logits, _sets], case="a set for each row"),
    ],
    "top_k_distillation_loss": [
        Sample([_logits, *_top_k], wrt=(0,)),
        Sample([_logits, *_top_k], {"tail": "drop"}, wrt=(0,), case="drop"),
        Sample(
            [_logits, *_top_k],
            {"tail": "renormalise", "divergence": "reverse_kl"},
            wrt=(0,),
            case="renormalise",
        ),
    ],
    "total_variation_div": [Sample(_real)],
    "triplet_margin_loss": [Sample([normal(4, 6), normal(4, 6), normal(4, 6)])],
    "triplet_margin_with_distance_loss": [Sample([normal(4, 6), normal(4, 6), normal(4, 6)])],
    "unlikelihood_loss": [Sample([_logits, integers(12, 2, high=6)])],
    "z_loss": [Sample([_logits])],
    "linear_cross_entropy": [
        Sample([normal(12, 4), normal(8, 4), _labels]),
        Sample([normal(12, 4), normal(8, 4), _labels], {"z_loss": 1e-2, "logit_scale": 0.5}, case="z-loss"),
    ],
    "linear_distillation_loss": [
        Sample([*_heads, integers(12, high=8)], _MIXED | {"hard_weight": 0.25}, wrt=(0, 1)),
    ],
    "linear_final_token_loss": [Sample([_hidden, _head, _tokens])],
    "linear_kl_div": [Sample(_heads, _MIXED, wrt=(0, 1))],
    "linear_log_prob": [Sample([normal(12, 4), normal(8, 4), _labels])],
    "linear_next_token_loss": [Sample([_hidden, _head, _tokens])],
    "linear_sequence_logps": [Sample([_hidden, _head, _tokens], {"average": True})],
    "make_linear_loss": [
        Sample([normal(12, 4), normal(8, 4), normal(12, 8)], {"scale": 0.3}, make=_squared_error)
    ],
    "make_linear_preference_loss": [Sample([_hidden, _head, _tokens], {"margin": 0.3}, make=_squared_gap)],
}

# Public names that are not losses, with the reason.
NOT_LOSSES = {
    "PolicyStatistics": "what the policy losses return besides",
    "TokenStatistics": "what linear_cross_entropy returns besides",
    "accumulated_value_and_grad": "sums over the parts of a batch",
    "group_advantages": "constants for the policy losses",
    "init_log_variances": "starting values",
    "make_checked": "the loss itself, with errors for labels out of range",
    "previous_tokens": "labels for unlikelihood_loss",
    "sequence_logps": "what preference losses take",
    "truncated_importance_weights": "constants for the policy losses",
}
