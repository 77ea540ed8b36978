"""Distillation from hidden states equals distillation from logits in PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import torch_ref.fused.distillation as torch_distillation
from jaxloss.fused import linear_distillation_loss, linear_kl_div
from jaxloss.losses import jensen_shannon_div
from jaxloss.numerics.divergence import DIVERGENCES
from parity_tests.compare import assert_within
from parity_tests.tolerances import GRADIENT_EPS_OF_MAX, VALUE_EPS_OF_MAX

_RNG = np.random.default_rng(6)
STUDENT = {"input": _RNG.standard_normal((13, 5)), "linear_weight": _RNG.standard_normal((9, 5))}
TEACHER = {
    "teacher_input": _RNG.standard_normal((13, 7)),
    "teacher_linear_weight": _RNG.standard_normal((9, 7)),
    "teacher_linear_bias": _RNG.standard_normal(9),
}
TARGET = _RNG.integers(0, 9, 13)
TARGET[3] = -100


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize(
    ("divergence", "beta"),
    [(name, 0.5) for name in DIVERGENCES] + [("jensen_shannon", beta) for beta in (0.0, 0.2, 1.0)],
)
def test_values_and_gradients_equal_torchs(divergence, beta, reduction):
    options = {"temperature": 1.7, "hard_weight": 0.3, "divergence": divergence, "reduction": reduction}
    options["beta"] = beta
    # Each head has its own way from the product to the logits.
    options |= {
        "logit_softcap": 4.0,
        "logit_scale": 0.8,
        "teacher_logit_softcap": 2.0,
        "teacher_logit_scale": 1.3,
    }

    def loss(student):
        teacher = jax.tree.map(jnp.asarray, TEACHER)
        target = jnp.asarray(TARGET)
        chunked = {"implementation": "chunked", "chunk_size": 4}
        losses = linear_distillation_loss(**student, **teacher, target=target, **options, **chunked)
        return jnp.sum(losses * jnp.arange(1.0, losses.size + 1.0))

    value, gradients = jax.jit(jax.value_and_grad(loss))(jax.tree.map(jnp.asarray, STUDENT))
    tensors = {name: torch.tensor(array, requires_grad=True) for name, array in STUDENT.items()}
    teacher = {name: torch.tensor(array) for name, array in TEACHER.items()}
    losses = torch_distillation.linear_distillation_loss(
        **tensors, **teacher, target=torch.asarray(TARGET), **options
    )
    expected = (losses * torch.arange(1.0, losses.numel() + 1.0, dtype=torch.float64)).sum()
    expected.backward()
    assert_within(value, expected, VALUE_EPS_OF_MAX)
    for name, gradient in gradients.items():
        assert_within(gradient, tensors[name].grad, GRADIENT_EPS_OF_MAX, what=name)


def test_beta_may_be_traced_and_learnt():
    arrays = jax.tree.map(jnp.asarray, STUDENT | TEACHER)

    def fused(beta):
        return linear_kl_div(**arrays, divergence="jensen_shannon", beta=beta, chunk_size=4)

    def whole(beta):
        teacher = arrays["teacher_input"] @ arrays["teacher_linear_weight"].T
        teacher = teacher + arrays["teacher_linear_bias"][None]
        return jensen_shannon_div(arrays["input"] @ arrays["linear_weight"].T, teacher, beta=beta)

    for beta in (0.0, 0.2, 1.0):
        assert_within(jax.jit(fused)(beta), fused(beta), VALUE_EPS_OF_MAX)
        assert_within(fused(beta), whole(beta), VALUE_EPS_OF_MAX)
    assert_within(jax.grad(fused)(jnp.array(0.2)), jax.grad(whole)(jnp.array(0.2)), GRADIENT_EPS_OF_MAX)


def test_kl_div_of_a_head_with_itself_is_zero():
    hidden, head = (jnp.asarray(a) for a in STUDENT.values())
    value, gradient = jax.value_and_grad(lambda h: linear_kl_div(h, head, hidden, head, chunk_size=4))(hidden)
    assert value == 0.0
    assert jnp.all(gradient == 0.0)


def test_the_teacher_has_no_gradient():
    student, teacher = jax.tree.map(jnp.asarray, (STUDENT, TEACHER))
    gradients = jax.grad(lambda teacher: linear_kl_div(**student, **teacher, chunk_size=4))(teacher)
    for name, gradient in gradients.items():
        assert jnp.all(gradient == 0.0), name


def test_the_students_scale_has_a_gradient_and_the_teachers_none():
    hidden, head = (jnp.asarray(a) for a in STUDENT.values())

    def loss(scale, teacher_scale, chunk_size):
        scales = {"logit_scale": scale, "teacher_logit_scale": teacher_scale}
        return linear_kl_div(hidden, head, -hidden, head, **scales, chunk_size=chunk_size)

    chunked, whole = (jax.grad(loss, (0, 1))(jnp.asarray(0.8), jnp.asarray(1.2), size) for size in (4, 13))
    assert_within(chunked[0], whole[0], VALUE_EPS_OF_MAX)
    assert chunked[1] == 0.0


def test_bad_arguments_are_named():
    hidden, head = (jnp.asarray(a) for a in STUDENT.values())
    for message, arguments in {
        r"teacher_linear_weight must have shape \[9, 7\]": (
            hidden,
            head,
            jnp.ones((13, 7)),
            jnp.ones((8, 7)),
        ),
        r"teacher_input must have shape \[13, 7\]": (hidden, head, jnp.ones((12, 7)), jnp.ones((9, 7))),
        r"teacher_linear_weight must have shape \[V, 7\]": (
            hidden,
            head,
            jnp.ones((13, 7)),
            jnp.ones((9, 6)),
        ),
    }.items():
        with pytest.raises(ValueError, match=message):
            linear_distillation_loss(*arguments)
    with pytest.raises(ValueError, match="target must hold labels"):
        linear_distillation_loss(hidden, head, hidden, head, hard_weight=0.5)
    with pytest.raises(ValueError, match="divergence must be one of"):
        linear_kl_div(hidden, head, hidden, head, divergence="kl")
    with pytest.raises(ValueError, match=r"beta must be 0\.5 with divergence='reverse_kl'"):
        linear_kl_div(hidden, head, hidden, head, divergence="reverse_kl", beta=0.1)
    with pytest.raises(ValueError, match=r"teacher_logit_softcap must be in \(0, inf\)"):
        linear_kl_div(hidden, head, hidden, head, teacher_logit_softcap=0.0)
    with pytest.raises(ValueError, match=r"teacher_logit_scale must be a number or an array without axes"):
        linear_kl_div(hidden, head, hidden, head, teacher_logit_scale=jnp.ones(2))
