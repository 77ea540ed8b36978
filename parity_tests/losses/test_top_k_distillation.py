"""top_k_distillation_loss against torch and the whole distribution, and what a sure teacher leaves."""

from functools import partial

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from jaxloss.losses import distillation as sources
from jaxloss.losses.checked import make_checked
from jaxloss.losses.softmax_divergence import (
    forward_kl_div,
    jensen_shannon_div,
    reverse_kl_div,
    total_variation_div,
)
from parity_tests.compare import assert_same, assert_within
from parity_tests.losses.promises import (
    as_a_whole,
    assert_accurate,
    assert_masking_deletes,
    assert_matches_torch,
    compiled,
    exact_softmax,
)
from parity_tests.tolerances import GRADIENT_EPS_OF_MAX, VALUE_EPS_OF_MAX
from torch_ref.losses import distillation as torch_side

top_k_distillation_loss = as_a_whole(sources.top_k_distillation_loss)

N, C = 7, 5
rng = np.random.default_rng(0)
STUDENT, TEACHER = rng.standard_normal((2, N, C)) * 3.0
SAMPLE_WEIGHT = np.array([1.0, 0.5, 2.0, 1.0, 3.0, 0.0, 0.25])
MASK = np.array([True, False, True, True, True, False, True])
K = 3
TOP_IDS = np.argsort(rng.random((N, C)), 1)[:, :K]
TOP_LOGPS = np.log(rng.dirichlet(np.ones(C), N)[:, :K])
TOP_LOGPS[1, 2] = -np.inf
TAILS = ["bin", "renormalise", "drop"]
DIVERGENCES = {
    "forward_kl": forward_kl_div,
    "reverse_kl": reverse_kl_div,
    "jensen_shannon": jensen_shannon_div,
    "total_variation": total_variation_div,
}


def test_top_k_distillation_loss_matches_torch():
    arrays = {"input": STUDENT, "teacher_top_logps": TOP_LOGPS, "teacher_top_ids": TOP_IDS}
    arrays |= {"sample_weight": SAMPLE_WEIGHT}
    cases = [{"tail": tail, "reduction": "none"} for tail in TAILS]
    cases += [{"divergence": "reverse_kl", "tail": "renormalise"}, {"divergence": "jensen_shannon"}]
    theirs, wrt = torch_side.top_k_distillation_loss, ("input", "sample_weight")
    assert_matches_torch(sources.top_k_distillation_loss, theirs, arrays, cases, wrt=wrt)


@pytest.mark.parametrize("tail", TAILS)
def test_masked_rows_may_hold_anything(tail):
    arrays = {"input": STUDENT, "teacher_top_logps": TOP_LOGPS, "teacher_top_ids": TOP_IDS}
    arrays |= {"sample_weight": SAMPLE_WEIGHT}
    ours, theirs = sources.top_k_distillation_loss, torch_side.top_k_distillation_loss
    assert_masking_deletes(ours, theirs, arrays, MASK, {"tail": tail}, wrt=("input", "sample_weight"))


def test_all_classes_are_the_whole_distribution():
    ids = np.argsort(rng.random((N, C)), 1)
    teacher = jnp.asarray(TEACHER)
    logps = jnp.take_along_axis(jax.nn.log_softmax(teacher), ids, 1)

    pairs = [
        ("bin", "forward_kl"),
        ("drop", "forward_kl"),
        ("renormalise", "reverse_kl"),
        ("bin", "jensen_shannon"),
    ]

    @compiled
    def run(student):
        results = []
        for tail, name in pairs:
            kept = {"teacher_top_logps": logps, "teacher_top_ids": ids, "tail": tail, "divergence": name}
            loss = partial(sources.top_k_distillation_loss, **kept)
            whole = partial(DIVERGENCES[name], target=teacher)
            results.append([jax.value_and_grad(loss)(student), jax.value_and_grad(whole)(student)])
        return results

    for pair, (found, expected) in zip(pairs, run(STUDENT), strict=True):
        assert_within(found[0], expected[0], VALUE_EPS_OF_MAX, what=f"{pair}")
        assert_within(found[1], expected[1], GRADIENT_EPS_OF_MAX, what=f"{pair}")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_teacher_that_leaves_nothing_has_finite_gradients(dtype):
    left, ids = jnp.array([1e-12, 1e-7, 0.0])[:, None], jnp.array([[3, 1]] * 3)
    logps = jnp.log(jnp.array([[0.6, 0.4]]) * (1 - left)).astype(dtype)

    def run(student):
        for name in DIVERGENCES:
            loss = partial(
                sources.top_k_distillation_loss, teacher_top_ids=ids, divergence=name, reduction="sum"
            )
            yield jax.value_and_grad(partial(loss, teacher_top_logps=logps))(student)

    results = compiled(lambda student: list(run(student)))(jnp.asarray(STUDENT[:3], dtype))
    assert all(np.isfinite(array).all() for array in jax.tree.leaves(results))


def test_the_mass_that_a_sure_teacher_leaves_is_not_rounded_away():
    logps, ids = np.float32([[-1e-9, -22.0]]), np.array([[4, 0]])

    def exact(x):
        q = exact_softmax(x)
        kept = [mpmath.exp(mpmath.mpf(float(a))) for a in logps[0]]
        pairs = [(kept[0], q[4]), (kept[1], q[0]), (1 - sum(kept), 1 - q[4] - q[0])]
        return mpmath.fsum(a * mpmath.log(a / b) for a, b in pairs)

    def loss(x):
        return sources.top_k_distillation_loss(x, logps[0], ids[0])

    arrays = [np.float32([[0.5, -1, 0, 1, 9], [0, 0, 0, 0, 20.5]])]
    # The mass left is in a logarithm of -20, of which half an ULP is 16 eps of the mass.
    assert_accurate(loss, exact, arrays, value_ulp=16, gradient_eps_of_max=GRADIENT_EPS_OF_MAX)


def test_a_class_out_of_range_poisons_its_row():
    ids = jnp.asarray(TOP_IDS).at[2, 1].set(C).at[1, 2].set(-1)
    rows = top_k_distillation_loss(STUDENT, TOP_LOGPS, ids, reduction="none")
    # The second row's is not given.
    assert_same(jnp.isnan(rows), np.arange(N) == 2)
    with pytest.raises(ValueError, match=r"teacher_top_ids\[2, 1\] is 5, outside \[0, 5\)"):
        make_checked(sources.top_k_distillation_loss)(STUDENT, TOP_LOGPS, ids)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"teacher_top_logps": np.zeros((N, C + 1))},
            "teacher_top_logps must hold 1 to 5 classes a row; got 6",
        ),
        ({"teacher_top_logps": np.zeros(N)}, r"teacher_top_logps must have shape \[7, 'K'\], K classes"),
        (
            {"teacher_top_ids": TOP_IDS[:, 1:]},
            r"teacher_top_ids must have shape \[7, 3\], that of teacher_top",
        ),
        ({"tail": "bins"}, "tail must be one of .* Did you mean 'bin'"),
        ({"tail": "drop", "divergence": "reverse_kl"}, "divergence must be 'forward_kl' with tail='drop'"),
        ({"divergence": "kl"}, "divergence must be one of"),
    ],
)
def test_bad_arguments_of_top_k_are_named(change, message):
    good = {"input": STUDENT, "teacher_top_logps": TOP_LOGPS, "teacher_top_ids": TOP_IDS}
    with pytest.raises(ValueError, match=message):
        sources.top_k_distillation_loss(**(good | change))
