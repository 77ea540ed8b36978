"""Batch and parameters are placed by the program; a caller who mixes devices is helped or told."""

import os
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
import torch

from jaxloss import training
from parity_tests import quick_compilation
from parity_tests.training import tiny
from torch_ref import training as torch_training

TWO_DEVICES = """
    import jax
    jax.config.update("jax_num_cpu_devices", 2)
    import numpy as np
    from jaxloss import training
    from parity_tests.training import tiny

    one, two = jax.devices()
    state = tiny.jax_state("float32")
    assert state.params["wte"]["embedding"].sharding.device_set == {one, two}

    # A batch of numpy, or on any one device, is moved and split.
    placed = training.place_batch((jax.device_put(tiny.batch(0)[0], two),), state.params)[0]
    assert {shard.data.shape for shard in placed.addressable_shards} == {(2, 8)}
    key = jax.device_put(tiny.key(), two)
    state, loss, _ = tiny.jax_step("all")(state, *jax.device_put(tiny.batch(0), two), key)
    assert state.params["wte"]["embedding"].sharding.device_set == {one, two}
    print(float(loss).hex())

    # Three crops do not split over two devices: one works alone.
    alone = training.place_params(tiny.params("float32"), batch_size=3)
    assert alone["wte"]["embedding"].sharding.device_set == {one}

    # Parameters that a caller has scattered are refused.
    scattered = dict(alone, wpe=jax.device_put(alone["wpe"], two))
    try:
        training.place_batch(tiny.batch(0), scattered)
    except ValueError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def two_devices():
    program = "import parity_tests.conftest\n" + textwrap.dedent(TWO_DEVICES)
    environment = os.environ | {"XLA_FLAGS": quick_compilation.XLA_FLAGS}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_two_devices_share_a_batch_and_give_the_loss_of_one(two_devices):
    _, loss, _ = tiny.jax_step("all")(tiny.jax_state("float32"), *tiny.batch(0), tiny.key())
    assert float.fromhex(two_devices[0]) == pytest.approx(float(loss), rel=1e-6)


def test_scattered_parameters_are_refused_in_plain_words(two_devices):
    assert "all parameters must be on the same devices" in two_devices[1]
    assert "wpe/embedding" in two_devices[1]
    assert "place_params" in two_devices[1]


def test_params_are_copied_not_shared():
    params = tiny.params()
    placed = training.place_params(params, batch_size=4)
    leaf, copy = params["wte"]["embedding"], placed["wte"]["embedding"]
    assert leaf.unsafe_buffer_pointer() != copy.addressable_shards[0].data.unsafe_buffer_pointer()
    jax.tree.map(np.testing.assert_array_equal, placed, params)


def test_torch_batch_follows_the_model_and_becomes_int64():
    inputs, targets = torch_training.place_batch(tiny.batch(0), tiny.torch_model())
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.device.type == "cpu"


def test_torch_model_on_two_devices_is_refused_in_plain_words():
    model = tiny.torch_model()
    model.wpe.to("meta")
    with pytest.raises(ValueError, match=r"wte.weight is on cpu and wpe.weight is on meta.*place_params"):
        torch_training.place_batch(tiny.batch(0), model)
