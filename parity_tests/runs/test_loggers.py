"""What a run's loggers are told, and what TensorBoard and wandb make of it."""

from importlib.machinery import ModuleSpec

import jax
import pytest

from jaxloss.runs import loggers, recorder
from jaxloss.runs.folder import TIMES, RunFolder
from jaxloss.runs.loggers import check_loggers, open_loggers
from jaxloss.runs.recorder import Recorder
from jaxloss.runs.settings import TrainConfig
from jaxloss.runs.start import start_run
from jaxloss.training import Estimate
from parity_tests.runs.events import read_scalars
from parity_tests.training import tiny

SETTINGS = TrainConfig(steps=4, batch_size=4, learning_rate=0.1, schedule="linear")


class Listed:
    """A logger of a user's own."""

    def __init__(self, first_step=0):
        self.first_step, self.told, self.is_closed = first_step, [], False

    def log(self, step, scalars):
        self.told.append((step, scalars))

    def close(self):
        self.is_closed = True


def record(folder, steps, *loggers):
    """Record these updates, and before the first one a test."""
    with Recorder(folder, {"all": "all"}, tiny.CONFIG, SETTINGS, loggers=loggers) as recording:
        for step in steps:
            if step == 1:
                recording.test("all", 0, {"all": Estimate(3.0, 0.5)})
            recording.update("all", step, loss=1.5 / step, grad_norm=0.5, seconds=0.25)


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path, "experiment").create()


def test_loggers_are_told_each_record_with_its_learning_rate_and_cost(folder, monkeypatch):
    monkeypatch.setattr(recorder, "peak_flops", lambda devices: 1e6)
    logger = Listed()
    record(folder, [1, 2, 3], logger)
    assert logger.is_closed
    assert [step for step, _ in logger.told] == [0, 1, 2, 3]
    assert logger.told[0][1] == {"test/all": 3.0}
    learnt = {"train/loss": 0.5, "train/grad_norm": 0.5, "train/learning_rate": pytest.approx(0.05)}
    mfu = recorder.training_flops(tiny.CONFIG, 4) / 0.25 / 1e6
    taken = {"time/seconds": 0.25, "time/tokens_per_second": 128.0, "time/mfu": mfu}
    held = logger.told[3][1].pop("time/memory_bytes")
    assert logger.told[3][1] == learnt | taken
    assert held > 1e7  # at the least, jax itself
    assert folder.read(TIMES)[-1]["mfu"] == mfu


def test_resumed_run_tells_each_logger_what_it_lacks(folder):
    record(folder, [1, 2, 3])
    late, further = Listed(), Listed(first_step=4)
    record(folder, [4], late, further)
    assert [step for step, _ in late.told] == [0, 1, 2, 3, 4]
    assert [step for step, _ in further.told] == [4]


def test_tensorboard_forgets_what_came_after_the_checkpoint(folder):
    record(folder, [1, 2, 3], *open_loggers(["tensorboard"], folder, {}, step=0))
    folder.cut("metrics.jsonl", 1)
    record(folder, [2], *open_loggers(["tensorboard"], folder, {}, step=1))
    found = read_scalars(folder.file("tensorboard"))
    assert found["train/loss"] == [(1, 1.5), (2, 0.75)]
    assert found["test/all"] == [(0, 3.0)]


def test_tensorboard_is_told_what_was_made_without_it(folder):
    record(folder, [1, 2], *open_loggers(["tensorboard"], folder, {}, step=0))
    (events,) = folder.file("tensorboard").iterdir()
    events.write_bytes(events.read_bytes()[:-1])  # as if killed
    record(folder, [3])
    record(folder, [4], *open_loggers(["tensorboard"], folder, {}, step=3))
    found = read_scalars(folder.file("tensorboard"))
    assert found["train/loss"] == [(1, 1.5), (2, 0.75), (3, 0.5), (4, 0.375)]


@pytest.mark.parametrize("is_resumed", [False, True])
def test_logger_that_refuses_leaves_no_new_folder_behind(is_resumed, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise ValueError("--log wandb: no API key")

    out = tmp_path / "run"
    if is_resumed:
        RunFolder(out, "experiment").create().write_json("config.json", {})
    folder = RunFolder(None if is_resumed else out, "experiment", resume=out if is_resumed else None)
    monkeypatch.setattr(loggers, "WeightsAndBiases", refuse)
    with pytest.raises(ValueError, match="no API key"):
        start_run(folder, SETTINGS, None, None, log=["tensorboard", "wandb"])
    assert out.exists() == is_resumed


def test_wandb_keeps_each_part_of_an_offline_run_whole_under_one_id(folder, monkeypatch):
    try:
        check_loggers(["wandb"])
    except ValueError as missing:
        pytest.skip(str(missing))
    monkeypatch.setenv("WANDB_MODE", "offline")
    for steps in ([1, 2, 3], [4]):
        (logger,) = open_loggers(["wandb"], folder, {}, step=steps[0] - 1)
        assert logger.first_step == 0
        record(folder, steps, logger)
    parts = [path.name.rpartition("-")[2] for path in folder.file("wandb").glob("offline-run-*")]
    assert len(set(parts)) == 1


@pytest.mark.parametrize("found", [None, ModuleSpec("wandb", None)], ids=["none", "a folder of the name"])
def test_missing_package_and_mistyped_logger_are_one_line(found, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: found)
    with pytest.raises(ValueError, match=r"^--log wandb needs a package: pip install wandb$"):
        check_loggers(["wandb"])
    with pytest.raises(ValueError, match=r"got 'tensorbord'. Did you mean 'tensorboard'\?$"):
        check_loggers(["tensorbord"])


def test_only_the_first_process_opens_loggers(folder, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert open_loggers(["tensorboard"], folder, {}, step=0) == []
