"""The single-weight experiment: SPEC's numbers, the same in both frameworks."""

import json

import numpy as np
import pytest

from jaxloss.runs.cli import run_cli
from parity_tests.scripts import load

script = load("l1_vs_l2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    assert run_cli(script.main, script.Config, argv=["--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_prediction_2_of_target_5_costs_3_and_9(folder):
    lines = (folder / "table.md").read_text().splitlines()
    for framework in ("JAX", "PyTorch"):
        (line,) = [line for line in lines if line.startswith(f"| {framework}  ")]
        assert [cell.strip() for cell in line.strip("|").split("|")] == [framework, "3", "9"]


def test_l1_walks_at_the_learning_rate_and_then_oscillates_by_it(results):
    weights = np.array(results["L1"]["weights"])
    np.testing.assert_allclose(np.diff(weights[:20]), 0.05, atol=1e-6)
    np.testing.assert_allclose(np.abs(np.diff(weights[20:])), 0.05, atol=1e-6)
    assert results["L1"]["oscillation width"] == pytest.approx(0.05, abs=1e-6)


def test_l2_closes_a_tenth_of_the_gap_in_every_step(results):
    gaps = 3 - np.array(results["L2"]["weights"])
    np.testing.assert_allclose(gaps, 0.9 ** np.arange(51), rtol=1e-4)
    assert results["L2"]["oscillation width"] == 0


def test_frameworks_give_the_same_bits(results):
    assert all(results[name]["JAX against PyTorch, largest difference"] == 0 for name in ("L1", "L2"))


def test_run_folder_is_complete(folder):
    assert {file.name for file in folder.iterdir()} == {
        "config.json",
        "loss_and_weight.png",
        "results.json",
        "table.md",
    }
    assert (folder / "loss_and_weight.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "flag", [["--steps", "0"], ["--learning-rate", "0"], ["--start", "nan"], ["--target", "inf"]]
)
def test_bad_value_is_one_line_and_writes_nothing(flag, tmp_path, capfd):
    assert run_cli(script.main, script.Config, argv=[*flag, "--out", str(tmp_path / "run")]) == 2
    assert capfd.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
