"""All of torch's own samples of linear_cross_entropy pass through the chunked path, and its errors raise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxloss.fused import linear_cross_entropy
from parity_tests import quick_compilation
from parity_tests.fused.torch_samples import NOT_OURS, OPERATORS, to_jax


def test_samples_pass_through_the_chunked_path():
    environment = os.environ | {
        # Compiling a program takes 24 ms instead of 78.
        "XLA_FLAGS": quick_compilation.XLA_FLAGS,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    command = [sys.executable, "-m", "parity_tests.fused.torch_samples"]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-3000:]
    assert "OpInfo float64: 329 of 329 agree" in run.stdout
    assert "ModuleInfo float64: 857 of 857 agree" in run.stdout


def test_error_inputs_raise():
    count = 0
    for operator in OPERATORS[:1]:
        for error in operator.error_inputs("cpu"):
            sample = error.sample_input
            call = dict(zip(("input", "linear_weight", "target"), (sample.input, *sample.args), strict=False))
            options = {k: v for k, v in sample.kwargs.items() if k not in NOT_OURS}
            count += 1
            with pytest.raises((ValueError, TypeError)):
                linear_cross_entropy(**to_jax(call | options))
    assert count >= 5
