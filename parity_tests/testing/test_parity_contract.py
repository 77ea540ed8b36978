"""What the harness refuses and what it accepts."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from jaxloss.testing import Pair, assert_parity, check_parity, integers, normal, parity_table


def _square(x):
    return x**2


def _call(*inputs, jax_fn=_square, torch_fn=torch.square, **options):
    return (jax_fn, torch_fn, *inputs), options


LINEAR = torch.nn.Linear(3, 2)
DROPPING = torch.nn.Sequential(LINEAR, torch.nn.Dropout(0.5))
KERNEL, BIAS = np.ones((3, 2)), np.ones(2)

# What is wrong -> the error with part of its message, and the call.
REFUSED = {
    "wrt of labels": (
        TypeError("input 0, which is not differentiable: it is int32"),
        _call(integers(3, high=5), wrt=(0,)),
    ),
    "wrt out of range": (ValueError("wrt names input 1, but there are 1 inputs"), _call(normal(3), wrt=(1,))),
    "wrt by name": (TypeError("wrt must hold positions of inputs"), _call(normal(3), wrt=("x",))),
    "wrt no position": (
        TypeError("wrt must hold positions of inputs, such as (0, 1); got 0.5"),
        _call(normal(3), wrt=0.5),
    ),
    "wrt twice": (ValueError("wrt names input 0 twice"), _call(normal(3), wrt=(0, 0))),
    "only labels": (ValueError("no input is floating point"), _call(integers(3, high=5))),
    "no inputs": (ValueError("at least one array"), _call()),
    "unknown dtype": (ValueError("dtypes must be some of float64"), _call(normal(3), dtypes=("float8",))),
    "no tolerance": (
        ValueError("value_eps must be finite and at least 0; got inf"),
        _call(normal(3), value_eps=float("inf")),
    ),
    "no function": (TypeError("jax_fn must be callable; got int"), _call(normal(3), jax_fn=3)),
    "class for module": (
        TypeError("torch_fn must be a module, not its class; got MSELoss"),
        _call(normal(3), torch_fn=torch.nn.MSELoss),
    ),
    "unknown device": (
        ValueError("device must be one that torch has here; got 'cuda:99'"),
        _call(normal(3), device="cuda:99"),
    ),
    "NaN in": (ValueError("input 0 holds NaN"), _call(np.array([1.0, np.nan]))),
    "NaN in both": (
        ValueError("value is nan in JAX and nan in torch at (1,)"),
        _call(np.array([1.0, -1.0]), jax_fn=jnp.log, torch_fn=torch.log),
    ),
    "gradients all zero": (
        ValueError("every gradient is exactly 0 in both"),
        _call(normal(3), jax_fn=jnp.sign, torch_fn=torch.sign),
    ),
    "empty": (ValueError("empty"), _call(normal(0, 3))),
    "complex": (TypeError("input 0 must hold real numbers"), _call(np.ones(3, complex))),
    "random key": (TypeError("input 1 is a JAX random key"), _call(normal(3), jax.random.key(0))),
    "module in training mode": (
        ValueError("in training mode and drops at random in 1"),
        _call(normal(2, 3), torch_fn=DROPPING),
    ),
    "functional dropout": (
        ValueError("two results for the same inputs"),
        _call(normal(50), torch_fn=lambda x: F.dropout(x, 0.5)),
    ),
    "no tensor out": (
        TypeError("must return tensors; got float"),
        _call(normal(3), torch_fn=lambda x: float(x.sum())),
    ),
    "complex out": (
        TypeError("must return real numbers; got complex128"),
        _call(normal(3), torch_fn=lambda x: torch.complex(x, x)),
    ),
    "params without a module": (
        TypeError("params goes with an nn.Module"),
        _call(normal(3), params={"w": np.ones(3)}),
    ),
    "missing parameter": (
        ValueError("only in the torch module: bias"),
        _call(normal(1, 3), torch_fn=LINEAR, params={"kernel": KERNEL}),
    ),
    "integer parameter": (
        TypeError("params['kernel'] must be floating point, to be differentiated; got int64"),
        _call(normal(1, 3), torch_fn=LINEAR, params={"kernel": KERNEL.astype(int), "bias": BIAS}),
    ),
    "parameter's shape": (
        ValueError("weight: [3, 2] in params, [2, 3] in torch"),
        _call(normal(1, 3), torch_fn=LINEAR, params={"kernel": KERNEL.T, "bias": BIAS}),
    ),
}


@pytest.mark.parametrize(("error", "call"), REFUSED.values(), ids=REFUSED)
def test_meaningless_comparison_is_refused(error, call):
    args, options = call
    with pytest.raises(type(error), match=re.escape(str(error))):
        assert_parity(*args, **options)


@pytest.mark.parametrize(
    ("jax_fn", "message"),
    [
        (lambda x: x[:2], r"float64\[2\]; torch returns value: float64\[3\]"),
        (lambda x: (x, x), r"value \[0\]: float64\[3\], value \[1\]: float64\[3\]; torch returns value: "),
        (lambda x: x > 0, r"value: bool\[3\]; torch returns value: float64\[3\]"),
        (lambda x: (), "the JAX function returns nothing"),
    ],
)
def test_different_outputs_are_a_disagreement_not_a_broadcast(jax_fn, message):
    with pytest.raises(AssertionError, match=message):
        assert_parity(jax_fn, torch.square, normal(3))


def test_outputs_under_other_names_are_a_disagreement():
    with pytest.raises(
        AssertionError, match=r"returns value \['a'\]: .*\['c'\]: .*torch .*\['a'\]: .*\['b'\]"
    ):
        assert_parity(lambda x: {"a": x, "c": x}, lambda x: {"a": x, "b": x}, normal(3))


def test_many_outputs_and_named_tuples_are_compared_in_their_order():
    def powers(x):
        return [x**i for i in range(1, 13)]

    assert_parity(powers, lambda x: tuple(powers(x)), normal(3), dtypes="float64")
    assert_parity(jnp.linalg.slogdet, torch.linalg.slogdet, normal(3, 3), dtypes="float64")


def test_infinity_on_one_side_is_a_disagreement():
    def without_pole(x):
        return torch.where(x == 1, 0, 1 / (x - 1))

    report = check_parity(lambda x: 1 / (x - 1), without_pole, np.arange(3.0), allow_nonfinite=True)
    assert not report.passed


def test_jax_function_that_looks_at_values_is_told_about_jit():
    with pytest.raises(jax.errors.ConcretizationTypeError) as caught:
        check_parity(lambda x: x if x[0] > 0 else -x, torch.abs, np.ones(1))
    assert any("jit=False" in note for note in caught.value.__notes__)


def test_error_of_the_torch_function_says_what_it_was_given():
    with pytest.raises(RuntimeError, match="cannot be multiplied") as caught:
        check_parity(lambda x: x @ x.T, lambda x: x @ x, normal(3, 2))
    assert "given float64[3, 2] on cpu" in "".join(caught.value.__notes__)


def test_table_has_a_row_for_each_pair_and_dtype():
    pairs = [
        Pair("square", jnp.square, torch.square, [normal(8)]),
        Pair("wrong", jnp.square, lambda x: 2 * x**2, [normal(8)]),
    ]
    table = parity_table(pairs)
    assert [(row[0], row[1], row[-1]) for row in table.rows] == [
        ("square", "float64", "yes"),
        ("square", "float32", "yes"),
        ("wrong", "float64", "NO"),
        ("wrong", "float32", "NO"),
    ]
    assert table.markdown().startswith("| function | dtype | value |")
    with pytest.raises(ValueError, match="used twice: square"):
        parity_table([pairs[0], pairs[0]])
