"""The deliberate mistakes that `python -m parity_tests.mutation` makes stay in step with the source."""

from pathlib import Path

import pytest

import jaxloss
from parity_tests.mutants import MUTANTS

ROOT = Path(jaxloss.__file__).parent


def test_there_are_enough_mistakes():
    assert len(MUTANTS) >= 60
    assert len({mutant[:3] for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant[0]}: {mutant[2]}"[:60])
def test_each_mistake_changes_one_place_of_the_source(mutant):
    file, right, wrong, tests = mutant
    assert (ROOT / file).read_text().count(right) == 1
    assert right != wrong
    assert (Path(__file__).parents[1] / tests).exists()
