"""Trainings side by side: in turn, every step on disk, stopped by a signal or by a NaN."""

import os
import re
import signal

import pytest

from jaxloss.runs.drive import drive
from jaxloss.runs.folder import RunFolder
from jaxloss.runs.measures import Estimate
from jaxloss.runs.progress import Progress
from jaxloss.runs.stopping import NonFiniteLossError

STEPS = 4


def training(name, order=None, *, fail_at=None, interrupt_at=None):
    """What `train` yields, without a model."""
    test = {"all": Estimate(2.0, 0.125)}
    yield Progress(0, f"{name} 0", test=test)
    for step in range(1, STEPS + 1):
        if order is not None:
            order.append((name, step))
        if step == interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)
        if step == fail_at:
            raise NonFiniteLossError(step, float("nan"), float("nan"), f"{name} {step - 1}")
        yield Progress(step, f"{name} {step}", 1.5, 0.5, 0.25, test if step == STEPS else None)


def run(tmp_path, trainings):
    folder = RunFolder(tmp_path, "experiment").create()
    names = {name: "all" for name in trainings}
    return folder, drive(trainings, folder, steps=STEPS, tokens_per_step=100, test_losses=names)


def test_trainings_advance_in_turn_to_the_end(tmp_path, capfd):
    order = []
    _, outcome = run(tmp_path, {name: training(name, order) for name in ("all", "final")})
    assert order == [(name, step) for step in range(1, STEPS + 1) for name in ("all", "final")]
    assert outcome.states == {"all": "all 4", "final": "final 4"}
    assert (outcome.exit_code, outcome.reason) == (0, "")
    assert capfd.readouterr().err == ""


def test_every_update_and_evaluation_is_recorded(tmp_path):
    folder, _ = run(tmp_path, {"all": training("all")})
    records = folder.read_metrics()
    assert [record["step"] for record in records if record["kind"] == "train"] == [1, 2, 3, 4]
    assert [record["step"] for record in records if record["kind"] == "test"] == [0, 4]
    assert records[0] == {
        "kind": "test",
        "objective": "all",
        "step": 0,
        "losses": {"all": {"mean": 2.0, "standard_error": 0.125}},
    }
    assert records[1] == {
        "kind": "train",
        "objective": "all",
        "step": 1,
        "loss": 1.5,
        "grad_norm": 0.5,
        "seconds": 0.25,
    }


def test_report_has_a_readable_line_for_each_evaluation_within_80_columns(tmp_path, capfd):
    run(tmp_path, {name: training(name) for name in ("all", "final")})
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0] == "all   0/4  loss      -  test  2.000 ± 0.125"
    last = r"final 4/4  loss  1\.500  test  2\.000 ± 0\.125      400 tokens/s  ETA 0:00"
    assert re.fullmatch(last, lines[-1])
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(("name", "reached"), [("all", (1, 1)), ("final", (2, 1))])
def test_nan_stops_all_and_keeps_the_last_good_states(tmp_path, name, reached, capfd):
    trainings = {other: training(other, fail_at=2 if other == name else None) for other in ("all", "final")}
    _, outcome = run(tmp_path, trainings)
    assert outcome.exit_code == 1
    assert f"{name}: the loss is nan at step 2" in capfd.readouterr().err
    assert outcome.states == {"all": f"all {reached[0]}", "final": f"final {reached[1]}"}
    assert outcome.steps == {"all": reached[0], "final": reached[1]}


def test_ctrl_c_stops_after_the_step_with_everything_recorded(tmp_path, capfd):
    folder, outcome = run(tmp_path, {"all": training("all", interrupt_at=2), "final": training("final")})
    assert outcome.exit_code == 130
    assert outcome.states == {"all": "all 2", "final": "final 2"}
    assert outcome.reason == "stopped on request after step 2"
    assert max(record["step"] for record in folder.read_metrics()) == 2
    assert "stopping after this step" in capfd.readouterr().err
