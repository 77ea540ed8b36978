"""Documents kept apart: each as if it ran alone at its positions, in both frameworks."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxloss.model5 as jax_side
from jaxloss import next_token_loss
from jaxloss.data import eval_crops, sample_batch
from parity_tests.compare import assert_same, assert_within
from parity_tests.model5.pairs import TINY, jax_params, torch_model
from parity_tests.quick_compilation import jit
from parity_tests.tolerances import VALUE_EPS_OF_MAX

END = TINY.vocab_size - 1
# The first token ends a document of the crop before; two documents, and the beginning of a third.
IDS_T = np.array([END, 3, 1, 4, 1, 5, END, 9, END, 2, 6, 5, 3, 5, 8, 9])
DOCUMENTS = [(0, 1), (1, 7), (7, 9), (9, 16)]
STREAM = np.append(IDS_T, 7)
ALONE_EPS = 16


@cache
def isolated(end_of_text):
    model = jax_side.Model5(TINY, end_of_text)

    @jit
    def loss_and_gradient(params, ids_BT, targets_BT):
        def loss(params):
            logits_BTV = model.apply({"params": params}, ids_BT)
            return next_token_loss(logits_BTV, targets_BT, reduction="sum"), logits_BTV[0]

        (value, logits_TV), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return logits_TV, value, gradient

    return loss_and_gradient


def alone(params, start, stop):
    """One document at its positions: the position embedding is shifted, and what follows is out of sight."""
    length = TINY.context_length
    shifted = params | {"wpe": {"embedding": jnp.roll(params["wpe"]["embedding"], -start, axis=0)}}
    ids = np.resize(IDS_T[start:stop], length)
    targets = np.full(length, -100)
    targets[: stop - start] = STREAM[start + 1 : stop + 1]
    targets[: stop - start][ids[: stop - start] == END] = -100
    logits_TV, value, gradient = isolated(None)(shifted, ids[None], targets[None])
    gradient["wpe"] = {"embedding": jnp.roll(gradient["wpe"]["embedding"], start, axis=0)}
    return logits_TV[: stop - start], value, gradient


def test_each_document_is_as_if_it_ran_alone_in_value_and_gradient():
    params, dtype = jax_params("float64"), "float64"
    inputs_BT, targets_BT = sample_batch(
        STREAM, batch_size=1, context_length=16, seed=0, step=0, end_of_text=END
    )
    assert_same(inputs_BT[0], IDS_T)
    assert_same(targets_BT[0], np.where(IDS_T == END, -100, STREAM[1:]))
    logits_TV, value, gradient = isolated(END)(params, inputs_BT, targets_BT)
    parts = [alone(params, *document) for document in DOCUMENTS]
    assert_within(logits_TV, np.concatenate([part[0] for part in parts]), ALONE_EPS, dtype)
    assert_within(value, sum(part[1] for part in parts), ALONE_EPS, dtype)
    summed = jax.tree.map(lambda *leaves: sum(leaves), *(part[2] for part in parts))
    jax.tree.map(lambda a, b: assert_within(a, b, ALONE_EPS, dtype), gradient, summed)


@pytest.mark.parametrize("kept", [None, 5])
def test_both_frameworks_keep_documents_apart_alike(kept):
    params, model = jax_params("float64"), torch_model("float64")
    model.end_of_text = END
    ids_BT = np.stack([IDS_T, np.roll(IDS_T, 3)])
    apply = jit(lambda p: jax_side.Model5(TINY, END).apply({"params": p}, ids_BT, logits_to_keep=kept))
    assert_within(apply(params), model(torch.tensor(ids_BT), kept), VALUE_EPS_OF_MAX, "float64")


def test_no_crop_is_left_without_its_final_target():
    stream = np.tile([1, 2, 3, END], 30)
    for crops in (
        sample_batch(stream, batch_size=64, context_length=7, seed=0, step=0, end_of_text=END),
        eval_crops(stream, num_crops=60, context_length=4, end_of_text=END),
    ):
        inputs_BT, targets_BT = crops
        assert (targets_BT[:, -1] >= 0).all()
        assert ((targets_BT == -100) == (inputs_BT == END)).all()
