"""Log-probabilities of sequences from hidden states, and a preference loss of them, equal those of logits."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import torch_ref.fused
from jaxloss import dpo_loss, linear_sequence_logps, sequence_logps
from parity_tests.compare import assert_within
from parity_tests.losses.promises import assert_matches_torch, compiled
from parity_tests.tolerances import GRADIENT_EPS_OF_MAX, VALUE_EPS_OF_MAX

rng = np.random.default_rng(0)
HEADS = {
    "input": rng.standard_normal((4, 5, 3)),
    "linear_weight": rng.standard_normal((7, 3)),
    "linear_bias": rng.standard_normal(7),
}
LABELS = rng.integers(0, 7, (4, 5))
LABELS[1:, :2] = -100
WHERE = rng.random((4, 5)) > 0.3
WHERE[:, -1] = True
CHUNKED = {"implementation": "chunked", "chunk_size": 4}


def test_matches_torch():
    arrays = HEADS | {"target": LABELS, "where": WHERE}
    cases = [{"average": False, "logit_scale": 0.5}, {"average": True, "ignore_index": 3}]
    arrays["target"] = np.where(LABELS == -100, 3, LABELS)
    ours = partial(linear_sequence_logps, **CHUNKED)
    assert_matches_torch(ours, torch_ref.fused.linear_sequence_logps, arrays, cases, wrt=HEADS)


@pytest.mark.parametrize("average", [False, True])
def test_a_preference_loss_of_hidden_states_is_that_of_logits(average):
    reference = -rng.uniform(1.0, 9.0, 4)

    def loss(logps):
        chosen, rejected = jnp.split(logps, 2)
        return dpo_loss(chosen, rejected, *jnp.split(jnp.asarray(reference), 2), beta=0.5)

    def of_hidden_states(heads):
        return loss(linear_sequence_logps(**heads, target=LABELS, average=average, **CHUNKED))

    def of_logits(heads):
        log_probs = jax.nn.log_softmax(
            heads["input"] @ heads["linear_weight"].T + heads["linear_bias"][None, None]
        )
        own = jnp.take_along_axis(log_probs, jnp.maximum(LABELS, 0)[..., None], -1)[..., 0]
        return loss(sequence_logps(own, where=jnp.asarray(LABELS >= 0), average=average))

    fused, whole = (compiled(jax.value_and_grad(f))(HEADS) for f in (of_hidden_states, of_logits))
    assert_within(fused[0], whole[0], VALUE_EPS_OF_MAX)
    for name in HEADS:
        assert_within(fused[1][name], whole[1][name], GRADIENT_EPS_OF_MAX, what=name)


def test_bad_arguments_are_named():
    hidden, head = jnp.ones((4, 5, 3)), jnp.ones((7, 3))
    with pytest.raises(ValueError, match=r"target must have shape \[4, 5\]"):
        linear_sequence_logps(hidden, head, LABELS[:3])
    with pytest.raises(ValueError, match=r"target must have shape \[..., T\]; got int"):
        linear_sequence_logps(hidden[0, 0], head, LABELS[0, 0])
    with pytest.raises(ValueError, match=r"linear_weight must have shape \[V, D\]; got float64\[7, 2, 3\]"):
        linear_sequence_logps(hidden, jnp.ones((7, 2, 3)), LABELS)
    with pytest.raises(TypeError, match="average must be True or False; got 1"):
        linear_sequence_logps(hidden, head, LABELS, average=1)
