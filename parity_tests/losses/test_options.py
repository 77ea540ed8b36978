"""Options that are numbers, of every loss: of any type, traced and learnt, or known when it is traced.

The annotations say which: an option may be an array if it is a `Scalar`, and not if it is an `int`.
"""

import inspect
import re
from functools import partial
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss
from jaxloss._checks import Scalar
from parity_tests.cases import CASES
from parity_tests.compare import assert_within
from parity_tests.losses.promises import compiled
from parity_tests.tolerances import GRADIENT_EPS_OF_MAX, VALUE_EPS_OF_MAX

# Whose gradient takes part of the value as a constant, and is not what that changes by.
HOLDS_CONSTANT = ("cispo_loss",)
PARAMETERS = {name: inspect.signature(getattr(jaxloss, name)).parameters for name in CASES}


def _options(kind):
    """The losses' options whose annotation holds any of these types."""
    return [
        pytest.param(name, option, id=f"{name} {option}")
        for name, parameters in PARAMETERS.items()
        for option, parameter in parameters.items()
        if {*kind} & {parameter.annotation, *get_args(parameter.annotation)}
    ]


ARRAYS = _options(get_args(Scalar)[1:])
KNOWN = [option for option in _options([int, float]) if option not in ARRAYS]


def _loss(name, option, dtype="float64"):
    """The loss as a function of this option and its first input, and that input.

    It is the loss's last sample, but for an option that another sample is about.
    """
    sample = next((sample for sample in CASES[name] if option in sample.options), CASES[name][-1])
    named = dict(zip(PARAMETERS[name], sample.arguments(dtype), strict=False)) | sample.options
    first, input = next(iter(named.items()))
    return lambda value, x: getattr(jaxloss, name)(**(named | {first: x, option: value})), input


def _jaxpr(loss, value, input):
    return re.sub("0x[0-9a-f]+", "", str(jax.make_jaxpr(partial(loss, value))(input)))


def test_only_a_norms_power_is_a_real_number_known_when_a_loss_is_traced():
    assert {p.values[1] for p in _options([float]) if p not in ARRAYS} <= {"p"}


@pytest.mark.parametrize(("name", "option"), [*ARRAYS, *KNOWN])
def test_a_number_may_be_pythons_or_numpys(name, option):
    loss, input = _loss(name, option, "float32")
    is_int = int in {annotation := PARAMETERS[name][option].annotation, *get_args(annotation)}
    kinds = [np.int64, np.array] if is_int else [float, np.float32, np.float64, np.array]
    expected = _jaxpr(loss, 1, input)
    for kind in kinds:
        assert _jaxpr(loss, kind(1), input) == expected, kind


@pytest.mark.parametrize("name", [name for name in CASES if "reduction" in PARAMETERS[name]])
def test_parts_are_a_sum_and_a_count(name):
    loss, input = _loss(name, "reduction")
    parts = jax.eval_shape(partial(loss, "parts"), input)
    assert [part.shape for part in parts] == [(), ()]
    if name in ("cross_entropy", "ctc_loss"):
        total, count = compiled(partial(loss, "parts"))(input)
        assert_within(total / count, compiled(partial(loss, "mean"))(input), VALUE_EPS_OF_MAX)


@pytest.mark.parametrize(("name", "option"), KNOWN)
def test_an_option_that_decides_the_program_refuses_arrays_by_name(name, option):
    loss, input = _loss(name, option)
    message = rf"{option} must be an? (int|number).*; got the array int64\[\]. It decides how the function"
    with pytest.raises(TypeError, match=message):
        jax.eval_shape(loss, 1, input)


# Those of the fused heads are learnt in fused/test_scalars.py.
@pytest.mark.parametrize(("name", "option"), [p for p in ARRAYS if not p.values[0].startswith("linear_")])
def test_an_array_has_the_numbers_value_and_its_own_gradient(name, option):
    loss, input = _loss(name, option)
    low, high, beyond = _range(loss, option, input)
    inside = max(0.5, low + 0.5 * np.isfinite(low))
    # At the ends of the range too, where a number leaves out part of the program.
    numbers = [inside, *{low, high} - {-np.inf, np.inf} - {*beyond}]
    wrt_input = jax.value_and_grad(lambda value, x: jnp.sum(loss(value, x)), 1)
    expected = compiled(lambda x: [wrt_input(number, x) for number in numbers])(input)
    of_both = jax.value_and_grad(lambda value, x: jnp.sum(loss(value, x)), (0, 1))
    direction, step = (1.0, jnp.cos(jnp.arange(input.size)).reshape(input.shape)), 1e-6
    of_array, forward = compiled(of_both), compiled(lambda *point: jax.jvp(of_both, point, direction))
    for number, (value, gradient) in zip(numbers, expected, strict=True):
        found, (_, found_gradient) = of_array(number, input)
        assert_within(found, value, VALUE_EPS_OF_MAX, what=f"{number}")
        assert_within(found_gradient, gradient, GRADIENT_EPS_OF_MAX, what=f"{number}")
    direction, step = (1.0, jnp.cos(jnp.arange(input.size)).reshape(input.shape)), 1e-6
    ahead, behind = (of_array(inside + h, input + h * direction[1]) for h in (step, -step))
    changes = [] if name in HOLDS_CONSTANT else [forward(inside, input)[1], ahead, behind]
    for found, *ends in zip(*map(jax.tree.leaves, changes), strict=True):
        np.testing.assert_allclose(found, (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-8)
    for number in beyond:
        value, (slope, gradient) = of_array(number, input)
        assert np.isnan(value)
        assert np.isnan(slope)
        assert np.isnan(gradient).any()


def _range(loss, option, input):
    """The range that the loss names when it refuses NaN, and a value beyond each of its ends."""
    with pytest.raises(ValueError, match=f"{option} must be in") as error:
        loss(np.nan, input)
    ends = re.search(r"in ([\[(])(\S+), (\S+)([\])])", str(error.value))
    low, high = float(ends[2]), float(ends[3])
    beyond = [low - (ends[1] == "["), high + (ends[4] == "]")]
    return low, high, [value for value in beyond if np.isfinite(value)]


# Parameters and predictions have a dtype, as other arguments do.
@pytest.mark.parametrize(
    ("name", "option"),
    [p for p in ARRAYS if p.values[1] not in ("var", "logit_scale", "teacher_logit_scale")],
)
def test_an_array_does_not_widen_the_loss(name, option):
    loss, input = _loss(name, option, "float32")
    for dtype in ("float64", "bfloat16", "int32"):
        number = jnp.ones((), dtype)
        assert jax.eval_shape(loss, number, input).dtype == "float32"
    gradient = jax.grad(lambda value: jnp.sum(loss(value, input)))
    assert jax.eval_shape(gradient, jnp.ones((), "float64")).dtype == "float64"
    with pytest.raises((ValueError, TypeError), match=f"{option} must"):
        jax.eval_shape(loss, jnp.ones((2, 2)), input)
