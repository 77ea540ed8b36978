"""Batch and parameters are placed by the program; a caller who mixes devices is helped or told."""

import jax
import numpy as np
import pytest
import torch

from jaxloss import next_token_loss, training
from jaxloss.training.placement import restored_on_devices
from parity_tests.training import tiny
from torch_ref import training as torch_training


@pytest.fixture
def two_devices(monkeypatch):
    """Two devices that share the work; other tests of training have one."""
    devices = jax.devices()[:2]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    return devices


def test_two_devices_share_a_batch_and_give_the_loss_of_one(two_devices):
    one, two = two_devices
    state = tiny.jax_state("float32")
    assert _devices(state.params) == {one, two}

    # A batch of numpy, or on any one device, is moved and split.
    placed = training.place_batch((jax.device_put(tiny.batch(0)[0], two),), state.params)[0]
    assert {shard.data.shape for shard in placed.addressable_shards} == {(2, 8)}
    key = jax.device_put(tiny.key(), two)
    state, loss, _ = tiny.jax_step("all")(state, *jax.device_put(tiny.batch(0), two), key)
    assert _devices(state.params) == {one, two}

    inputs, targets = tiny.batch(0)
    alone = next_token_loss(tiny.logits(tiny.params("float32"), inputs), targets)
    assert float(loss) == pytest.approx(float(alone), rel=1e-6)


def test_one_device_works_alone_on_three_crops(two_devices):
    with pytest.warns(UserWarning, match="batch_size 3 is shared by 1 of 2 devices"):
        params = training.place_params(tiny.params("float32"), batch_size=3)
    assert _devices(params) == {two_devices[0]}


def test_numpy_arrays_join_the_devices_of_the_rest_or_those_that_share_the_batch(two_devices):
    state = tiny.jax_state("float32")
    read = jax.tree.map(np.array, state)
    for mixed in (state.replace(params=read.params), state.replace(opt_state=read.opt_state), read):
        placed = jax.tree.leaves(restored_on_devices(mixed, batch_size=4))
        assert all(leaf.sharding.device_set == set(two_devices) for leaf in placed)
    assert _devices(restored_on_devices(read, batch_size=2).params) == set(two_devices)
    assert restored_on_devices(state, batch_size=4) is state


def test_scattered_parameters_are_refused_in_plain_words(two_devices):
    params = training.place_params(tiny.params("float32"), batch_size=1, mesh=_first_alone())
    scattered = dict(params, wpe=jax.device_put(params["wpe"], two_devices[1]))
    with pytest.raises(ValueError, match=r"all parameters must be on the same devices") as error:
        training.place_batch(tiny.batch(0), scattered)
    assert "wpe/embedding" in str(error.value)
    assert "place_params" in str(error.value)


def _first_alone():
    return training.make_mesh(batch_size=1, data=1)


def _devices(params):
    return params["wte"]["embedding"].sharding.device_set


def test_params_are_copied_not_shared():
    params = tiny.params()
    placed = training.place_params(params, batch_size=4)
    leaf, copy = params["wte"]["embedding"], placed["wte"]["embedding"]
    assert leaf.unsafe_buffer_pointer() != copy.addressable_shards[0].data.unsafe_buffer_pointer()
    jax.tree.map(np.testing.assert_array_equal, placed, params)


def test_ids_beyond_the_integers_of_jax_are_not_wrapped():
    ids = np.array([2**32 + 1, 1 - 2**32, 7])
    for dtype, expected in ((np.int64, [2**31 - 1, -(2**31), 7]), (np.uint64, [2**32 - 1, 2**32 - 1, 7])):
        with jax.enable_x64(False):
            (placed,) = training.place_batch((ids.astype(dtype),), tiny.params())
        assert placed.tolist() == expected
    (placed,) = torch_training.place_batch((ids,), tiny.torch_model())
    assert placed.tolist() == ids.tolist()


def test_torch_batch_follows_the_model_and_becomes_int64():
    inputs, targets = torch_training.place_batch(tiny.batch(0), tiny.torch_model())
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.device.type == "cpu"


def test_torch_model_on_two_devices_is_refused_in_plain_words():
    model = tiny.torch_model()
    model.wpe.to("meta")
    with pytest.raises(ValueError, match=r"wte.weight is on cpu and wpe.weight is on meta.*place_params"):
        torch_training.place_batch(tiny.batch(0), model)
