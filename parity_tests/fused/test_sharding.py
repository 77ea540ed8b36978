"""The chunked head on four devices: a sharded batch, a sharded vocabulary, both."""

import os
import subprocess
import sys
from pathlib import Path

from parity_tests import quick_compilation


def test_batch_and_vocabulary_may_be_sharded():
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count=4 {quick_compilation.XLA_FLAGS}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    command = [sys.executable, "-m", "parity_tests.fused.on_four_devices"]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stdout + run.stderr[-3000:]
    assert run.stdout.endswith("all of them\n")
