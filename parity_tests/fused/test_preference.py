"""Log-probabilities of sequences from hidden states, and a preference loss of them, equal those of logits."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import torch_ref.fused
from jaxloss import (
    dpo_loss,
    linear_sequence_logps,
    make_linear_preference_loss,
    orpo_loss,
    sequence_logps,
)
from jaxloss.fused import preference
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


PAIR_LOSSES = {
    "dpo": (dpo_loss, {"loss_type": "ipo"}, False),
    "orpo": (orpo_loss, {}, True),
}
MADE = {name: make_linear_preference_loss(loss) for name, (loss, *_) in PAIR_LOSSES.items()}


def of_pairs(name, operands, reduction, implementation="chunked"):
    _, options, average = PAIR_LOSSES[name]
    options = options | {"beta": operands["beta"], "reduction": reduction, "average": average}
    options |= {k: operands[k] for k in ("linear_bias", "logit_scale")}
    heads = operands["input"], operands["linear_weight"], LABELS
    return MADE[name](*heads, *operands["refs"], where=WHERE, implementation=implementation, **options)


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_a_loss_of_pairs_is_that_of_their_log_probabilities(name, monkeypatch):
    monkeypatch.setattr(preference, "_CHUNK_TOKENS", 1)
    loss, options, average = PAIR_LOSSES[name]
    refs = list(-rng.uniform(1.0, 9.0, (2, 2))) if name == "dpo" else []
    # Numbers that may be learnt or change; and hidden states that the mask leaves out are not looked at.
    operands = HEADS | {"logit_scale": np.float64(0.8), "beta": np.float64(0.5), "refs": refs}
    operands["input"] = np.where((WHERE & (LABELS >= 0))[..., None], HEADS["input"], np.nan)

    def whole(operands):
        heads = {k: operands[k] for k in ("input", "linear_weight", "linear_bias", "logit_scale")}
        logps = linear_sequence_logps(**heads, target=LABELS, where=WHERE, average=average, **CHUNKED)
        answers = *jnp.split(logps, 2), *operands["refs"]
        losses = loss(*answers, beta=operands["beta"], reduction="none", **options)
        return jnp.mean(losses), losses

    def fused(operands):
        total, num_pairs = of_pairs(name, operands, "parts")
        return total / num_pairs, of_pairs(name, operands, "none")

    def dotted(of_operands):
        return lambda operands: (
            0.7 * of_operands(operands)[0] + of_operands(operands)[1] @ jnp.array([2, -1.0])
        )

    (ours, theirs), (d_ours, d_theirs) = (
        [compiled(transform(f))(operands) for f in (fused, whole)]
        for transform in (lambda f: f, lambda f: jax.grad(dotted(f)))
    )
    for found, expected in zip(ours, theirs, strict=True):
        assert_within(found, expected, VALUE_EPS_OF_MAX)
    for (path, found), expected in zip(
        jax.tree.leaves_with_path(d_ours), jax.tree.leaves(d_theirs), strict=True
    ):
        assert_within(found, expected, GRADIENT_EPS_OF_MAX, what=jax.tree_util.keystr(path))


def test_the_gradient_of_pairs_takes_three_products():
    operands = HEADS | {"logit_scale": 0.8, "beta": 0.5, "refs": [np.zeros(2)] * 2}

    def products(f):
        return str(jax.make_jaxpr(jax.grad(f))(operands)).count("dot_general[")

    def of_logps(operands):
        logps = linear_sequence_logps(operands["input"], operands["linear_weight"], LABELS, **CHUNKED)
        return dpo_loss(*jnp.split(logps, 2), *operands["refs"])

    assert products(lambda operands: of_pairs("dpo", operands, "mean")) == 3
    assert products(of_logps) == 4


def test_a_number_that_turns_something_off_comes_to_the_loss_as_given():
    arrays = HEADS["input"], HEADS["linear_weight"], LABELS, np.zeros(2), np.zeros(2)
    off = partial(MADE["dpo"], loss_type="hinge", label_smoothing=0.0, implementation="chunked")
    assert jax.eval_shape(off, *arrays).shape == ()


def test_bad_arguments_of_pairs_are_named():
    loss, refs = MADE["dpo"], (np.zeros(2), np.zeros(2))
    hidden, head = jnp.ones((4, 5, 3)), jnp.ones((7, 3))
    with pytest.raises(
        ValueError, match=r"input must have shape \[2 P, T > 0, D\], chosen .* got float64\[3, 5, 3"
    ):
        loss(hidden[:3], head, LABELS[:3], *refs)
    with pytest.raises(ValueError, match=r"target must have shape \[4, 5\]"):
        loss(hidden, head, LABELS[:3], *refs)
    with pytest.raises(ValueError, match=r"beta must be in \(0, inf\); got -0.1"):
        loss(hidden, head, LABELS, *refs, beta=-0.1)
    with pytest.raises(ValueError, match=r"loss_type must be .* got 'sigmiod'"):
        loss(hidden, head, LABELS, *refs, loss_type="sigmiod")
    with pytest.raises(
        ValueError, match=r"loss_type must be a variant whose pairs do not depend .* got 'aot'"
    ):
        loss(hidden, head, LABELS, *refs, loss_type="aot")
    for shape in ((3,), (1,), (10, 1)):
        with pytest.raises(ValueError, match=r"ref_chosen_logps must have shape \[2\], .* pair of answers"):
            loss(hidden, head, LABELS, np.zeros(shape), np.zeros(2))
    with pytest.raises(ValueError, match=r"loss must return one value for each pair, \[2\]"):
        make_linear_preference_loss(lambda chosen, rejected, reduction: jnp.sum(chosen))(hidden, head, LABELS)
    with pytest.raises(ValueError, match=r"sample_weight must be a number; got float64\[2\]"):
        loss(hidden, head, LABELS, *refs, sample_weight=np.ones(2))
    with pytest.raises(TypeError, match="loss must be a function of log-probabilities; got 'dpo'"):
        make_linear_preference_loss("dpo")


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
