"""What the harness refuses, what it accepts, and what it leaves as it was."""

import gc
import re
import subprocess
import sys

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
        (lambda x: (x, x), r"float64\[3\], float64\[3\]; torch returns value"),
        (lambda x: (), "the JAX function returns nothing"),
    ],
)
def test_different_outputs_are_a_disagreement_not_a_broadcast(jax_fn, message):
    with pytest.raises(AssertionError, match=message):
        assert_parity(jax_fn, torch.square, normal(3))


def test_infinity_on_one_side_is_a_disagreement():
    def without_pole(x):
        return torch.where(x == 1, 0, 1 / (x - 1))

    report = check_parity(lambda x: 1 / (x - 1), without_pole, np.arange(3.0), allow_nonfinite=True)
    assert not report.passed


def test_jax_function_that_looks_at_values_is_told_about_jit():
    with pytest.raises(jax.errors.ConcretizationTypeError) as caught:
        check_parity(lambda x: x if x[0] > 0 else -x, torch.abs, np.ones(1))
    assert any("jit=False" in note for note in caught.value.__notes__)


def test_settings_of_both_frameworks_are_restored():
    jax.config.update("jax_enable_x64", False)
    try:
        before = jax.config.values.copy()
        torch.manual_seed(3)
        state, precision = torch.random.get_rng_state(), torch.get_float32_matmul_precision()
        assert_parity(jnp.square, torch.square, normal(3))
        with pytest.raises(ZeroDivisionError):
            assert_parity(lambda x: 1 // 0, torch.square, normal(3))
        assert jax.config.values == before
        assert jnp.ones(1).dtype == jnp.float32
        assert torch.equal(state, torch.random.get_rng_state())
        assert (torch.get_default_dtype(), torch.get_float32_matmul_precision()) == (torch.float32, precision)
    finally:
        jax.config.update("jax_enable_x64", True)


def test_module_inputs_and_memory_are_left_as_they_were():
    module = torch.nn.BatchNorm1d(3).train()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    x = torch.randn(5, 3)
    kept = x.clone()

    def normalise(x):
        centred = x - x.mean(0)
        return centred / jnp.sqrt((centred**2).mean(0) + 1e-5)

    def check():
        check_parity(normalise, module, x)
        gc.collect()
        return len(jax.live_arrays()), sum(type(o) is torch.Tensor for o in gc.get_objects())

    first = check()
    assert check() == first
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert all(p.grad is None and p.dtype == torch.float32 for p in module.parameters())
    assert torch.equal(x, kept)
    assert not x.requires_grad


def test_importing_the_harness_imports_no_torch():
    program = "import sys, jaxloss.testing; print({'torch', 'flax', 'optax', 'pytest'} & sys.modules.keys())"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("set()\n", "")


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
