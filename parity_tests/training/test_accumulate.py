"""Accumulated gradients are the whole batch's, however unequal masks leave its parts."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloss
from jaxloss import training
from parity_tests.compare import assert_within
from parity_tests.training import tiny

RAGGED = np.array([[7, 0, 0, 0], [8, 3, 1, 6]]).reshape(-1)  # targets that count, of each of 8 crops


def batch():
    inputs, targets = (np.concatenate([tiny.batch(0)[i], tiny.batch(1)[i]]) for i in range(2))
    # From the end, which is where the final token's objective looks.
    kept = np.arange(tiny.CONFIG.context_length)[::-1] < RAGGED[:, None]
    return inputs, np.where(kept, targets, -100)


def own_parts(logits_BTV, targets_BT):
    losses = jaxloss.next_token_loss(logits_BTV, targets_BT, reduction="none")
    return jnp.sum(losses), jnp.sum(targets_BT != -100)


LOSSES = {
    "mean": partial(jaxloss.next_token_loss, weight=jnp.linspace(0.5, 2, 31)),
    "one token a sequence": jaxloss.final_token_loss,
    "sum": partial(jaxloss.next_token_loss, reduction="sum"),
    "own": own_parts,
}


def bigrams(params, ids_BT):
    return params["logits"][ids_BT]


def assert_parts_are_the_whole(apply_fn, params, loss, **options):
    found = []
    for parts in (1, 4):
        # The new weights are the old ones less the gradient.
        state = training.init_state(apply_fn, params, optax.sgd(1.0), batch_size=8)
        step = training.make_train_step(loss, accumulate=parts, **options)
        state, *values = step(state, *batch(), tiny.key())
        found.append((np.array(values), jax.tree.map(np.subtract, state.params, params)))
    for whole, cut in zip(*map(jax.tree.leaves, found), strict=True):
        assert_within(cut, whole, 64, "float64")


@pytest.mark.parametrize("name", LOSSES)
def test_parts_have_the_loss_and_gradient_of_the_whole_batch(name):
    params = {"logits": np.random.default_rng(0).standard_normal((31, 31))}
    assert_parts_are_the_whole(bigrams, params, LOSSES[name])


class Bigrams(nn.Module):
    def setup(self):
        self.embed = nn.Embed(31, 4)

    def hidden(self, ids_BT, logits_to_keep):
        return jnp.tanh(self.embed(ids_BT[:, -logits_to_keep:]))

    def head(self):
        return self.embed.embedding, 2.0


def test_parts_of_the_fused_final_token_too():
    params = {"embed": {"embedding": np.random.default_rng(0).standard_normal((31, 4))}}
    options = {"from_hidden": True, "logits_to_keep": 1}
    loss = partial(jaxloss.linear_final_token_loss, implementation="chunked", chunk_size=2)
    assert_parts_are_the_whole(Bigrams().apply, params, loss, **options)


def test_a_mean_of_means_would_be_another_number():
    logits = np.random.default_rng(0).standard_normal((8, tiny.CONFIG.context_length, 31))
    targets = batch()[1]
    sums, counts = zip(
        *(jaxloss.next_token_loss(logits[i::4], targets[i::4], reduction="parts") for i in range(4)),
        strict=True,
    )
    whole = jaxloss.next_token_loss(logits, targets)
    assert_within(sum(sums) / sum(counts), whole, 16, "float64")
    assert counts == (15, 3, 1, 6)
    assert abs(np.mean(np.divide(sums, counts)) - whole) > 1e-3


def test_parts_that_do_not_divide_the_batch_are_refused():
    state = training.init_state(bigrams, {"logits": np.zeros((31, 31))}, optax.sgd(1.0), batch_size=8)
    step = training.make_train_step(jaxloss.next_token_loss, accumulate=3)
    with pytest.raises(ValueError, match="accumulate must divide the batch; got 3 for 8 crops"):
        step(state, *batch(), tiny.key())


def test_a_loss_that_has_a_reduction_but_no_parts_is_refused_rather_than_summed():
    def own(y_hat, y, reduction="mean"):
        errors = jnp.square(y_hat - y)
        return errors.mean() if reduction == "mean" else errors.sum()

    state = training.init_state(
        lambda params, x: params["w"] * x, {"w": np.ones(1)}, optax.sgd(0.1), batch_size=4
    )
    x = np.ones((4, 1))
    with pytest.raises(ValueError, match=r'reduction="parts".*must return \(sum, count\); got'):
        training.make_train_step(own, accumulate=2)(state, x, 2 * x, jax.random.key(0))
    _, loss, _ = training.make_train_step(own)(state, x, 2 * x, jax.random.key(0))
    assert loss == 1
