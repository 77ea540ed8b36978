"""Checkpoints: bit for bit, whatever happens to the files, the disk and the devices."""

import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxloss.training import checkpoint
from jaxloss.training.checkpoint import Checkpoints, newest_checkpoint, restore
from parity_tests.endurance.damage import found_damages

IDENTITY = {"config": {"steps": 3}}
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))


def make_state(step, sharding=None):
    """A state whose numbers are those of a step."""
    params = {"head": jnp.arange(48.0).reshape(8, 6) + step, "bias": {"b": jnp.full(8, 0.1 * step)}}
    params = params if sharding is None else jax.device_put(params, sharding)
    state = TrainState.create(apply_fn=None, params=params, tx=OPTIMIZER)
    return state.replace(step=jnp.int32(step))


def assert_same(state, expected):
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    for got, want in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        assert got.dtype == want.dtype
        assert np.asarray(got).tobytes() == np.asarray(want).tobytes()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Checkpoints of the steps 2 and 3, the older removed; what was saved was donated at once."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    with Checkpoints(folder, IDENTITY, every=1, keep=2) as checkpoints:
        for step in range(4):
            state = make_state(step)
            checkpoints.save_if_due(step, state)
            jax.jit(partial(jax.tree.map, lambda x: x + 1), donate_argnums=0)(state.params)
        checkpoints.wait()
        assert checkpoints.last == 3
    return folder


@pytest.fixture
def copied(written, tmp_path):
    """What a test may damage."""
    return shutil.copytree(written, tmp_path / "checkpoints")


def test_newest_is_restored_bit_for_bit_and_the_oldest_are_gone(written):
    assert sorted(path.name for path in written.iterdir()) == ["step-00000002", "step-00000003"]
    found = newest_checkpoint(written, report=pytest.fail)
    assert (found.step, found.identity) == (3, IDENTITY)
    assert_same(restore(found, make_state(0)), make_state(3))


def test_every_flipped_bit_and_every_truncation_is_found_and_the_file_named(copied):
    assert found_damages(copied, 200) == 200
    assert newest_checkpoint(copied, report=pytest.fail).step == 3


@pytest.mark.parametrize("name", ["manifest.json", "state/_METADATA", "state"])
def test_checkpoint_that_lacks_a_file_is_passed_over(copied, name):
    path = copied / "step-00000003" / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    reports = []
    assert newest_checkpoint(copied, reports.append).step == 2
    assert "step-00000003" in reports[0]


def test_without_a_whole_checkpoint_nothing_is_deleted(copied, tmp_path):
    for path in copied.glob("*/manifest.json"):
        path.write_text("{}")
    before = sorted(copied.rglob("*"))
    reports = []
    with pytest.raises(ValueError, match=r"none of the 2 checkpoints in .* is whole"):
        newest_checkpoint(copied, reports.append)
    assert len(reports) == 2
    assert sorted(copied.rglob("*")) == before
    with pytest.raises(ValueError, match="holds no checkpoint"):
        newest_checkpoint(tmp_path / "none", report=pytest.fail)


def test_half_written_checkpoint_of_the_same_step_is_replaced(copied):
    (copied / "step-00000003" / "manifest.json").unlink()
    with Checkpoints(copied, IDENTITY, every=1, last=2) as checkpoints:
        checkpoints.save(3, make_state(3))
    assert newest_checkpoint(copied, report=pytest.fail).step == 3


def test_full_disk_is_found_before_anything_is_written(copied, monkeypatch):
    usage = shutil.disk_usage(copied)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage._replace(free=500_000))
    message = r"step 4 could not be saved: No space left on device: 1\.\d MB are needed, 0\.5 MB are free"
    with Checkpoints(copied, IDENTITY, every=1, last=3) as checkpoints:
        with pytest.raises(OSError, match=message):
            checkpoints.save(4, make_state(4))
        assert checkpoints.last == 3
    assert newest_checkpoint(copied, report=pytest.fail).step == 3


def test_disk_that_fills_up_while_writing_is_told_at_the_next_step(copied, monkeypatch):
    def fill_up(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_manifest", fill_up)
    with Checkpoints(copied, IDENTITY, every=4, last=3) as checkpoints:
        checkpoints.save_if_due(4, make_state(4))
        checkpoints._thread.join()
        with pytest.raises(OSError, match="step 4 could not be saved: No space left on device"):
            checkpoints.save_if_due(5, make_state(5))
    assert checkpoints.last == newest_checkpoint(copied, [].append).step == 3


@pytest.mark.parametrize("keep", [1, 3, 4])
def test_as_many_stay_as_are_to_be_kept(tmp_path, keep):
    with Checkpoints(tmp_path, IDENTITY, every=1, keep=keep) as checkpoints:
        for step in range(6):
            checkpoints.save(step, make_state(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-{i:08}" for i in range(6 - keep, 6)]


def test_saving_asks_for_a_with(tmp_path):
    with pytest.raises(RuntimeError, match="use `with Checkpoints"):
        Checkpoints(tmp_path, IDENTITY, every=1).save(1, make_state(1))


def test_state_split_over_devices_is_restored_on_fewer(tmp_path):
    mesh = Mesh(np.array(jax.devices()), ("fsdp",))
    with Checkpoints(tmp_path, IDENTITY, every=1) as checkpoints:
        checkpoints.save(1, make_state(1, NamedSharding(mesh, PartitionSpec("fsdp"))))
    found = newest_checkpoint(tmp_path, report=pytest.fail)
    for count in (1, 2):
        fewer = NamedSharding(Mesh(np.array(jax.devices()[:count]), ("fsdp",)), PartitionSpec("fsdp"))
        state = restore(found, make_state(0, fewer))
        assert_same(state, make_state(1))
        assert state.params["head"].sharding.is_equivalent_to(fewer, 2)


def test_state_of_another_model_is_refused(written):
    state = make_state(0)
    other = state.replace(params=state.params | {"head": jnp.zeros((8, 7))})
    message = r"is of another model: params/head is float64\[8, 6\] there, and float64\[8, 7\] here"
    with pytest.raises(ValueError, match=message):
        restore(newest_checkpoint(written, report=pytest.fail), other)
