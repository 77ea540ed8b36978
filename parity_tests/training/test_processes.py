"""Two processes train on their own halves of a batch until one is told to stop; one goes on from there."""

import json
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


def test_two_processes_have_the_losses_of_one_stop_together_and_one_resumes_their_checkpoint(tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, str(ROOT / "parity_tests/training/process.py")]
    options = {"env": {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": XLA_FLAGS}, "text": True}
    both = [
        subprocess.Popen([*command, str(i), port, str(tmp_path)], stdout=subprocess.PIPE, **options)
        for i in range(2)
    ]
    try:
        printed = [run.communicate(timeout=120)[0].splitlines()[-1] for run in both]
    finally:
        for run in both:
            run.kill()
    assert [run.returncode for run in both] == [143, 143]  # SIGTERM came to process 1 only
    assert printed[0] == printed[1]  # the loss of the whole batch, and the whole weights
    reason, step, measured, (weights, restored) = json.loads(printed[0])
    assert (reason, step) == ("stopped by SIGTERM", 3)
    assert weights == restored

    found = newest_checkpoint(tmp_path, report=pytest.fail)
    state, expected = process.train(process.start(), 3)
    assert found.identity["measured"] == measured
    assert_within(np.array(measured), np.array(expected), 64, "float64")
    resumed = restore(found, process.start())
    assert int(resumed.step) == 3
    assert resumed.params["head"].sharding.device_set == set(jax.devices()[:1])
    for a, b in zip(jax.tree.leaves(resumed.params), jax.tree.leaves(state.params), strict=True):
        assert_within(a, b, 64, "float64")
