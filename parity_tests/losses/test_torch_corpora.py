"""Torch's own samples of its losses, in values and gradients; and what torch refuses is refused."""

import functools
import inspect
from collections.abc import Iterator

import pytest
import torch

from jaxloss import losses
from parity_tests.losses.torch_samples import (
    FUNCTIONS,
    MODULES,
    OPERATORS,
    Call,
    bind,
    module_call,
    module_calls,
    to_jax,
)
from parity_tests.quick_compilation import output_of


@pytest.mark.parametrize(("dtypes", "num_samples"), [(["float64"], 928), (["float32", "bfloat16"], 2 * 147)])
def test_samples_have_torchs_values_and_gradients(dtypes, num_samples):
    lines = output_of("parity_tests.losses.torch_samples", *dtypes).splitlines()
    assert [line.split(":")[0] for line in lines] == [*OPERATORS, *MODULES] * len(dtypes)
    agree = [tuple(int(number) for number in line.split()[1:4:2]) for line in lines]
    assert all(agreeing == count > 0 for agreeing, count in agree), lines
    assert sum(count for _, count in agree) == num_samples


def test_every_loss_of_torch_has_its_samples():
    assert len(OPERATORS) == 21
    assert set(FUNCTIONS) == set(MODULES)


def operator_errors() -> Iterator[Call]:
    for name, operator in OPERATORS.items():
        for error in operator.error_inputs("cpu") if operator.error_inputs_func else []:
            sample = error.sample_input
            yield bind(name, (sample.input, *sample.args), sample.kwargs)


def module_errors() -> Iterator[Call]:
    for name, module in MODULES.items():
        if module.module_error_inputs_func is None:
            continue
        # A constructor that raises comes without an input; any valid one will do.
        valid = next(module_calls(name, torch.float64)).arguments
        for error in module.module_error_inputs_func(module, "cpu", torch.float64, True, training=True):
            inputs = error.module_error_input
            if inputs.forward_input is not None:
                yield module_call(module, inputs.constructor_input, inputs.forward_input)
                continue
            constructor = inputs.constructor_input
            options = (
                inspect.signature(module.module_cls).bind(*constructor.args, **constructor.kwargs).arguments
            )
            yield Call(FUNCTIONS[name], {key: valid[key] for key in ("input", "target")} | options)


@pytest.mark.parametrize(("calls", "at_least"), [(operator_errors, 45), (module_errors, 10)])
def test_error_inputs_raise(calls, at_least):
    accepted, count = [], 0
    for call in calls():
        count += 1
        weight = call.arguments.get("weight")
        if weight is not None and weight.dtype == torch.float16:
            continue  # A weight of another dtype than the input's is promoted here, refused there.
        loss = getattr(losses, call.name)
        if "axis" in inspect.signature(loss).parameters:
            loss = functools.partial(loss, axis=1)
        try:
            loss(**{key: to_jax(value, "float64") for key, value in call.arguments.items()})
        except (TypeError, ValueError):
            continue
        accepted.append(str(call))
    assert count >= at_least
    assert not accepted, f"{len(accepted)} of {count} accepted:\n" + "\n".join(accepted)
