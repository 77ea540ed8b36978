"""One of two processes that train together: python process.py ID PORT FOLDER."""

import json
import signal
import sys
from pathlib import Path

import jax
import numpy as np

BATCH_SIZE = 8
TOKENS = np.random.default_rng(0).integers(0, 32, (BATCH_SIZE, 7))
BATCH = TOKENS[:, :-1], np.where(TOKENS[:, 1:] % 5, TOKENS[:, 1:], -100)


def apply_fn(params, ids_BT):
    """Logits of the token after each, which the one before decides."""
    return params["embedding"][ids_BT] @ params["head"]


def start(mesh=None):
    """A state."""
    from jaxloss import training

    rng = np.random.default_rng(1)
    params = {"embedding": rng.normal(size=(32, 8)), "head": rng.normal(size=(8, 32))}
    return training.init_state(apply_fn, params, training.make_optimizer(), batch_size=BATCH_SIZE, mesh=mesh)


def train(state, steps, own=lambda batch: batch, stop=None):
    """The state after some steps, or before the one where a signal asks to stop; losses and norms."""
    from jaxloss import next_token_loss, training

    train_step, measured = training.make_train_step(next_token_loss), []
    for _ in range(steps):
        if stop is not None and stop.agreed():
            break
        state, *values = train_step(state, *own(BATCH), jax.random.key(0))
        measured.append([float(value) for value in values])
        if stop is not None and len(measured) == 3 and jax.process_index() == 1:
            signal.raise_signal(signal.SIGTERM)
    return state, measured


def main(process: str, port: str, folder: str) -> int:
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    from jaxloss import training
    from jaxloss.runs.mesh import MeshConfig
    from jaxloss.runs.stopping import EarlyStop
    from jaxloss.training import checkpoint

    MeshConfig(coordinator=f"localhost:{port}", num_processes=2, process_id=int(process)).join_processes(
        folder
    )
    mesh = training.make_mesh(batch_size=BATCH_SIZE, fsdp=2)
    own = training.own_crops(BATCH, mesh)
    assert [len(part) for part in own] == [BATCH_SIZE // 2] * 2
    with EarlyStop(guess=4.0, learning_rates=lambda update: 0.1) as stop:
        state, measured = train(start(mesh), 9, lambda batch: training.own_crops(batch, mesh), stop)
    with checkpoint.Checkpoints(Path(folder), {"measured": measured}, every=2) as checkpoints:
        checkpoints.save(int(state.step), state)
    if jax.process_index() == 1:
        checkpoint._all = lambda folder: []  # as long as process 0 has not written the manifest
    found = checkpoint.newest_checkpoint(Path(folder), report=print)
    restored = checkpoint.restore(found, start(mesh))
    weights = [float(np.sum(training.whole(s.params)["head"])) for s in (state, restored)]
    print(json.dumps([stop.reason, found.step, measured, weights]), file=sys.__stdout__)
    return stop.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
