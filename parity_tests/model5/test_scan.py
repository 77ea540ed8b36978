"""Blocks called in a loop: the numbers, dropout included, and the parameters of blocks called one by one."""

import dataclasses

import jax
import pytest

from jaxloss import linear_next_token_loss
from jaxloss.model5 import Model5, init_params
from parity_tests.compare import assert_same, assert_within
from parity_tests.model5.pairs import TINY, jax_params, tokens
from parity_tests.quick_compilation import jit

CONFIG = dataclasses.replace(TINY, embed_dim=16, num_blocks=3)
IDS, TARGETS = tokens(CONFIG)
RNGS = {"dropout": jax.random.key(1)}


@pytest.mark.parametrize(("remat", "logits_to_keep"), [(False, None), (True, 1)])
def test_loss_and_gradients_are_those_of_blocks_called_one_by_one(remat, logits_to_keep):
    params = jax_params("float64", config=CONFIG)

    def results(**options):
        model = Model5(CONFIG, end_of_text=int(IDS[0, 7]), **options)

        def loss(params):
            hidden_BKD = model.apply(
                {"params": params}, IDS, False, logits_to_keep, rngs=RNGS, method="hidden"
            )
            targets_BK = TARGETS[:, -hidden_BKD.shape[1] :]
            return linear_next_token_loss(hidden_BKD, params["wte"]["embedding"], targets_BK)

        return jit(jax.value_and_grad(loss))(params)

    looped, called = results(scan=True, remat=remat), results()
    assert jax.tree.structure(looped) == jax.tree.structure(called)
    for a, b in zip(*map(jax.tree.leaves, (looped, called)), strict=True):
        assert_within(a, b, 64, "float64")


def test_parameters_are_those_of_each_block():
    made = jax.eval_shape(Model5(CONFIG, scan=True).init, jax.random.key(0), IDS)["params"]
    assert made == jax.eval_shape(lambda key: init_params(CONFIG, key), jax.random.key(0))


def test_masks_are_recorded_and_taken_as_without_the_loop():
    model, params = Model5(CONFIG, scan=True), jax_params("float64", config=CONFIG)

    @jit
    def outputs(params):
        drawn = model.apply({"params": params}, IDS, False, rngs=RNGS)
        recorded, masks = model.apply({"params": params}, IDS, False, rngs=RNGS, mutable=["dropout_masks"])
        given = model.apply({"params": params} | masks, IDS, False)
        return drawn, recorded, given, masks

    drawn, recorded, given, masks = outputs(params)
    assert len(jax.tree.leaves(masks)) == 1 + 3 * CONFIG.num_blocks
    assert_same(recorded, given)
    assert_within(drawn, recorded, 64, "float64")
