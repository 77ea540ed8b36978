"""What holds for every public loss: a full docstring, a doctest that runs, true annotations, a twin."""

import doctest
import importlib
import inspect
import re

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import torch
from beartype import beartype

import jaxloss.losses
import torch_ref.losses
from parity_tests import divergences
from parity_tests.compare import assert_within
from parity_tests.divergences import DIVERGENCES
from parity_tests.tolerances import EPS, GRADIENT_EPS_OF_MAX, VALUE_EPS_OF_MAX

PUBLIC = {name: getattr(jaxloss.losses, name) for name in jaxloss.losses.__all__}
MODULES = [importlib.import_module(name) for name in sorted({loss.__module__ for loss in PUBLIC.values()})]
# These return functions or parameters, not losses.
MAKERS = {name for name in PUBLIC if name.startswith(("make_", "init_"))}
SECTIONS = ["Args:", "Returns:", "Raises:", "Differs from torch:", "Reference:", ">>> "]


def test_every_public_name_of_a_module_is_exported():
    defined = {name for module in MODULES for name in module.__all__}
    assert defined == set(jaxloss.losses.__all__) == set(torch_ref.losses.__all__)


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring_has_all_its_parts(name):
    text = inspect.getdoc(PUBLIC[name])
    missing = [section for section in SECTIONS if section not in text]
    assert not missing, f"{name}'s docstring lacks {missing}"
    assert "$$" in text or name == "make_checked", f"{name}'s docstring lacks its formula"
    undocumented = [p for p in inspect.signature(PUBLIC[name]).parameters if f"    {p}: " not in text]
    assert not undocumented, f"{name}'s docstring does not describe {undocumented}"


@pytest.mark.parametrize("name", [name for name in PUBLIC if hasattr(torch.nn.functional, name)])
def test_every_difference_from_torch_is_in_the_table(name):
    text = inspect.getdoc(PUBLIC[name]).partition("Differs from torch:")[2].partition("\n\n")[0]
    clauses = re.split(r"[;.] ", " ".join(text.split()).removesuffix("."))
    known = {clause.lower() for row in DIVERGENCES for clause in row.docstrings} | {"as for `cross_entropy`"}
    unknown = [clause for clause in clauses if clause.lower() not in known]
    assert not unknown, f"{name}: give {unknown} a row in parity_tests/divergences.py"


def test_every_row_of_the_table_is_in_a_docstring():
    texts = " ".join(" ".join(inspect.getdoc(loss).split()) for loss in PUBLIC.values()).lower()
    assert [c for row in DIVERGENCES for c in row.docstrings if c.lower() not in texts] == []


def test_the_readme_shows_the_table():
    assert divergences.shown() == divergences.table(), "run python -m parity_tests.divergences --write"


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


LABELS = jnp.array([0, 2])
F32 = jnp.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]], jnp.float32)
G32 = jnp.array([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3]], jnp.float32)
CALLS = [
    ("cross_entropy", (F32, LABELS, jnp.ones(3))),
    ("cross_entropy", (F32, G32)),
    ("nll_loss", (F32, LABELS, jnp.ones(3))),
    ("kl_div", (F32, G32)),
    ("l1_loss", (F32, G32, "none", F32)),
    ("mse_loss", (F32, G32, "sum", F32)),
    ("smooth_l1_loss", (F32, G32, "none", 0.5)),
    ("huber_loss", (F32, G32, "mean", 0.5, F32)),
    ("poisson_nll_loss", (F32, G32, False, True)),
    ("binary_cross_entropy", (F32, G32, F32[0])),
    ("binary_cross_entropy_with_logits", (F32, G32, None, "none", F32[0])),
    ("soft_margin_loss", (F32, jnp.array([[1, -1, 1]] * 2))),
    ("multilabel_soft_margin_loss", (F32, G32, F32[0])),
    ("margin_ranking_loss", (F32[:, 0], F32[:, 1], LABELS - 1)),
    ("hinge_embedding_loss", (F32, G32)),
    ("multi_margin_loss", (F32, LABELS, 2)),
    ("multilabel_margin_loss", (F32, jnp.array([[0, 2, -1]] * 2))),
    ("cosine_embedding_loss", (F32, G32, LABELS - 1)),
    ("triplet_margin_loss", (F32, G32, G32[::-1])),
    ("triplet_margin_with_distance_loss", (F32, G32, G32[::-1])),
    ("ctc_loss", (jnp.log(F32[:, None]), LABELS[None, :1] + 1, (2,), (1,))),
    ("gaussian_nll_loss", (F32, G32, F32[:, 0])),
    ("next_token_loss", (F32, LABELS)),
    ("final_token_loss", (jnp.ones((5, 2, 3)), jnp.zeros((5, 2), int))),
    ("focal_loss", (F32, LABELS)),
    ("poly_loss", (F32, LABELS)),
    ("sigmoid_focal_loss", (F32, G32)),
    ("forward_kl_div", (F32, G32)),
    ("reverse_kl_div", (F32, G32)),
    ("jensen_shannon_div", (F32, G32)),
    ("total_variation_div", (F32, G32)),
    ("distillation_loss", (F32, G32, LABELS)),
    ("z_loss", (F32,)),
    ("unlikelihood_loss", (F32, LABELS[:, None])),
    ("previous_tokens", (LABELS,)),
    ("token_set_loss", (F32, F32[0] > 0)),
    ("token_set_loss", (F32, F32 > 0)),
    ("correlation_loss", (F32, G32)),
    ("group_gap_penalty", (F32, jnp.zeros((2, 3), int), 2)),
]


def test_every_public_loss_is_called_with_checked_annotations():
    assert {name for name, _ in CALLS} == set(PUBLIC) - MAKERS


@pytest.mark.parametrize(("name", "arguments"), CALLS)
def test_annotations_accept_valid_input(name, arguments):
    checked = jaxtyping.jaxtyped(PUBLIC[name], typechecker=beartype)
    assert np.isfinite(np.sum(checked(*arguments)))


@pytest.mark.parametrize(("name", "arguments"), CALLS)
def test_jit_gives_the_value_and_gradient_of_a_call_without(name, arguments):
    which = [i for i, argument in enumerate(arguments) if isinstance(argument, jnp.ndarray)]

    def loss(*arrays):
        filled = dict(zip(which, arrays, strict=True))
        return jnp.sum(PUBLIC[name](*(filled.get(i, argument) for i, argument in enumerate(arguments))))

    def value_and_gradient(*arrays):
        if not jnp.issubdtype(arrays[0].dtype, jnp.floating):
            return loss(*arrays), jnp.zeros(())
        return jax.value_and_grad(loss)(*arrays)

    arrays = [arguments[i] for i in which]
    value, gradient = value_and_gradient(*arrays)
    jitted_value, jitted_gradient = jax.jit(value_and_gradient)(*arrays)
    assert jitted_value.dtype == value.dtype
    assert_within(jitted_value, value, VALUE_EPS_OF_MAX)
    assert_within(jitted_gradient, gradient, GRADIENT_EPS_OF_MAX)


@pytest.mark.parametrize("dtypes", [("bfloat16", "float32"), ("float64", "float64")])
def test_strict_dtype_promotion_finds_nothing_to_promote(dtypes):
    for name, arguments in CALLS:
        is_float = [hasattr(a, "dtype") and a.dtype.kind == "f" for a in arguments]
        which = [i for i, floating in enumerate(is_float) if floating]
        if not which:
            continue
        typed = dict(zip(which, [dtypes[0]] + [dtypes[1]] * (len(which) - 1), strict=True))
        filled = [a.astype(typed[i]) if i in typed else a for i, a in enumerate(arguments)]

        def loss(x, name=name, filled=filled, place=which[0]):
            return jnp.sum(PUBLIC[name](*filled[:place], x, *filled[place + 1 :]))

        with jax.numpy_dtype_promotion("strict"):
            value, gradient = jax.eval_shape(jax.value_and_grad(loss), filled[which[0]])
        assert value.dtype == dtypes[1], name
        assert gradient.dtype == dtypes[0], name


def test_annotations_refuse_what_the_loss_refuses():
    checked = jaxtyping.jaxtyped(jaxloss.losses.mse_loss, typechecker=beartype)
    with pytest.raises(jaxtyping.TypeCheckError):
        checked(F32, F32[:1])
