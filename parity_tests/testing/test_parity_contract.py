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


def _dropping():
    return torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(0.5))


LINEAR = torch.nn.Linear(3, 2)

# What is wrong -> the call's arguments, its options, and the error with part of its message.
REFUSED = {
    "wrt of labels": (
        (_square, torch.square, integers(3, high=5)),
        {"wrt": (0,)},
        TypeError("input 0, which is not differentiable: it is int32"),
    ),
    "wrt out of range": (
        (_square, torch.square, normal(3)),
        {"wrt": (1,)},
        ValueError("wrt names input 1, but there are 1 inputs"),
    ),
    "wrt by name": (
        (_square, torch.square, normal(3)),
        {"wrt": ("x",)},
        TypeError("wrt must hold positions of inputs"),
    ),
    "wrt no position": (
        (_square, torch.square, normal(3)),
        {"wrt": 0.5},
        TypeError("wrt must hold positions of inputs, such as (0, 1); got 0.5"),
    ),
    "wrt twice": (
        (_square, torch.square, normal(3)),
        {"wrt": (0, 0)},
        ValueError("wrt names input 0 twice"),
    ),
    "only labels": (
        (_square, torch.square, integers(3, high=5)),
        {},
        ValueError("no input is floating point"),
    ),
    "no inputs": ((_square, torch.square), {}, ValueError("at least one array")),
    "unknown dtype": (
        (_square, torch.square, normal(3)),
        {"dtypes": ("float8",)},
        ValueError("dtypes must be some of float64"),
    ),
    "no tolerance": (
        (_square, torch.square, normal(3)),
        {"value_eps": float("inf")},
        ValueError("value_eps must be finite and at least 0; got inf"),
    ),
    "no function": ((3, torch.square, normal(3)), {}, TypeError("jax_fn must be callable; got int")),
    "class for module": (
        (_square, torch.nn.MSELoss, normal(3)),
        {},
        TypeError("torch_fn must be a module, not its class; got MSELoss"),
    ),
    "unknown device": (
        (_square, torch.square, normal(3)),
        {"device": "cuda:99"},
        ValueError("device must be one that torch has here; got 'cuda:99'"),
    ),
    "NaN in": ((_square, torch.square, np.array([1.0, np.nan])), {}, ValueError("input 0 holds NaN")),
    "NaN in both": (
        (jnp.log, torch.log, np.array([1.0, -1.0])),
        {},
        ValueError("value is nan in JAX and nan in torch at (1,)"),
    ),
    "gradients all zero": (
        (jnp.sign, torch.sign, normal(3)),
        {},
        ValueError("every gradient is exactly 0 in both"),
    ),
    "empty": ((_square, torch.square, normal(0, 3)), {}, ValueError("empty")),
    "complex": (
        (_square, torch.square, np.ones(3, complex)),
        {},
        TypeError("input 0 must hold real numbers"),
    ),
    "random key": (
        (lambda x, k: x, lambda x, k: x, normal(3), jax.random.key(0)),
        {},
        TypeError("input 1 is a JAX random key"),
    ),
    "module in training mode": (
        (_square, _dropping(), normal(2, 3)),
        {},
        ValueError("in training mode and drops at random in 1"),
    ),
    "functional dropout": (
        (_square, lambda x: F.dropout(x, 0.5), normal(50)),
        {},
        ValueError("two results for the same inputs"),
    ),
    "no tensor out": (
        (_square, lambda x: float(x.sum()), normal(3)),
        {},
        TypeError("must return tensors; got float"),
    ),
    "params without a module": (
        (_square, torch.square, normal(3)),
        {"params": {"w": np.ones(3)}},
        TypeError("params goes with an nn.Module"),
    ),
    "missing parameter": (
        (_square, LINEAR, normal(1, 3)),
        {"params": {"kernel": np.ones((3, 2))}},
        ValueError("only in the torch module: bias"),
    ),
    "integer parameter": (
        (_square, LINEAR, normal(1, 3)),
        {"params": {"kernel": np.ones((3, 2), int), "bias": np.ones(2)}},
        TypeError("params['kernel'] must be floating point, to be differentiated; got int64"),
    ),
    "complex out": (
        (_square, lambda x: torch.complex(x, x), normal(3)),
        {},
        TypeError("must return real numbers; got complex128"),
    ),
    "parameter's shape": (
        (_square, LINEAR, normal(1, 3)),
        {"params": {"kernel": np.ones((2, 3)), "bias": np.ones(2)}},
        ValueError("weight: [3, 2] in params, [2, 3] in torch"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_meaningless_comparison_is_refused(case):
    args, options, error = REFUSED[case]
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
    many = [lambda x, i=i: x**i for i in range(1, 13)]
    assert check_parity(lambda x: [f(x) for f in many], lambda x: tuple(f(x) for f in many), normal(3)).passed
    assert check_parity(jnp.linalg.slogdet, torch.linalg.slogdet, normal(3, 3)).passed


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
