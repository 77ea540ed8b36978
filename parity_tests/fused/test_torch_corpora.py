"""Torch's own samples of linear_cross_entropy, through the chunked path: values and gradients.

All 329 OpInfo samples and 857 ModuleInfo inputs, in chunks of at most three tokens; in float64, which shows
any mistake that the other dtypes would. They need some three hundred compiled programs, minutes of nothing
else: without FUSED_EVERY_SAMPLE=1 in the environment, one OpInfo sample in 11 and one module input in
23 are run.
"""

import itertools
import math
import os
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

from jaxloss.fused import linear_cross_entropy
from parity_tests.compare import error_in_eps
from parity_tests.tolerances import VALUE_EPS_OF_MAX

OPERATORS = [op for op in op_db if op.name == "nn.functional.linear_cross_entropy"]
(MODULE,) = [module for module in module_db if module.name == "nn.LinearCrossEntropyLoss"]
_NOT_OURS = ("device", "dtype", "options")


def operator_calls() -> Iterator[dict[str, Any]]:
    for operator in OPERATORS:
        for sample in operator.sample_inputs("cpu", torch.float64, requires_grad=True):
            options = {k: v for k, v in sample.kwargs.items() if k not in _NOT_OURS}
            linear_weight, target = sample.args
            yield {"input": sample.input, "linear_weight": linear_weight, "target": target, **options}


def module_calls() -> Iterator[dict[str, Any]]:
    for inputs in MODULE.module_inputs_func(MODULE, "cpu", torch.float64, True, training=True):
        (width, num_classes), options = inputs.constructor_input.args, dict(inputs.constructor_input.kwargs)
        heads, has_bias = options.pop("out_features", ()), options.pop("bias", False)
        shape = (num_classes, *heads, width)
        # A module makes its own weights; any will do.
        linear_weight = torch.linspace(-1.0, 1.0, math.prod(shape), dtype=torch.float64).reshape(shape).sin()
        call = dict(zip(("input", "target"), inputs.forward_input.args, strict=True))
        call |= {k: v for k, v in options.items() if k not in _NOT_OURS}
        call["linear_weight"] = linear_weight.requires_grad_()
        if has_bias:
            call["linear_bias"] = torch.linspace(
                -0.5, 0.5, math.prod(shape[:-1]), dtype=torch.float64
            ).reshape(shape[:-1])
        yield call


def to_jax(call: dict[str, Any]) -> dict[str, Any]:
    arrays = {
        k: jnp.asarray(v.detach().numpy()) if isinstance(v, torch.Tensor) else v for k, v in call.items()
    }
    if arrays["target"].dtype == jnp.float64 and arrays["target"].ndim > 1:
        arrays["target"] = jnp.moveaxis(arrays["target"], 1, -1)
    return arrays


def errors(call: dict[str, Any]) -> list[float]:
    wrt = [k for k, v in call.items() if isinstance(v, torch.Tensor) and v.requires_grad]
    expected = F.linear_cross_entropy(**call)
    cotangent = np.random.default_rng(0).standard_normal(tuple(expected.shape))
    expected_gradients = torch.autograd.grad(
        expected, [call[k] for k in wrt], torch.asarray(cotangent), materialize_grads=True
    )
    ours = to_jax(call)

    def of_wrt(*chosen):
        arguments = ours | dict(zip(wrt, chosen, strict=True))
        return linear_cross_entropy(**arguments, implementation="chunked", chunk_size=3)

    value, pull_back = jax.vjp(of_wrt, *(ours[k] for k in wrt))
    gradients = dict(zip(wrt, pull_back(jnp.asarray(cotangent)), strict=True))
    if "target" in wrt and gradients["target"].ndim > 1:
        gradients["target"] = jnp.moveaxis(gradients["target"], -1, 1)
    found = [error_in_eps(value, expected)]
    for actual, wanted in zip(gradients.values(), expected_gradients, strict=True):
        # A prediction that happens to meet its target leaves a gradient of roundings only.
        largest = max(float(wanted.abs().max()), float(np.abs(cotangent).max()) / 16)
        found.append(error_in_eps(actual, wanted, scale=largest))
    return found


@pytest.mark.parametrize(("calls", "one_in"), [(operator_calls, 11), (module_calls, 23)])
def test_samples_pass_through_the_chunked_path(calls, one_in):
    one_in = 1 if os.environ.get("FUSED_EVERY_SAMPLE") == "1" else one_in
    wrong, count = [], 0
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for call in itertools.islice(calls(), 0, None, one_in):
            count += 1
            found = errors(call)
            if max(found) > VALUE_EPS_OF_MAX:
                shapes = {k: tuple(v.shape) if isinstance(v, torch.Tensor) else v for k, v in call.items()}
                wrong.append(f"{shapes}: errors of {[f'{e:.3g}' for e in found]} eps of max")
    assert count >= 329 // one_in
    assert not wrong, f"{len(wrong)} of {count} samples differ:\n" + "\n".join(wrong)


def test_error_inputs_raise():
    count = 0
    for operator in OPERATORS[:1]:
        for error in operator.error_inputs("cpu"):
            sample = error.sample_input
            call = dict(zip(("input", "linear_weight", "target"), (sample.input, *sample.args), strict=False))
            options = {k: v for k, v in sample.kwargs.items() if k not in _NOT_OURS}
            count += 1
            with pytest.raises((ValueError, TypeError)):
                linear_cross_entropy(**to_jax(call | options))
    assert count >= 5
