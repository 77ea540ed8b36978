"""Where a domain ends, a factor of exactly 0 meets an infinite derivative: it must not make NaN.

Every loss at every boundary value, with arguments that are the softmax or sigmoid of something, as in use.
"""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloss import losses
from jaxloss.losses._preference import SMOOTHED
from parity_tests.cases import CASES
from parity_tests.compare import assert_same, assert_within
from parity_tests.losses.promises import compiled
from parity_tests.tolerances import GRADIENT_EPS_OF_MAX

INF = np.inf
# What an infinity is the limit of.
FAR = 1e4


def plain(x):
    return x


def crossed(*columns):
    """All combinations of the columns' vectors."""
    return [np.array(column, np.float64) for column in zip(*product(*columns), strict=True)]


ROWS = [[-INF, 0, 1], [-INF, 1, -INF], [2, 1, 0]]
SCORES, SIGNS, REALS = [[-INF], [0], [INF]], [[-INF], [INF]], [[0.0], [1.0]]
VECTORS = [[0, 0], [1, 2]]
LOGPS, BETA = [[-INF], [-1], [0]], [[0.5]]
KINDS = np.array([[True], [False]])


def dpo(smoothing, *loss_types):
    """The sum of DPO's variants, as a function of all log-probabilities and beta."""

    def loss(*arrays):
        kinds = ((kind, smoothing if kind in SMOOTHED else 0.0) for kind in loss_types)
        return sum(
            losses.dpo_loss(*arrays[:4], beta=arrays[4][0], loss_type=kind, label_smoothing=epsilon)
            for kind, epsilon in kinds
        )

    return loss


# Of the token that was sampled, and could not be any more; it could when it was.
POLICY = [[-INF, 0], [0, INF], [2, 0]], [[0, 1], [INF, 0]], [[1, -1], [0, 0]]
# For each loss: as a function of vectors, what each argument is made by, and from which vectors.
BOUNDARIES = {
    "cross_entropy": (lambda x, w: losses.cross_entropy(x, 1, w, reduction="sum"), "- -", ROWS, [[1, 1, 1]]),
    "cross_entropy, soft": (losses.cross_entropy, "- softmax -", ROWS, ROWS, [[1, 1, 1]]),
    "nll_loss": (lambda x: losses.nll_loss(x, 1), "log_softmax", ROWS),
    "focal_loss": (lambda x: losses.focal_loss(x, 1, gamma=0.5), "-", ROWS),
    "poly_loss": (lambda x, e: losses.poly_loss(x, 1, epsilon=e), "- -", ROWS, [[1, 2]]),
    "z_loss": (losses.z_loss, "-", ROWS),
    "unlikelihood_loss": (lambda x: losses.unlikelihood_loss(x, np.array([0])), "-", ROWS),
    "token_set_loss": (lambda x: losses.token_set_loss(x, np.arange(3) > 0), "-", ROWS),
    **{
        name: (getattr(losses, name), "- -", ROWS, ROWS)
        for name in ("forward_kl_div", "reverse_kl_div", "jensen_shannon_div", "total_variation_div")
    },
    "distillation_loss": (lambda x, y: losses.distillation_loss(x, y, 1, hard_weight=0.5), "- -", ROWS, ROWS),
    "entropy_loss": (losses.entropy_loss, "-", ROWS),
    **{
        name: (getattr(losses, name), "log_sigmoid log_sigmoid -", *POLICY)
        for name in ("cispo_loss", "clipped_policy_loss", "sapo_loss")
    },
    "clipped_policy_loss, sequence": (
        lambda x, y, a: losses.clipped_policy_loss(x, y, a, level="sequence", dual_clip=3.0),
        "log_sigmoid log_sigmoid -",
        *POLICY,
    ),
    "sampled_kl_div": (losses.sampled_kl_div, "log_sigmoid log_sigmoid", *POLICY[:2]),
    "top_k_distillation_loss": (
        lambda x: losses.top_k_distillation_loss(x, np.log([0.25, 0.5]), np.array([2, 1])),
        "-",
        [[0.0, 1.0, 2.0], [-INF, 0.0, 1.0]],
    ),
    "kl_div": (lambda x, p: losses.kl_div(x, p, "sum"), "log_softmax softmax", ROWS, ROWS),
    "kl_div, log": (
        lambda x, p: losses.kl_div(x, p, "sum", log_target=True),
        "log_softmax log_softmax",
        ROWS,
        ROWS,
    ),
    "binary_cross_entropy": (losses.binary_cross_entropy, "sigmoid sigmoid -", SCORES, SCORES, [[1]]),
    "binary_cross_entropy_with_logits": (
        losses.binary_cross_entropy_with_logits,
        "- sigmoid",
        SCORES,
        SCORES,
    ),
    "multilabel_soft_margin_loss": (losses.multilabel_soft_margin_loss, "- sigmoid", SCORES, SCORES),
    "soft_margin_loss": (losses.soft_margin_loss, "- tanh", SCORES, SIGNS),
    "sigmoid_focal_loss": (losses.sigmoid_focal_loss, "- sigmoid", SCORES, SCORES),
    "margin_ranking_loss": (losses.margin_ranking_loss, "- - tanh", SCORES, [[0]], SIGNS),
    "hinge_embedding_loss": (lambda x: losses.hinge_embedding_loss(x, np.array([-1])), "-", SCORES),
    "multi_margin_loss": (lambda x: losses.multi_margin_loss(x, 1), "-", ROWS),
    "multilabel_margin_loss": (
        lambda x: losses.multilabel_margin_loss(x, np.array([1, -1, 0])),
        "-",
        [[-INF, 0, 1]],
    ),
    "ctc_loss": (
        lambda x: losses.ctc_loss(jax.nn.log_softmax(x.reshape(2, 1, 2)), np.array([[1]]), (2,), (1,)),
        "-",
        [[-INF, 0, 1, 0], [0, -INF, 1, 0], [0, -INF, -INF, 0]],
    ),
    "poisson_nll_loss": (
        lambda x, y: losses.poisson_nll_loss(x, y, log_input=False, full=True),
        "- -",
        REALS,
        REALS,
    ),
    "gaussian_nll_loss": (losses.gaussian_nll_loss, "- - -", REALS, REALS, REALS),
    **{
        name: (getattr(losses, name), "- -", REALS, REALS)
        for name in ("l1_loss", "mse_loss", "huber_loss", "smooth_l1_loss")
    },
    "clipped_value_loss": (losses.clipped_value_loss, "- - -", REALS, REALS, REALS),
    "cosine_embedding_loss": (lambda a, b: losses.cosine_embedding_loss(a, b, 1), "- -", VECTORS, VECTORS),
    "triplet_margin_loss": (
        lambda a, b, c: losses.triplet_margin_loss(a, b, c, eps=0.0),
        "- - -",
        *[VECTORS] * 3,
    ),
    "correlation_loss": (losses.correlation_loss, "- -", VECTORS, VECTORS),
    "dpo_loss": (
        dpo(0.0, "sigmoid", "hinge", "nca_pair", "bco_pair", "discopop", "robust"),
        "- - - - -",
        [[-1], [0]],
        LOGPS,
        [[-1]],
        [[-2]],
        BETA,
    ),
    "dpo_loss, bounded": (
        dpo(0.25, "exo_pair", "apo_zero", "apo_down"),
        "- - - - -",
        LOGPS,
        LOGPS,
        [[-1], [-INF]],
        [[-2]],
        BETA,
    ),
    "dpo_loss, smoothed": (dpo(0.25, "sigmoid", "robust", "ipo"), "- - - - -", *[LOGPS] * 4, BETA),
    "cpo_loss": (lambda c, r, b: losses.cpo_loss(c, r, beta=b[0]), "- - -", LOGPS, LOGPS, BETA),
    "simpo_loss": (lambda c, r, b: losses.simpo_loss(c, r, beta=b[0]), "- - -", LOGPS, LOGPS, BETA),
    "orpo_loss": (
        lambda c, r, b: losses.orpo_loss(c, r, beta=b[0], nll_weight=0.5),
        "- - -",
        [*LOGPS, [-1e-9]],
        [*LOGPS, [-1e-9]],
        BETA,
    ),
    "kto_loss": (
        lambda x, y, b: sum(
            losses.kto_loss(x, y, np.array([is_good]), 0.5, beta=b[0]) for is_good in (True, False)
        ),
        "- - -",
        LOGPS,
        LOGPS,
        BETA,
    ),
    "bco_loss": (
        lambda x, y, b: losses.bco_loss(x, y, np.array([False]), 0.5, beta=b[0]),
        "- - -",
        LOGPS,
        LOGPS,
        BETA,
    ),
    "bradley_terry_loss": (losses.bradley_terry_loss, "- -", SCORES, SCORES),
    "group_gap_penalty": (
        lambda x, w: losses.group_gap_penalty(x, np.array([0, 1, 1]), 2, sample_weight=w),
        "- -",
        [[INF, 1, 2], [0, 1, 2]],
        [[0, 1, 1], [1, 1, 0]],
    ),
}
COMPOSED = {name for name in CASES if name.startswith(("make_", "linear_"))} | {
    "aggregate",
    "final_token_loss",
    "next_token_loss",
    "triplet_margin_with_distance_loss",
}


def test_every_loss_is_here():
    assert {name.split(",")[0] for name in BOUNDARIES} | COMPOSED == set(CASES)


@pytest.mark.parametrize("name", BOUNDARIES)
def test_zero_tangents_and_gradients(name):
    loss, links, *columns = BOUNDARIES[name]
    links = [plain if link == "-" else getattr(jax.nn, link, jnp.tanh) for link in links.split()]
    at, everything = crossed(*columns), tuple(range(len(columns)))

    def whole(*raw):
        return loss(*(link(x) for link, x in zip(links, raw, strict=True)))

    def derivatives(*raw):
        made = tuple(link(x) for link, x in zip(links, raw, strict=True))
        zeros = jax.tree.map(jnp.zeros_like, made)
        return (*jax.jvp(loss, made, zeros), jax.grad(whole, everything)(*raw))

    run = compiled(jax.vmap(derivatives))
    value, of_zeros, gradients = run(*at)
    limit, _, limits = run(*(np.clip(column, -FAR, FAR) for column in at))
    assert_same(of_zeros[jnp.isfinite(value)], jnp.zeros(int(jnp.isfinite(value).sum())))
    # An infinite loss has no limit, and one of 1e4 is none.
    is_near = jnp.isfinite(value) & (jnp.abs(limit) < FAR / 10)
    assert is_near.any()
    for gradient, expected in zip(gradients, limits, strict=True):
        assert_within(gradient[is_near], expected[is_near], GRADIENT_EPS_OF_MAX, what=name)


@pytest.mark.parametrize("shape", ["kl_div", "cross_entropy", "forward_kl_div", "reverse_kl_div"])
def test_zero_tangents_of_an_infinite_loss(shape):
    """As in forward mode with the other argument constant: whatever it is, it contributes nothing."""
    input, target = jnp.array([-INF, 0.0, 1.0]), jnp.array([0.5, 0.25, 0.25])
    if shape == "reverse_kl_div":
        input, target = target, input
    loss = getattr(losses, shape)
    zeros = jnp.zeros(3)
    value, of_zeros = jax.jvp(lambda *x: loss(*x, reduction="sum"), (input, target), (zeros, zeros))
    assert value == INF
    assert of_zeros == 0


def test_second_derivatives_at_a_target_of_zero():
    input, target = jnp.zeros(3), jnp.array([0.0, 0.5, 0.5])
    hessian = jax.hessian(losses.kl_div, 1)(input, target, "sum")
    assert_same(hessian - jnp.diag(jnp.diag(hessian)), np.zeros((3, 3)))
    assert_same(jnp.diag(hessian)[1:], [2.0, 2.0])
    score, sign = jnp.array(INF), jnp.array(1.0)
    for block in jax.tree.leaves(jax.hessian(losses.soft_margin_loss, (0, 1))(score, sign)):
        assert block == 0
