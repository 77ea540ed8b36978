"""All of torch's own samples of linear_cross_entropy pass through the chunked path, and its errors raise."""

import pytest

from jaxloss.fused import linear_cross_entropy
from parity_tests.fused.torch_samples import NOT_OURS, OPERATORS, to_jax
from parity_tests.quick_compilation import output_of


def test_samples_pass_through_the_chunked_path():
    output = output_of("parity_tests.fused.torch_samples")
    assert "OpInfo float64: 329 of 329 agree" in output
    assert "ModuleInfo float64: 857 of 857 agree" in output


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
