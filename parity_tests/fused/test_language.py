"""The objectives from hidden states and head equal those from logits, and PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import torch_ref.fused.language as torch_language
from jaxloss.fused import linear_final_token_loss, linear_next_token_loss
from jaxloss.losses import final_token_loss, next_token_loss
from parity_tests.compare import assert_within
from parity_tests.tolerances import VALUE_EPS_OF_MAX

_RNG = np.random.default_rng(5)
HIDDEN, HEAD = _RNG.standard_normal((4, 6, 5)), _RNG.standard_normal((9, 5))
TARGET = _RNG.integers(0, 9, (4, 6))
TARGET[1, -1] = -100
WHERE = _RNG.random((4, 6)) > 0.2
OBJECTIVES = {
    "next": (linear_next_token_loss, next_token_loss, torch_language.linear_next_token_loss),
    "final": (linear_final_token_loss, final_token_loss, torch_language.linear_final_token_loss),
}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_equals_the_objective_of_the_logits_and_torchs(objective):
    fused, from_logits, in_torch = OBJECTIVES[objective]
    target, where = jnp.asarray(TARGET), jnp.asarray(WHERE)

    def loss(hidden, head):
        options = {"logit_scale": 0.5, "where": where, "implementation": "chunked", "chunk_size": 8}
        return fused(hidden, head, target, **options)

    def expected(hidden, head):
        return from_logits(0.5 * hidden @ head.T, target, where=where)

    hidden, head = jnp.asarray(HIDDEN), jnp.asarray(HEAD)
    actual = jax.value_and_grad(loss, (0, 1))(hidden, head)
    whole = jax.value_and_grad(expected, (0, 1))(hidden, head)
    tensors = [torch.tensor(a, requires_grad=True) for a in (HIDDEN, HEAD)]
    torch_loss = in_torch(*tensors, torch.asarray(TARGET), logit_scale=0.5, where=torch.asarray(WHERE))
    torch_loss.backward()
    in_torch_too = (torch_loss, tuple(t.grad for t in tensors))
    for other in (whole, in_torch_too):
        for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(other), strict=True):
            assert_within(a, b, VALUE_EPS_OF_MAX)


def test_final_token_does_not_look_at_earlier_positions():
    hidden = jnp.asarray(HIDDEN).at[:, :-1].set(jnp.nan)
    gradient = jax.grad(lambda h: linear_final_token_loss(h, jnp.asarray(HEAD), jnp.asarray(TARGET)))(hidden)
    assert jnp.all(gradient[:, :-1] == 0.0)
    assert jnp.all(jnp.isfinite(gradient[:, -1]))


def test_bad_shapes_are_named():
    with pytest.raises(ValueError, match=r"input must have shape \[..., T, D\]"):
        linear_next_token_loss(jnp.ones(5), jnp.asarray(HEAD), jnp.asarray(TARGET))
    with pytest.raises(ValueError, match=r"linear_weight must have shape \[V, D\]"):
        linear_next_token_loss(jnp.asarray(HIDDEN), jnp.ones((9, 2, 5)), jnp.asarray(TARGET))
    with pytest.raises(ValueError, match="input must have at least one position"):
        linear_final_token_loss(jnp.ones((2, 0, 5)), jnp.asarray(HEAD), jnp.zeros((2, 0), int))
    with pytest.raises(ValueError, match=r"target must have shape \[4, 6\]"):
        linear_final_token_loss(jnp.asarray(HIDDEN), jnp.asarray(HEAD), jnp.zeros((4, 5), int))
