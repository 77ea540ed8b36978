"""The report covers every public loss, and its file says what was compared and what disagrees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxloss import fused, losses
from jaxloss.testing import Pair, Run, normal
from parity_tests.cases import CASES, NOT_LOSSES
from parity_tests.report import __main__ as command
from parity_tests.report import pairs
from parity_tests.report.pairs import coarse_model_pairs, fused_pairs, loss_pairs, public_losses
from parity_tests.report.runs import training_runs
from parity_tests.runs_parity import paired


def test_every_public_loss_is_in_the_report():
    for package, pairs_of in ((losses, loss_pairs), (fused, fused_pairs)):
        named = {pair.name.split(" (")[0] for pair in pairs_of()}
        assert named == set(package.__all__) - NOT_LOSSES.keys()


def test_a_loss_without_sample_inputs_is_named(monkeypatch):
    monkeypatch.setattr(losses, "__all__", [*losses.__all__, "new_loss"])
    assert "new_loss" in public_losses(losses)
    with pytest.raises(ValueError, match=r"add sample inputs .* for new_loss"):
        loss_pairs()


def test_sample_names_are_unique():
    names = [(name, sample.case) for name, samples in CASES.items() for sample in samples]
    assert len(set(names)) == len(names)


def test_report_file_has_versions_summary_and_the_failure(tmp_path, monkeypatch, capsys):
    compared = [
        Pair("square", jnp.square, torch.square, [normal(8)]),
        Pair("wrong", jnp.sum, torch.mean, [normal(8)]),
    ]
    monkeypatch.setitem(command.SECTIONS, "losses", lambda: compared)
    output = tmp_path / "report.md"
    assert command.main(["--only", "losses", "--dtypes", "float64", "--output", str(output)]) == 1
    text = output.read_text()
    for expected in (
        f"torch {torch.__version__.split('+')[0]}",
        "JAX on cpu",
        "| Losses |",
        "1 of 2",
        "wrong reduction",
    ):
        assert expected in text
    assert "1 of 2 agree" in capsys.readouterr().out


def test_default_matmul_precision_is_compared_on_accelerators_with_its_own_tolerance(monkeypatch):
    assert coarse_model_pairs() == []
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(pairs, "model_pairs", lambda: [Pair("model", jnp.square, torch.square, [normal(8)])])
    (pair,) = coarse_model_pairs()
    assert pair.name == "model, matmul in 10 bits"
    report = pair.check(dtypes=("float64",))
    assert [(c.dtype, c.allowed) for c in report.comparisons] == [
        ("float32", 16 * 2.0**13),
        ("float32", 64 * 2.0**13),
    ]


def test_training_runs_of_the_given_dtypes_are_judged_by_their_tolerances(tmp_path, monkeypatch):
    def ran(loss):
        return lambda *args, **options: Run(np.array([2.0, loss]), {"wte.weight": np.ones(3)})

    monkeypatch.setattr(paired, "train_jax", ran(1.0))
    monkeypatch.setattr(paired, "train_torch", ran(1.0 + 1e-6))
    arguments = ["--only", "runs", "--output", str(tmp_path / "report.md"), "--dtypes"]
    assert command.main([*arguments, "float32", "bfloat16"]) == 0
    assert {row[-1] for row in training_runs(["float64"]).rows} == {"NO"}
    assert len(training_runs().rows) == 2 * (1 + len(paired.OPTIMIZERS))
    assert command.main([*arguments, "float64"]) == 1
    assert "| AdamW, 200 steps, float64 | 1.0e-06 | 1e-13 |" in (tmp_path / "report.md").read_text()


def test_report_into_a_missing_folder_is_refused_before_any_work(tmp_path, capsys):
    assert command.main(["--output", str(tmp_path / "missing" / "report.md")]) == 2
    assert "--output must be in a folder that exists" in capsys.readouterr().err
