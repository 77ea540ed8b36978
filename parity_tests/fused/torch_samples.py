"""Torch's own samples of linear_cross_entropy, through the chunked path: values and gradients.

All 329 OpInfo samples and 857 ModuleInfo inputs, in chunks of at most three tokens, in float64, which shows
any mistake that the other dtypes would; some of them in float32 and bfloat16 too. A process of its own, since
XLA has to be told at its start to compile quickly: a thousand programs, most of which run once or twice.
"""

import functools
import itertools
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn import functional as F
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

from jaxloss.fused import linear_cross_entropy
from parity_tests.compare import error_in_eps
from parity_tests.tolerances import BFLOAT16_ULP, VALUE_EPS_OF_MAX

OPERATORS = [op for op in op_db if op.name == "nn.functional.linear_cross_entropy"]
(MODULE,) = [module for module in module_db if module.name == "nn.LinearCrossEntropyLoss"]
NOT_OURS = ("device", "dtype", "options")

# Inputs are rounded to about half the digits, so that the product is all but exact: logits of 30, as these
# samples have, would turn its rounding into 30 times as much in the softmax, of either framework.
INPUT_DTYPE = {"float64": torch.float32, "float32": torch.bfloat16, "bfloat16": torch.bfloat16}
# Of the samples of each dtype, one in so many is run.
ONE_IN = {"float64": 1, "float32": 41, "bfloat16": 41}


def operator_calls() -> Iterator[dict[str, Any]]:
    for operator in OPERATORS:
        for sample in operator.sample_inputs("cpu", torch.float64, requires_grad=True):
            options = {k: v for k, v in sample.kwargs.items() if k not in NOT_OURS}
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
        call |= {k: v for k, v in options.items() if k not in NOT_OURS}
        call["linear_weight"] = linear_weight.requires_grad_()
        if has_bias:
            call["linear_bias"] = torch.linspace(
                -0.5, 0.5, math.prod(shape[:-1]), dtype=torch.float64
            ).reshape(shape[:-1])
        yield call


def rounded(call: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The call with its floating-point tensors rounded to the inputs' dtype, still in float64."""

    def round_(value):
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        return value.detach().to(INPUT_DTYPE[dtype]).double().requires_grad_(value.requires_grad)

    return {name: round_(value) for name, value in call.items()}


def to_jax(call: dict[str, Any], dtype: str = "float64") -> dict[str, Any]:
    """The call with JAX's arrays, converted by numpy, which compiles nothing."""
    arrays = {k: v.detach().numpy() if isinstance(v, torch.Tensor) else v for k, v in call.items()}
    if arrays["target"].dtype == np.float64 and arrays["target"].ndim > 1:
        arrays["target"] = np.moveaxis(arrays["target"], 1, -1)
    return {
        k: jnp.asarray(v, dtype if v.dtype == np.float64 else None) if isinstance(v, np.ndarray) else v
        for k, v in arrays.items()
    }


@functools.cache
def program(wrt: tuple[str, ...], options: tuple, shapes: tuple) -> Callable:
    """Value and gradients of every call with these options, shapes and dtypes: traced once, not compiled.

    The programs inside are compiled, and shared with the calls of other options that take them too.
    """

    def value_and_gradients(arrays, cotangent):
        def of_wrt(chosen):
            call = arrays | chosen | dict(options)
            return linear_cross_entropy(**call, implementation="chunked", chunk_size=3)

        value, pull_back = jax.vjp(of_wrt, {k: arrays[k] for k in wrt})
        return value, *pull_back(cotangent.astype(value.dtype))[0].values()

    *arrays, cotangent = (jax.ShapeDtypeStruct(*shape) for _, *shape in shapes)
    arrays = dict(zip((name for name, *_ in shapes), arrays, strict=False))
    return jax.extend.core.jaxpr_as_fun(jax.make_jaxpr(value_and_gradients)(arrays, cotangent))


def errors(call: dict[str, Any], dtype: str) -> list[float]:
    """Of the value and of each gradient, in units of what is allowed for it."""
    wrt = [k for k, v in call.items() if isinstance(v, torch.Tensor) and v.requires_grad]
    expected = F.linear_cross_entropy(**call)
    cotangent = np.random.default_rng(0).standard_normal(tuple(expected.shape)).astype(np.float32)
    expected_gradients = torch.autograd.grad(
        expected, [call[k] for k in wrt], torch.asarray(cotangent).double(), materialize_grads=True
    )
    arrays, options = to_jax(call, dtype), {}
    for name in [name for name, value in arrays.items() if not isinstance(value, jax.Array)]:
        options[name] = arrays.pop(name)
    leaves = [*sorted(arrays.items()), ("cotangent", jnp.asarray(cotangent))]
    shapes = tuple((name, array.shape, array.dtype) for name, array in leaves)
    value_and_gradients = program(tuple(wrt), tuple(options.items()), shapes)
    value, *gradients = value_and_gradients(*(array for _, array in leaves))
    gradients = dict(zip(sorted(wrt), gradients, strict=True))
    if "target" in wrt and gradients["target"].ndim > 1:
        gradients["target"] = np.moveaxis(gradients["target"], -1, 1)
    found = [error_in_eps(value, expected) / VALUE_EPS_OF_MAX]
    allowed = BFLOAT16_ULP if dtype == "bfloat16" else VALUE_EPS_OF_MAX
    for name, wanted in zip(wrt, expected_gradients, strict=True):
        # A prediction that happens to meet its target leaves a gradient of roundings only.
        largest = max(float(wanted.abs().max()), float(np.abs(cotangent).max()) / 16)
        found.append(error_in_eps(gradients[name], wanted, scale=largest) / allowed)
    return found


def run(name: str, calls: Iterator[dict[str, Any]], dtype: str) -> int:
    """The number of samples that differ, each of which is printed."""
    num_wrong, count = 0, 0
    for call in itertools.islice(calls, 0, None, ONE_IN[dtype]):
        count += 1
        call = rounded(call, dtype)
        found = errors(call, dtype)
        if max(found) > 1.0:
            num_wrong += 1
            shapes = {k: tuple(v.shape) if isinstance(v, torch.Tensor) else v for k, v in call.items()}
            print(f"{dtype}, {shapes}: errors of {[f'{e:.3g}' for e in found]} times what is allowed")
    print(f"{name} {dtype}: {count - num_wrong} of {count} agree", flush=True)
    return num_wrong


def main() -> int:
    jax.config.update("jax_enable_x64", True)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    return sum(
        run(name, calls(), dtype)
        for dtype in ONE_IN
        for name, calls in (("OpInfo", operator_calls), ("ModuleInfo", module_calls))
    )


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
