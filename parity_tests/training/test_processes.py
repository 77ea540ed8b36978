"""Two processes train on their own halves of a batch, and one goes on from their checkpoint."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxloss.training.checkpoint import newest_checkpoint, restore
from parity_tests.compare import assert_within
from parity_tests.quick_compilation import XLA_FLAGS
from parity_tests.training import process

ROOT = Path(__file__).parents[2]


def test_two_processes_have_the_losses_of_one_and_one_resumes_their_checkpoint(tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, str(ROOT / "parity_tests/training/process.py")]
    options = {"env": {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": XLA_FLAGS}, "text": True}
    both = [
        subprocess.Popen([*command, str(i), port, str(tmp_path)], stdout=subprocess.PIPE, **options)
        for i in range(2)
    ]
    printed = [run.communicate(timeout=300)[0].splitlines()[-1] for run in both]
    assert [run.returncode for run in both] == [0, 0]
    assert printed[0] == printed[1]  # the loss of the whole batch, and the whole weights

    found = newest_checkpoint(tmp_path, report=pytest.fail)
    state, losses = process.train(process.start(), 2)
    assert_within(np.array(found.identity["losses"]), np.array(losses), 64, "float64")
    resumed = restore(found, process.start())
    assert int(resumed.step) == 2
    assert resumed.params["head"].sharding.device_set == set(jax.devices()[:1])
    for a, b in zip(jax.tree.leaves(resumed.params), jax.tree.leaves(state.params), strict=True):
        assert_within(a, b, 64, "float64")
