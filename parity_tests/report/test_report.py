"""The report covers every public loss, and its file says what was compared and what disagrees."""

import jax
import jax.numpy as jnp
import pytest
import torch

from jaxloss import fused, losses
from jaxloss.testing import Pair, normal
from parity_tests.report import __main__ as command
from parity_tests.report import pairs
from parity_tests.report.pairs import coarse_model_pairs, fused_pairs, loss_pairs, public_losses
from parity_tests.report.samples import FUSED_SAMPLES, NO_LOSSES, SAMPLES


def test_every_public_loss_is_in_the_report():
    for package, pairs_of in ((losses, loss_pairs), (fused, fused_pairs)):
        named = {pair.name.split(" (")[0] for pair in pairs_of()}
        assert named == set(package.__all__) - NO_LOSSES.keys()


def test_a_loss_without_sample_inputs_is_named(monkeypatch):
    monkeypatch.setattr(losses, "__all__", [*losses.__all__, "new_loss"])
    assert "new_loss" in public_losses(losses)
    with pytest.raises(ValueError, match=r"add sample inputs .* for new_loss"):
        loss_pairs()


def test_sample_names_are_unique():
    names = [(name, sample.case) for name, samples in (SAMPLES | FUSED_SAMPLES).items() for sample in samples]
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


def test_report_into_a_missing_folder_is_refused_before_any_work(tmp_path, capsys):
    assert command.main(["--output", str(tmp_path / "missing" / "report.md")]) == 2
    assert "--output must be in a folder that exists" in capsys.readouterr().err
