"""Hessians of every loss within 64 ULP of their largest entry, against mpmath, where they would cancel.

A confident row's is of the size of `p (1 - p)`, which in float32 is 0 as written from a lead of 17.
"""

from itertools import product

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from jaxloss import losses
from parity_tests.cases import CASES
from parity_tests.compare import assert_within
from parity_tests.losses.formulas import (
    correlation,
    cosine,
    ctc,
    distance,
    jensen_shannon,
    log_gamma,
    logistic,
    nll,
    of_probabilities,
    total,
    total_variation,
)
from parity_tests.losses.oracle import (
    divergence,
    hessian,
    log_sum_exp,
    odds_ratio_loss,
    sigmoid,
    softmax,
    softplus,
)
from parity_tests.losses.promises import compiled
from parity_tests.tolerances import EPS, GRADIENT_EPS_OF_MAX

LEADS = [[0.01, -0.02, 0.005], [20, 0, -1], [0, 1, 20], [80, 0, 1], [2, 2, 0], [1020, 1000, 999]]
LEADS += [[0, 30, 10], [30, 10, 0]]
ROWS = [[row] for row in LEADS]
# Of the last pair both are nearly sure of the same.
PAIRS = [[LEADS[i], LEADS[j]] for i, j in [(0, 1), (1, 0), (1, 2), (3, 4), (6, 1), (4, 6)]]
PAIRS += [[[20, 0, -1], [20.5, 0, -1]]]
SOFT = [[row, p] for row, p in product(LEADS[:4], ([0.75, 0.25, 0], [1, 0, 0]))]
LOGITS = [[[x], [y]] for x, y in product((20, -20, 80, 0.5), (1, 0, 0.5))]
VECTORS = [[[1, 2, 3], [1, 2, 3]], [[1, 0, 0], [0, 1, 0]], [[1e10, 2e10, -1e10], [1e10, 1e9, 0]]]
LOG_PROBS = [[[-0.1, -3, -20]], [[-80, -1e-9, -5]]]
GAPS = [[[x], [y]] for x, y in product((-20, -64, -100.5), (-20, -62, -150))]
FRAMES = [[[0, 20, 1, 1, 0, 20, 20, 0, 1]], [[-1, -2, -9, -20, -10, -1, -3, -2, -0.5]]]


def token_set(mass, members):
    def exact(z):
        p = softmax(z)
        held = total(a for a, is_in in zip(p, members, strict=True) if is_in)
        left = total(a for a, is_in in zip(p, members, strict=True) if not is_in)
        return divergence([mpmath.mpf(mass), mpmath.mpf(1 - mass)], [held, left])

    return lambda x: losses.token_set_loss(x, np.array(members), mass=mass), exact, ROWS


def of_frames(x):
    return losses.ctc_loss(x.reshape(3, 1, 3), np.array([[1, 2]]), (3,), (2,), reduction="sum")


OLD_LOGPS, ADVANTAGES = [-2.0, -1.0, -0.5], [1.0, -1.0, 0.5]
# Near the old policy, with a ratio beyond each bound, and far off.
POLICIES = [[[-1.99, -1.001, -0.5001]], [[-1.0, -3.0, -0.75]], [[-1e-6, -0.5, -40]]]


def policy(name, exact, **options):
    """A loss of the policy alone; `exact` is that of one token: of its ratio and advantage."""

    def loss(x):
        return getattr(losses, name)(
            x, np.float32(OLD_LOGPS), np.float32(ADVANTAGES), reduction="sum", **options
        )

    def summed(x):
        ratios = (mpmath.exp(a - b) for a, b in zip(x, OLD_LOGPS, strict=True))
        return total(exact(r, a) for r, a in zip(ratios, ADVANTAGES, strict=True))

    return loss, summed, POLICIES


def clipped_policy(r, a):
    return -min(r * a, min(max(r, mpmath.mpf("0.8")), mpmath.mpf("1.2")) * a)


def gated(r, a):
    temperature = 1 if a > 0 else mpmath.mpf("1.05")
    return -4 / temperature * a / (1 + mpmath.exp(-temperature * (r - 1)))


# For each loss: as a function of vectors, the same in mpmath, and where.
HESSIANS = {
    "cross_entropy": (lambda x: losses.cross_entropy(x, 0), nll, ROWS),
    "cross_entropy, smoothed": (
        lambda x: losses.cross_entropy(x, 0, label_smoothing=0.75),
        lambda x: (nll(x) * 2 + nll(x, 1) + nll(x, 2)) / 4,
        ROWS,
    ),
    "cross_entropy, soft": (
        losses.cross_entropy,
        lambda x, p: total(a * nll(x, i) for i, a in enumerate(p)),
        SOFT,
    ),
    "focal_loss": (
        lambda x: losses.focal_loss(x, 0),
        lambda x: (1 - softmax(x)[0]) ** 2 * nll(x),
        ROWS,
    ),
    "poly_loss": (lambda x: losses.poly_loss(x, 0), lambda x: 2 * (1 - softmax(x)[0]) + nll(x), ROWS),
    "forward_kl_div": (losses.forward_kl_div, lambda x, y: divergence(softmax(y), softmax(x)), PAIRS),
    "reverse_kl_div": (losses.reverse_kl_div, lambda x, y: divergence(softmax(x), softmax(y)), PAIRS),
    "jensen_shannon_div": (losses.jensen_shannon_div, jensen_shannon, PAIRS),
    "total_variation_div": (losses.total_variation_div, total_variation, PAIRS),
    "distillation_loss": (
        lambda x: losses.distillation_loss(x, jnp.array([2.0, 0, 1], x.dtype), 0, hard_weight=0.25),
        lambda x: 3 * divergence(softmax([1, 0, mpmath.mpf(0.5)]), softmax([a / 2 for a in x])) + nll(x) / 4,
        ROWS,
    ),
    "entropy_loss": (losses.entropy_loss, lambda x: total(a * mpmath.log(a) for a in softmax(x)), ROWS),
    # Its weights of at most 1 are constants.
    "cispo_loss": policy("cispo_loss", lambda r, a: mpmath.log(r) * -a, clip_low=0.0, clip_high=0.0),
    "clipped_policy_loss": policy("clipped_policy_loss", clipped_policy),
    "sapo_loss": policy("sapo_loss", gated),
    "sampled_kl_div": (
        lambda x: losses.sampled_kl_div(x, np.float32(OLD_LOGPS), reduction="sum"),
        lambda x: total(mpmath.expm1(b - a) - (b - a) for a, b in zip(x, OLD_LOGPS, strict=True)),
        POLICIES,
    ),
    "clipped_value_loss": (
        lambda x: losses.clipped_value_loss(
            x, np.float32(OLD_LOGPS), np.float32(ADVANTAGES), reduction="sum"
        ),
        lambda x: total(
            max(v - y, min(max(v, o - mpmath.mpf("0.2")), o + mpmath.mpf("0.2")) - y, key=abs) ** 2 / 2
            for v, o, y in zip(x, OLD_LOGPS, ADVANTAGES, strict=True)
        ),
        POLICIES,
    ),
    "top_k_distillation_loss": (
        lambda x: losses.top_k_distillation_loss(x, np.log(np.float32([0.5, 0.25])), np.array([2, 0])),
        lambda x: divergence([0.25, 0.25, 0.5], softmax(x)),
        ROWS,
    ),
    "z_loss": (losses.z_loss, lambda x: log_sum_exp(x) ** 2, ROWS),
    "unlikelihood_loss": (
        lambda x: losses.unlikelihood_loss(x, np.array([0])),
        lambda x: log_sum_exp(x) - log_sum_exp(x[1:]),
        ROWS,
    ),
    "token_set_loss": token_set(0.25, [True, True, False]),
    "token_set_loss, all": token_set(1.0, [True, False, False]),
    "kl_div": (
        lambda x, p: losses.kl_div(x, p, "sum"),
        lambda x, p: total(b * (mpmath.log(b) - a) for a, b in zip(x, p, strict=True)),
        [[*row, [0.9, 0.1, 1e-9]] for row in LOG_PROBS],
    ),
    "kl_div, log": (
        lambda x, p: losses.kl_div(x, p, "sum", log_target=True),
        lambda x, p: total(mpmath.exp(b) * (b - a) for a, b in zip(x, p, strict=True)),
        [[*x, *p] for x, p in product(LOG_PROBS, LOG_PROBS)],
    ),
    "binary_cross_entropy": (
        losses.binary_cross_entropy,
        of_probabilities,
        [[[p], [y]] for p, y in [(0.5, 1), (1e-6, 0), (1e-6, 1), (1e-6, 0.5), (1 - 2**-20, 0.5)]],
    ),
    "binary_cross_entropy_with_logits": (losses.binary_cross_entropy_with_logits, logistic, LOGITS),
    "multilabel_soft_margin_loss": (losses.multilabel_soft_margin_loss, logistic, LOGITS),
    "sigmoid_focal_loss": (
        lambda x: losses.sigmoid_focal_loss(x, jnp.ones_like(x), alpha=None),
        lambda x: softplus(-x[0]) / (1 + mpmath.exp(x[0])) ** 2,
        [[[20]], [[-20]], [[0.5]]],
    ),
    "soft_margin_loss": (
        losses.soft_margin_loss,
        lambda x, y: softplus(-x[0] * y[0]),
        [[[x], [y]] for x, y in product((20, -20, 80, -80, 0.5), (1, -1))],
    ),
    "mse_loss": (losses.mse_loss, lambda x, y: (x[0] - y[0]) ** 2, [[[1e10], [1]]]),
    "huber_loss": (losses.huber_loss, lambda x, y: (x[0] - y[0]) ** 2 / 2, [[[1e-10], [0]]]),
    "smooth_l1_loss": (losses.smooth_l1_loss, lambda x, y: (x[0] - y[0]) ** 2 / 2, [[[1e-10], [0]]]),
    "gaussian_nll_loss": (
        losses.gaussian_nll_loss,
        lambda x, y, v: (mpmath.log(v[0]) + (x[0] - y[0]) ** 2 / v[0]) / 2,
        [[[1], [2], [v]] for v in (0.5, 1e-5, 1e5)],
    ),
    "poisson_nll_loss": (
        lambda x, y: losses.poisson_nll_loss(x, y, full=True, reduction="sum"),
        log_gamma,
        [[[1, 20, -30], [0, 3, 100]]],
    ),
    "cosine_embedding_loss": (
        lambda a, b: losses.cosine_embedding_loss(a, b, 1),
        lambda a, b: 1 - cosine(a, b),
        VECTORS,
    ),
    "triplet_margin_loss": (
        lambda a, b, c: losses.triplet_margin_loss(a, b, c, margin=10.0),
        lambda a, b, c: distance(a, b) - distance(a, c),
        [[[1, 2, 3], [1.5, 2.5, 3], [2, 2, 2]], [[1, 1, 1], [1e3, 0, 3], [0, 3, 5]]],
    ),
    "bradley_terry_loss": (
        lambda x, y: losses.bradley_terry_loss(x, y, center_rewards_coefficient=2.0**-7),
        lambda x, y: softplus(y[0] - x[0]) + (x[0] + y[0]) ** 2 / 128,
        [[[x], [y]] for x, y in product((20, -20, 0.5), (1, 0))],
    ),
    "dpo_loss": (
        lambda x, y: losses.dpo_loss(x, y, jnp.full_like(x, -64), jnp.full_like(x, -64), beta=0.5),
        lambda x, y: softplus((y[0] - x[0]) / 2),
        GAPS,
    ),
    "cpo_loss": (
        lambda x, y: losses.cpo_loss(x, y, beta=0.5),
        lambda x, y: softplus((y[0] - x[0]) / 2) - x[0],
        GAPS,
    ),
    "simpo_loss": (losses.simpo_loss, lambda x, y: softplus(2 * (y[0] - x[0]) + 0.5), GAPS),
    "orpo_loss": (
        lambda x, y: losses.orpo_loss(x, y, beta=0.5),
        lambda x, y: odds_ratio_loss(x[0], y[0]) / 2 - x[0],
        [[[x], [y]] for x, y in product((-1e-9, -1e-3, -1, -40), (-1e-5, -0.7, -30))],
    ),
    "kto_loss": (
        lambda x: losses.kto_loss(x, jnp.full_like(x, -64), np.array([True]), 0.5, beta=0.5),
        lambda x: sigmoid((0.5 - 64 - x[0]) / 2),
        [[[x]] for x in (-24, -63, -100, -180)],
    ),
    "bco_loss": (
        lambda x: losses.bco_loss(x, jnp.full_like(x, -64), np.array([False]), 0.5, beta=0.5),
        lambda x: softplus((x[0] + 63) / 2),
        [[[x]] for x in (-24, -60, -100, -180)],
    ),
    "correlation_loss": (
        losses.correlation_loss,
        lambda x, y: 1 - correlation(x, y),
        [[[1, 2, 4, 7], [1, 2, 4, 7.001]], [[1001, 1002, 1004, 1003], [1, 5, 3, 2]]],
    ),
    "ctc_loss": (of_frames, ctc, FRAMES),
    "multi_margin_loss": (
        lambda x: losses.multi_margin_loss(x, 0, 2),
        lambda x: total((1 - x[0] + x[c]) ** 2 for c in (1, 2)) / 3,
        [[[1, 2, 3]]],
    ),
    "group_gap_penalty": (
        lambda x: losses.group_gap_penalty(x, np.arange(3), 3, measure="variance"),
        lambda x: total((a - total(x) / 3) ** 2 for a in x) / 3,
        [[[1e5, 1, 2]]],
    ),
}
# These have no second derivative, or are made of the others.
LINEAR = {
    "aggregate",
    "hinge_embedding_loss",
    "l1_loss",
    "margin_ranking_loss",
    "multilabel_margin_loss",
    "nll_loss",
}
COMPOSED = {name for name in CASES if name.startswith(("make_", "linear_"))} | {
    "final_token_loss",
    "next_token_loss",
    "triplet_margin_with_distance_loss",
}


def test_every_loss_is_here():
    assert {name.split(",")[0] for name in HESSIANS} | LINEAR | COMPOSED == set(CASES)


@pytest.mark.parametrize("name", HESSIANS)
def test_hessian(name):
    loss, exact, points = HESSIANS[name]
    arrays = [np.array(column, np.float32) for column in zip(*points, strict=True)]
    second = jax.hessian(loss, tuple(range(len(arrays))))
    blocks = compiled(jax.vmap(second))(*arrays)
    for row, point in enumerate(zip(*arrays, strict=True)):
        truths = hessian(exact, *point)
        for i, j in product(range(len(arrays)), repeat=2):
            truth = truths[i][j]
            # Below the smallest normal number float32 has no relative precision to lose.
            scale = max(np.abs(truth).max(), float(np.finfo(np.float32).tiny) / EPS["float32"])
            what = f"{[v.tolist() for v in point]}, {i}, {j}"
            assert_within(blocks[i][j][row], truth, GRADIENT_EPS_OF_MAX, "float32", scale, what)


def test_curvature_at_probabilities_of_0_and_1():
    curvature = jax.vmap(jax.hessian(losses.binary_cross_entropy, (0, 1)))
    of_input, *others = jax.tree.leaves(curvature(jnp.array([0.0, 1, 0, 1]), jnp.array([0.0, 1, 1, 0])))
    assert of_input[:2].tolist() == [1, 1]
    assert jnp.isfinite(jnp.array([of_input, *others])).all()
