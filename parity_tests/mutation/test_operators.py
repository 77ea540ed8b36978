import ast

import pytest

from parity_tests.mutation.__main__ import NEAREST, ROOT, all_mutants, sample
from parity_tests.mutation.known import EQUIVALENT
from parity_tests.mutation.operators import OPERATORS, mutants, mutate
from parity_tests.mutation.results import fingerprint

EXAMPLES = {
    "comparison": ("a < b", {"a >= b", "a <= b"}),
    "condition": ("a if b else c", {"not b"}),
    "logic": ("a & b", {"a | b", "a", "b"}),
    "negation": ("~a", {"a"}),
    "where": ("jnp.where(a, b, c)", {"jnp.where(a, c, b)", "b", "c"}),
    "select": ("select(a, b)", {"b"}),
    "term": ("a - b", {"a + b", "a", "-b"}),
    "factor": ("a * b", {"a / b", "a", "b"}),
    "constant": ("f(-1, 0.0, 0.5, True, jnp.nan)", {"0", "1.0", "False", "0.0"}),
    "axis": ("jnp.sum(a, axis)", {"jnp.sum(a, 0)"}),
    "dtype": ("a.astype(jnp.float32)", {"a", "jnp.bfloat16"}),
    "cancellation": ("f(jnp.log1p(a), jnp.expm1(b))", {"jnp.log(1 + a)", "jnp.exp(b) - 1"}),
    "call": ("lax.stop_gradient(a)", {"a"}),
    "opposite": ("jnp.maximum(a, b)", {"jnp.minimum"}),
}


@pytest.mark.parametrize("operator", OPERATORS)
def test_operator_makes_its_mistakes(operator):
    source, expected = EXAMPLES[operator]
    made = [mutant for mutant in mutants("file.py", source) if mutant.operator == operator]
    assert {mutant.after for mutant in made} == expected
    for mutant in made:
        assert mutate(source, mutant) == ast.unparse(ast.parse(source.replace(mutant.before, mutant.after)))


UNTOUCHED = '''
"""1 + 1"""
import numpy as np
__all__ = ["f" * 2]
@partial(jax.jit, static_argnums=1 + 1)
def f(x: Float[Array, 1 + 1]) -> Int[Array, -1]:
    """`1 + 1`"""
    assert x < 1
    raise ValueError(f"{1 + x}" + "b")
'''


def test_nothing_is_mistaken_but_code():
    assert mutants("file.py", UNTOUCHED) == []


MOVED = """

class A:
    '''Docstring.'''
    def f(a):
        b = a + 1  # comment
        return (b +
                1, b + 1)
"""


def test_identifiers_survive_a_move():
    source = "class A:\n def f(a):\n  b = a + 1\n  return b + 1, b + 1"
    here, there = mutants("file.py", source), mutants("file.py", MOVED)
    assert [mutant.id for mutant in here] == [mutant.id for mutant in there]
    assert len({mutant.id for mutant in here}) == len(here) == 12
    assert {mutant.function for mutant in here} == {"A.f"}
    assert fingerprint(source) == fingerprint(MOVED) != fingerprint(mutate(source, here[0]))


def test_the_fingerprint_of_a_test_is_that_of_all_but_other_tests():
    source = "CASES = 1\ndef test_a():\n  assert CASES\ndef test_b():\n  assert CASES"
    other = source.replace("b():\n  assert CASES", "b():\n  assert not CASES")
    assert fingerprint(source, "test_a") == fingerprint(other, "test_a")
    assert fingerprint(source, "test_b") != fingerprint(other, "test_b")
    assert fingerprint(source, "test_a") != fingerprint(source.replace("= 1", "= 2"), "test_a")


def test_every_identifier_is_unique_and_every_reason_is_about_a_mutant():
    names = [mutant.id for mutant in all_mutants()]
    assert len(names) == len(set(names))
    assert set(EQUIVALENT) - set(names) == set()


def test_sample_is_seeded_and_takes_of_each_file():
    possible = all_mutants()
    chosen = sample(possible, 400, 0)
    assert 390 <= len(chosen) <= 450
    assert {mutant.file for mutant in chosen} == {mutant.file for mutant in possible}
    assert chosen == sample(possible, 400, 0) != sample(possible, 400, 1)
    # What is drawn of a file does not hang on the others.
    focal = [mutant for mutant in possible if mutant.file == "losses/focal.py"]
    assert {m for m in chosen if m in focal} <= set(sample(focal, 40, 0))


def test_the_nearest_tests_exist():
    missing = [
        path for paths in NEAREST.values() for path in paths if not (ROOT / "parity_tests" / path).exists()
    ]
    assert missing == []
