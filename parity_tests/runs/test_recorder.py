"""Trainings side by side: every step on disk, and readable lines on the terminal."""

import re
from dataclasses import replace

from jaxloss.runs.folder import METRICS, TIMES, RunFolder
from jaxloss.runs.recorder import Recorder
from jaxloss.runs.settings import TrainConfig
from jaxloss.training import Estimate
from parity_tests.training import tiny

SETTINGS = TrainConfig(steps=4, batch_size=4, learning_rate=0.25)
TEST = {"all": Estimate(2.0, 0.125), "final": Estimate(3.0, 0.5)}


def recorded(tmp_path):
    """The folder of two trainings of four steps."""
    folder = RunFolder(tmp_path, "experiment").create()
    losses = {"all": "all", "final": "final"}
    with Recorder(folder, losses, tiny.CONFIG, SETTINGS, seed=7) as record:
        for name in ("all", "final"):
            record.test(name, 0, TEST)
        for step in range(1, 5):
            for name in ("all", "final"):
                record.update(name, step, loss=1.5, grad_norm=0.5, seconds=0.25)
                if step == 4:
                    record.test(name, step, TEST)
    return folder


def test_every_update_and_evaluation_is_recorded(tmp_path):
    folder = recorded(tmp_path)
    records = folder.read(METRICS)
    for name in ("all", "final"):
        own = [record for record in records if record["objective"] == name]
        assert [record["step"] for record in own if record["kind"] == "train"] == [1, 2, 3, 4]
        assert [record["step"] for record in own if record["kind"] == "test"] == [0, 4]
    losses = {name: {"mean": mean, "standard_error": error} for name, (mean, error) in TEST.items()}
    assert records[0] == {"kind": "test", "objective": "all", "seed": 7, "step": 0, "losses": losses}
    assert records[2] == {
        "kind": "train",
        "objective": "all",
        "seed": 7,
        "step": 1,
        "loss": 1.5,
        "grad_norm": 0.5,
        "learning_rate": 0.25,
    }
    times = [(record["objective"], record["step"], record["seconds"]) for record in folder.read(TIMES)]
    assert times == [(name, step, 0.25) for step in range(1, 5) for name in ("all", "final")]


def test_resumed_run_goes_on_with_the_mean_of_the_losses_before(tmp_path, capfd):
    folder = recorded(tmp_path)
    losses = {"all": "all", "final": "final"}
    with Recorder(folder, losses, tiny.CONFIG, replace(SETTINGS, steps=5), seed=7) as record:
        record.update("all", 5, loss=2.0, grad_norm=0.5, seconds=0.25)
        record.test("all", 5, TEST)
    assert capfd.readouterr().out.splitlines()[-1] == "all   5/5  loss  1.600  test  2.000 ± 0.125"


def test_report_has_a_readable_line_for_each_evaluation_within_80_columns(tmp_path, capfd):
    recorded(tmp_path)
    shown = capfd.readouterr()
    lines = shown.out.splitlines()
    assert len(lines) == 4
    assert lines[0] == "all   0/4  loss      -  test  2.000 ± 0.125"
    last = r"final 4/4  loss  1\.500  test  3\.000 ± 0\.500      128 tokens/s  ETA 0:00"
    assert re.fullmatch(last, lines[-1])
    assert max(map(len, lines)) <= 80
    assert shown.err == ""
