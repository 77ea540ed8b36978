"""What holds for every public loss: a full docstring, a doctest that runs, true annotations, a twin."""

import doctest
import importlib
import inspect
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import torch
from beartype import beartype

import jaxloss.losses
import torch_ref.losses
from parity_tests.cases import CASES
from parity_tests.compare import assert_within
from parity_tests.divergences import DIVERGENCES
from parity_tests.tolerances import EPS, GRADIENT_EPS_OF_MAX, VALUE_EPS_OF_MAX

PUBLIC = {name: getattr(jaxloss.losses, name) for name in jaxloss.losses.__all__}
MODULES = [importlib.import_module(name) for name in sorted({loss.__module__ for loss in PUBLIC.values()})]
SECTIONS = ["Args:", "Reference:", ">>> "]
CONVENTIONS = (Path(__file__).parents[2] / "docs" / "conventions.md").read_text()
# A docstring need not describe what a heading of that page is about.
CONVENTIONAL = set(re.findall(r"^## `(\w+)`$", CONVENTIONS, re.MULTILINE))


def test_every_public_name_of_a_module_is_exported():
    defined = {name for module in MODULES for name in module.__all__}
    assert defined == set(jaxloss.losses.__all__) == set(torch_ref.losses.__all__)


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring_has_all_its_parts(name):
    text = inspect.getdoc(PUBLIC[name])
    missing = [section for section in SECTIONS if section not in text]
    assert not missing, f"{name}'s docstring lacks {missing}"
    assert "$$" in text or name == "make_checked", f"{name}'s docstring lacks its formula"
    parameters = set(inspect.signature(PUBLIC[name]).parameters) - (CONVENTIONAL - {"weight"})
    undocumented = [p for p in parameters if f"    {p}: " not in text]
    assert not undocumented, f"{name}'s docstring does not describe {undocumented}"


def test_every_convention_is_on_the_page():
    assert {"reduction", "where", "sample_weight", "ignore_index", "axis"} <= CONVENTIONAL
    sections = re.findall(r"^## (.*)\n\n\S", CONVENTIONS, re.MULTILINE)
    assert {"Empty input", "Dtypes", "Labels out of range", "What raises", "Units"} <= {*sections}


@pytest.mark.parametrize("name", [name for name in PUBLIC if hasattr(torch.nn.functional, name)])
def test_every_difference_from_torch_is_in_the_table(name):
    text = inspect.getdoc(PUBLIC[name]).partition("Differs from torch:")[2].partition("\n\n")[0]
    clauses = [c for c in re.split(r"[;.] ", " ".join(text.split()).removesuffix(".")) if c]
    known = {clause.lower() for row in DIVERGENCES for clause in row.docstrings} | {"as for `cross_entropy`"}
    unknown = [clause for clause in clauses if clause.lower() not in known]
    assert not unknown, f"{name}: give {unknown} a row in parity_tests/divergences.py"


def test_every_row_of_the_table_is_in_a_docstring():
    texts = [CONVENTIONS, *map(inspect.getdoc, PUBLIC.values())]
    texts = " ".join(" ".join(text.split()) for text in texts).lower()
    assert [c for row in DIVERGENCES for c in row.docstrings if c.lower() not in texts] == []


class NumbersToRounding(doctest.OutputChecker):
    """Output is as written, but for the last digit of a float32: another jax may round it otherwise."""

    NUMBER = re.compile(r"\d+\.\d+(?:e[-+]?\d+)?")

    def check_output(self, want, got, optionflags):
        numbers = [[float(number) for number in self.NUMBER.findall(text)] for text in (want, got)]
        same_text = self.NUMBER.sub("#", want).split() == self.NUMBER.sub("#", got).split()
        return same_text and np.allclose(*numbers, rtol=4 * EPS["float32"], atol=0)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_doctests_run(module):
    runner = doctest.DocTestRunner(checker=NumbersToRounding())
    for example in doctest.DocTestFinder().find(module):
        runner.run(example)
    result = runner.summarize()
    assert result.attempted > 0
    assert result.failed == 0


CHECKED = SimpleNamespace(
    __name__="jaxloss.losses",
    **{name: jaxtyping.jaxtyped(loss, typechecker=beartype) for name, loss in PUBLIC.items()},
)
CALLS = [
    pytest.param(name, sample, id=f"{name} {sample.case}".strip())
    for name in PUBLIC
    for sample in CASES.get(name, ())
]


def _value_and_gradient(name, sample, side, arguments):
    """The loss and its gradient by the first argument, as a function of all arrays; and those arrays."""
    leaves, tree = jax.tree.flatten(arguments)

    def of_arrays(arrays):
        def loss(x):
            filled = [(arrays | {0: x}).get(i, leaf) for i, leaf in enumerate(leaves)]
            return jnp.sum(sample.loss(name, side)(*jax.tree.unflatten(tree, filled)))

        return jax.value_and_grad(loss)(arrays[0])

    return of_arrays, {i: leaf for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)}


@pytest.mark.parametrize(("name", "sample"), CALLS)
def test_annotations_accept_the_call_and_jit_gives_its_value_and_gradient(name, sample):
    checked, arrays = _value_and_gradient(name, sample, CHECKED, sample.arguments("float32"))
    # No step makes NaN or infinity, not even for it to be selected away.
    with jax.debug_nans(True), jax.debug_infs(True):
        value, gradient = checked(arrays)
    unchecked, _ = _value_and_gradient(name, sample, jaxloss.losses, sample.arguments("float32"))
    with jax.enable_checks(True), jax.checking_leaks():
        traced = jax.jit(unchecked).trace(arrays)
    compiled = traced.lower().compile()
    with jax.transfer_guard("disallow"):
        jitted_value, jitted_gradient = compiled(arrays)
    assert np.isfinite(value)
    assert jitted_value.dtype == value.dtype == jnp.float32
    assert_within(jitted_value, value, VALUE_EPS_OF_MAX)
    assert_within(jitted_gradient, gradient, GRADIENT_EPS_OF_MAX)


@pytest.mark.parametrize("dtypes", [("bfloat16", "float32"), ("float32", "bfloat16"), ("float64", "float64")])
def test_strict_dtype_promotion_finds_nothing_to_promote(dtypes):
    for name, sample in (call.values for call in CALLS):
        arguments = sample.arguments(dtypes[1])
        arguments[0] = arguments[0].astype(dtypes[0])
        loss, arrays = _value_and_gradient(name, sample, jaxloss.losses, arguments)
        value, gradient = jax.eval_shape(loss, arrays)
        assert value.dtype == ("float64" if "float64" in dtypes else "float32"), name
        assert gradient.dtype == dtypes[0], name


def test_annotations_refuse_what_the_loss_refuses():
    with pytest.raises(jaxtyping.TypeCheckError):
        CHECKED.mse_loss(jnp.ones((2, 3)), jnp.ones((1, 3)))
    assert CHECKED.previous_tokens(jnp.zeros(2, int)).shape == (2, 2)
