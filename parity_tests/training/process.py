"""One of two processes that train together: python process.py ID PORT FOLDER."""

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


def train(state, steps, own=lambda batch: batch):
    """The state after some steps, and their losses."""
    from jaxloss import next_token_loss, training

    train_step, losses = training.make_train_step(next_token_loss), []
    for _ in range(steps):
        state, loss, _ = train_step(state, *own(BATCH), jax.random.key(0))
        losses.append(float(loss))
    return state, losses


def main(process: str, port: str, folder: str) -> None:
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", 2, int(process))
    from jaxloss import training
    from jaxloss.training.checkpoint import Checkpoints

    mesh = training.make_mesh(batch_size=BATCH_SIZE, fsdp=2)
    own = training.own_crops(BATCH, mesh)
    assert [len(part) for part in own] == [BATCH_SIZE // 2] * 2
    state, losses = train(start(mesh), 2, own=lambda batch: training.own_crops(batch, mesh))
    with Checkpoints(Path(folder), {"losses": losses}, every=2) as checkpoints:
        checkpoints.save(2, state)
    print(losses, np.sum(training.whole(state.params)["head"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
