"""distillation_loss against torch, and its claims about temperature and mixing."""

from functools import partial

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from jaxloss.losses import distillation as sources
from jaxloss.losses.classification import cross_entropy
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
    assert_half_precision_is_rounded_once,
    assert_masking_deletes,
    assert_matches_torch,
    assert_transforms,
    exact_softmax,
)
from parity_tests.tolerances import VALUE_EPS_OF_MAX
from torch_ref.losses import distillation as torch_side

distillation_loss = as_a_whole(sources.distillation_loss)

N, C = 7, 5
rng = np.random.default_rng(0)
STUDENT, TEACHER = rng.standard_normal((2, N, C)) * 3.0
LABELS = np.array([0, 4, 3, 2, -100, 3, 1])
SAMPLE_WEIGHT = np.array([1.0, 0.5, 2.0, 1.0, 3.0, 0.0, 0.25])
MASK = np.array([True, False, True, True, True, False, True])


def test_distillation_loss_matches_torch():
    arrays = {"input": STUDENT, "teacher_input": TEACHER, "target": LABELS, "sample_weight": SAMPLE_WEIGHT}
    cases = [
        {"divergence": "forward_kl", "hard_weight": 0.3, "temperature": 3.0, "reduction": "mean"},
        {"divergence": "reverse_kl", "hard_weight": 0.0, "reduction": "none"},
        {"divergence": "jensen_shannon", "hard_weight": 1.0, "temperature": 0.5, "reduction": "sum"},
        {"divergence": "total_variation", "temperature": 0.5, "reduction": "sum"},
        *({"divergence": "jensen_shannon", "beta": beta, "hard_weight": 0.2} for beta in (0.0, 0.2, 1.0)),
    ]
    wrt = ("input", "sample_weight")
    assert_matches_torch(distillation_loss, torch_side.distillation_loss, arrays, cases, wrt=wrt)


def test_distillation_loss_without_labels_along_another_axis_matches_torch():
    arrays = {"input": STUDENT.T, "teacher_input": TEACHER.T}
    assert_matches_torch(distillation_loss, torch_side.distillation_loss, arrays, [{"axis": 0}])


def test_where_equals_deletion_and_keeps_nan_out():
    arrays = {
        "input": STUDENT,
        "teacher_input": TEACHER,
        "target": np.abs(LABELS) % C,
        "sample_weight": SAMPLE_WEIGHT,
    }
    wrt = ("input", "sample_weight")
    assert_masking_deletes(
        distillation_loss, torch_side.distillation_loss, arrays, MASK, {"hard_weight": 0.5}, wrt=wrt
    )


def test_half_precision_is_computed_in_float32_and_its_gradient_rounded_once():
    assert_half_precision_is_rounded_once(distillation_loss, STUDENT, TEACHER, num_floats=2)


def test_it_is_the_divergences_at_temperature_1_and_cross_entropy_at_hard_weight_1():
    student, teacher, labels = map(jnp.asarray, (STUDENT, TEACHER, LABELS))
    for name, divergence in (
        ("forward_kl", forward_kl_div),
        ("reverse_kl", reverse_kl_div),
        ("jensen_shannon", jensen_shannon_div),
        ("total_variation", total_variation_div),
    ):
        value = distillation_loss(student, teacher, temperature=1.0, divergence=name)
        assert_within(value, divergence(student, teacher), VALUE_EPS_OF_MAX)
    value = distillation_loss(student, teacher, labels, hard_weight=1.0)
    assert_within(value, cross_entropy(student, labels), VALUE_EPS_OF_MAX)


def test_gradient_does_not_vanish_with_temperature():
    # Hinton et al. 2015, equation 4: at a high temperature it tends to (x - y) / C for centred logits.
    student, teacher = (jnp.asarray(z - z.mean(-1, keepdims=True)) for z in (STUDENT, TEACHER))
    gradient = jax.grad(distillation_loss)(student, teacher, temperature=1e6, reduction="sum")
    np.testing.assert_allclose(gradient, (student - teacher) / C, atol=1e-5)


def test_the_teacher_has_no_gradient():
    gradient = jax.grad(distillation_loss, 1)(jnp.asarray(STUDENT), jnp.asarray(TEACHER))
    assert_same(gradient, np.zeros((N, C)))


def test_ignored_labels_take_their_row_out_of_both_terms():
    student = jnp.asarray(np.where((LABELS == -100)[:, None], np.nan, STUDENT))
    kept = LABELS != -100
    value, gradient = jax.jit(jax.value_and_grad(distillation_loss))(student, TEACHER, LABELS)
    expected = distillation_loss(jnp.asarray(STUDENT[kept]), jnp.asarray(TEACHER[kept]))
    assert_within(value, expected, VALUE_EPS_OF_MAX)
    assert_same(gradient[~kept], np.zeros((1, C)))


def test_a_student_close_to_its_teacher_is_judged_accurately():
    teacher = (rng.standard_normal(6) * 5).astype(np.float32)
    student = (teacher + rng.standard_normal((3, 6)) * np.array([[1e-4], [1.0], [30.0]])).astype(np.float32)

    def exact(x):
        q, p = (exact_softmax([v / 4 for v in z]) for z in (x, map(mpmath.mpf, teacher.tolist())))
        return 16 * mpmath.fsum(a * mpmath.log(a / b) for a, b in zip(p, q, strict=True))

    assert_accurate(
        lambda x: distillation_loss(x, teacher, temperature=4.0),
        exact,
        [student],
        value_ulp=8,
        gradient_eps_of_max=32,
    )


def test_label_out_of_range_poisons_value_and_gradient():
    labels = jnp.array([0, C, 1, -1, -100, 2, 3])
    for hard_weight in (0.0, 0.5):
        rows, pullback = jax.vjp(
            lambda x, h=hard_weight: distillation_loss(
                x, jnp.asarray(TEACHER), labels, hard_weight=h, reduction="none"
            ),
            jnp.asarray(STUDENT),
        )
        is_wrong = np.isin(np.arange(N), [1, 3])
        assert_same(jnp.isnan(rows), is_wrong)
        assert_same(jnp.isnan(pullback(jnp.ones(N))[0]).all(-1), is_wrong)


def test_a_term_without_a_share_may_be_infinite():
    # A class that only one of them allows makes a divergence infinite, not the cross entropy; the gradient of
    # the reverse divergence is then NaN.
    masked, full = jnp.asarray(STUDENT).at[:, 1].set(-jnp.inf), jnp.asarray(TEACHER)
    labels = jnp.asarray(np.where(LABELS == 1, 0, LABELS))

    @partial(jax.jit, static_argnums=3)
    def run(student, teacher, one, divergence):
        options = {"target": labels, "divergence": divergence}
        losses = (
            lambda x: cross_entropy(x, labels),
            lambda x: sources.distillation_loss(x, teacher, hard_weight=1.0, **options),
            lambda x: sources.distillation_loss(x, teacher, hard_weight=one, **options),
        )
        return [jax.value_and_grad(loss)(student) for loss in losses]

    for arguments in ((masked, full, 1.0, "forward_kl"), (full, masked, 1.0, "reverse_kl")):
        (expected, expected_gradient), *others = run(*arguments)
        for value, gradient in others:
            assert_within(value, expected, VALUE_EPS_OF_MAX)
            assert_within(gradient, expected_gradient, VALUE_EPS_OF_MAX)


def test_transforms():
    labels = np.abs(LABELS) % C
    assert_transforms(
        lambda student: distillation_loss(student, jnp.asarray(TEACHER), labels, hard_weight=0.5), STUDENT
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"teacher_input": np.zeros((1, 3))},
            ValueError,
            r"teacher_input must have shape \[2, 3\], that of input",
        ),
        ({"teacher_input": np.zeros((2, 3), int)}, TypeError, "teacher_input must be floating point"),
        ({"target": np.zeros(3, int)}, ValueError, r"target must have shape \[2\]"),
        ({"temperature": 0.0}, ValueError, r"temperature must be in \(0, inf\); got 0.0"),
        ({"hard_weight": 1.5}, ValueError, r"hard_weight must be in \[0, 1\]; got 1.5"),
        ({"hard_weight": 0.5}, ValueError, "target must hold labels when hard_weight is above 0"),
        ({"divergence": "forward"}, ValueError, "divergence must be one of .*Did you mean 'forward_kl'"),
        ({"divergence": "jensen_shannon", "beta": 2}, ValueError, r"beta must be in \[0, 1\]; got 2"),
        ({"beta": 0.2}, ValueError, "beta must be 0.5 with divergence='forward_kl'; got 0.2"),
        ({"sample_weight": np.ones(3)}, ValueError, r"sample_weight must have shape \[2\]"),
        ({"reduction": "avg"}, ValueError, "reduction must be one of"),
        ({"input": np.zeros((2, 0)), "teacher_input": np.zeros((2, 0))}, ValueError, "at least one class"),
    ],
)
def test_bad_input_is_named_at_trace_time(change, error, message):
    with pytest.raises(error, match=message):
        distillation_loss(**({"input": np.zeros((2, 3)), "teacher_input": np.zeros((2, 3))} | change))
