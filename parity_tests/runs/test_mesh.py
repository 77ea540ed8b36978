"""The flags of a mesh: what does not fit is said before anything is compiled."""

import dataclasses

import jax
import pytest

from jaxloss.model5 import MODEL5
from jaxloss.runs.folder import RunFolder
from jaxloss.runs.mesh import MeshConfig, describe_mesh


@pytest.fixture(autouse=True)
def four_devices(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:4])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"tensor": 5}, "mesh.tensor must divide the 12 heads; got 5"),
        ({"tensor": 2}, "must divide the vocabulary of 50,257; got 2: pad .* --model.vocab-size 50258"),
        ({"fsdp": 8}, "needs 8 devices; there are 4"),
        ({"data": 3}, "batch_size must be a multiple of data x fsdp = 3"),
        ({"fsdp": 0}, "mesh.fsdp must be at least 1; got 0"),
        ({"process_id": 0}, "mesh.num-processes and mesh.process-id need mesh.coordinator host:port"),
        ({"coordinator": "a:1", "process_id": 0}, "mesh.coordinator host:port needs mesh.num-processes"),
        ({"coordinator": "a:1", "num_processes": 2, "process_id": 2}, r"mesh.process_id must be in \[0, 1\]"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(flags, message):
    with pytest.raises(ValueError, match=message):
        MeshConfig(**flags).make(MODEL5, batch_size=8)


def test_processes_without_a_common_folder_are_refused():
    with pytest.raises(ValueError, match=r"mesh.coordinator needs --out, a folder that all processes see"):
        MeshConfig(coordinator="auto").join_processes(None)


def test_the_header_says_which_devices_take_part():
    model = dataclasses.replace(MODEL5, vocab_size=50258)
    assert describe_mesh(MeshConfig(tensor=2).make(model, 6)) == "4 of 8 x cpu: data 2, tensor 2"


def test_a_process_that_only_takes_part_writes_elsewhere(tmp_path, monkeypatch):
    out = tmp_path / "run"
    assert RunFolder.of_process(str(out), "train_model5").shared == out
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    folder = RunFolder.of_process(str(out), "train_model5").create()
    folder.write_text("loss", "1")
    assert folder.shared == out
    assert not out.exists()
