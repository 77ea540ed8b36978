"""The last positions alone give what the whole computation has there, with dropout and without."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxloss.model5 as jax_side
from jaxloss.losses import final_token_loss
from jaxloss.model5._bernoulli import bernoulli
from parity_tests.compare import assert_same, assert_within
from parity_tests.model5.pairs import (
    TINY,
    jax_params,
    set_masks,
    shared_masks,
    tokens,
    torch_gradients,
    torch_model,
)
from parity_tests.quick_compilation import jit
from parity_tests.tolerances import GRADIENT_EPS_OF_MAX, VALUE_EPS_OF_MAX


@partial(jit, static_argnames="logits_to_keep")
def jax_gradients(params, masks, key, logits_to_keep):
    """Loss, logits of the last position and gradients; dropout by masks, by a key, or off."""
    inputs, targets = tokens()

    def loss(params):
        variables = {"params": params} if masks is None else {"params": params, "dropout_masks": masks}
        rngs = {} if key is None else {"dropout": key}
        logits_BKV = jax_side.Model5(TINY).apply(
            variables, inputs, masks is None and key is None, logits_to_keep, rngs=rngs
        )
        return final_token_loss(logits_BKV, targets[:, -logits_BKV.shape[1] :]), logits_BKV[:, -1]

    return jax.value_and_grad(loss, has_aux=True)(params)


def assert_same_step(actual, expected):
    (loss, logits), gradients = actual
    (whole_loss, whole_logits), whole_gradients = expected
    assert_within(loss, whole_loss, VALUE_EPS_OF_MAX, "float64", what="loss")
    assert_within(logits, whole_logits, VALUE_EPS_OF_MAX, "float64", what="logits")
    whole_arrays = jax_side.to_arrays(whole_gradients)
    for name, gradient in jax_side.to_arrays(gradients).items():
        if name.endswith("c_attn.bias"):  # the keys' part is zero but for rounding
            gradient, whole_arrays[name] = np.delete(
                [gradient, whole_arrays[name]], np.s_[TINY.embed_dim : 2 * TINY.embed_dim], axis=1
            )
        assert_within(gradient, whole_arrays[name], VALUE_EPS_OF_MAX, "float64", what=name)


@pytest.mark.parametrize(("dropout", "logits_to_keep"), [("masks", 1), ("masks", 3), ("key", 1)])
def test_last_positions_have_the_loss_and_gradients_of_the_whole(dropout, logits_to_keep):
    masks = shared_masks() if dropout == "masks" else None
    key = jax.random.key(3) if dropout == "key" else None
    params = jax_params("float64")
    whole = jax_gradients(params, masks, key, None)
    assert_same_step(jax_gradients(params, masks, key, logits_to_keep), whole)


@pytest.mark.parametrize("with_masks", [False, True])
def test_last_position_alone_matches_torch_in_value_and_every_gradient(with_masks):
    masks = shared_masks() if with_masks else None
    (loss, logits), gradients = jax_gradients(jax_params("float64"), masks, None, 1)
    model = torch_model("float64").train(with_masks)
    if with_masks:
        set_masks(model, masks)
    inputs, targets = (torch.tensor(ids, dtype=torch.int64) for ids in tokens())
    torch_logits = model(inputs, logits_to_keep=1)[:, -1]
    torch_loss = torch.nn.functional.cross_entropy(torch_logits, targets[:, -1])
    torch_loss.backward()
    assert_within(loss, torch_loss, VALUE_EPS_OF_MAX, "float64")
    assert_within(logits, torch_logits, VALUE_EPS_OF_MAX, "float64")
    expected = torch_gradients(model)
    for name, gradient in jax_side.to_arrays(gradients).items():
        assert_within(gradient, expected[name], GRADIENT_EPS_OF_MAX, "float64", what=name)


def test_torch_last_position_is_the_end_of_the_whole():
    for masks in (None, shared_masks()):
        model = torch_model("float64").train(masks is not None)
        if masks is not None:
            set_masks(model, masks)
        ids = torch.tensor(tokens()[0])
        for logits_to_keep in (1, 3):
            last = model(ids, logits_to_keep=logits_to_keep)
            assert_within(last, model(ids)[:, -logits_to_keep:], VALUE_EPS_OF_MAX, "float64")


def test_masks_written_by_the_last_position_are_those_of_the_whole():
    @partial(jit, static_argnames="logits_to_keep")
    def masks(logits_to_keep):
        variables, rngs = {"params": jax_params("float32")}, {"dropout": jax.random.key(3)}
        options = {"logits_to_keep": logits_to_keep, "rngs": rngs, "mutable": ["dropout_masks"]}
        return jax_side.Model5(TINY).apply(variables, tokens()[0], False, **options)[1]

    jax.tree.map(assert_same, masks(1), masks(None))


def test_last_block_multiplies_for_one_position():
    def flops(logits_to_keep):
        return jax_gradients.lower(jax_params("float64"), None, None, logits_to_keep).cost_analysis()["flops"]

    batch, length, width, hidden = 3, TINY.context_length, TINY.embed_dim, 4 * TINY.embed_dim
    # Of one position less: queries, output projection, MLP and head, forward and twice backward.
    products = 2 * width * width + 2 * width * hidden + width * TINY.vocab_size
    saved = 3 * 2 * batch * (length - 1) * products
    assert flops(None) - flops(1) > saved


def test_init_with_positions_to_keep_makes_every_parameter():
    def shapes(logits_to_keep):
        return jax.eval_shape(
            lambda: jax_side.Model5(TINY).init(jax.random.key(0), tokens()[0], True, logits_to_keep)
        )

    assert shapes(1) == shapes(None)


def test_positions_to_keep_are_checked():
    for bad in (0, -1, TINY.context_length + 1):
        with pytest.raises(ValueError, match=rf"logits_to_keep must be in \[1, 16\]; got {bad}"):
            jax.eval_shape(
                lambda: jax_side.Model5(TINY).apply({"params": jax_params("float32")}, tokens()[0], True, bad)  # noqa: B023
            )
        with pytest.raises(ValueError, match=rf"logits_to_keep must be in \[1, 16\]; got {bad}"):
            torch_model("float32")(torch.tensor(tokens()[0]), logits_to_keep=bad)


@pytest.mark.parametrize(
    ("p", "shape"),
    [(p, (3, 5, 7)) for p in (0.0, 0.123456, 0.9, 1.0)]
    + [(0.9, (2, 4, 16, 16)), (0.9, (11,)), (0.9, (0, 3))],
)
def test_masks_are_those_of_jax_random_bernoulli(p, shape):
    draw = jit(lambda key: bernoulli(key, p, shape))
    end = jit(lambda key: bernoulli(key, p, shape, shape[-2] - 1)) if len(shape) > 2 else None
    for key in (jax.random.key(0), jax.random.key(2**40 + 7)):
        expected = jax.random.bernoulli(key, jnp.float32(p), shape)
        assert_same(draw(key), expected)
        if end:
            assert_same(end(key), expected[..., -1:, :])


def test_masks_of_other_generators_are_jaxs_own():
    key = jax.random.key(0, impl="rbg")
    expected = jax.random.bernoulli(key, jnp.float32(0.9), (4, 8, 8))
    assert_same(bernoulli(key, 0.9, (4, 8, 8)), expected)
    assert_same(bernoulli(key, 0.9, (4, 8, 8), 7), expected[:, 7:])
