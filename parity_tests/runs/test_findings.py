"""Findings: what counts as holding, how figures are shown, and what is left on disk."""

import dataclasses
import json

import numpy as np
import pytest

from jaxloss.runs.findings import Finding, is_above, spread, write_results
from jaxloss.runs.folder import RunFolder


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [([True, True], "holds"), ([True, False], "holds in part"), ([False, False], "does not hold")],
)
def test_a_claim_holds_if_all_its_parts_do(parts, verdict):
    assert Finding.of("L6", "", parts).verdict == verdict


def test_above_means_beyond_chance_over_paired_seeds():
    noise = np.array([0.0, 5.0, -3.0, 2.0, -4.0])
    # The seeds' own differences are larger than the effect, which the pairing takes out.
    assert is_above(noise + np.array([1.0, 1.1, 0.9, 1.0, 1.05]), noise)
    assert not is_above(noise, noise + 1)
    assert not is_above(noise, -noise)
    assert not is_above([2.0], [1.0])
    assert not is_above([np.inf, np.inf], [1.0, 1.1])
    assert is_above([2.0, 2.0], [1.0, 1.0])
    assert not is_above([1.0, 1.0], [1.0, 1.0])


def test_one_seed_has_no_spread():
    assert spread([0.5], 2) == "0.50"
    assert spread([1000.0, 3000.0], 0) == "2,000 ± 1,414"
    assert spread([1.0, np.inf]) == "-"


def test_results_hold_findings_and_arrays(tmp_path):
    @dataclasses.dataclass
    class Config:
        seeds: int = 3

    folder = RunFolder(tmp_path / "run", "x").create()
    write_results(folder, Config(), "| a |", [Finding("L6", "1 ± 0", "holds")], {"r": np.array([0.5])})
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results == {"findings": [{"claim": "L6", "result": "1 ± 0", "verdict": "holds"}], "r": [0.5]}
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == {"seeds": 3}
