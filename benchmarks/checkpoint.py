"""A checkpoint's cost: jaxloss's against `torch.save`, of parameters and AdamW's averages of Model 5.

    python benchmarks/checkpoint.py [--sizes small gpt2] [--rounds 5] [--folder /path/on/the/disk]

Both take turns in one process. "step waits" is how long the call takes. "training loses" is by how much real
steps (all tokens, dropout) take longer until the checkpoint is on disk, the call included, against as many
steps just before: what is written can't be updated in place, and writing needs a core. `torch.save` does all
of its work in the call. "on disk" is when the file is there whole and safe from a power cut, with no step
beside: jaxloss's checkpoint is then also read back and summed up, and `torch.save` is followed by fsync. Both
restores end with every array in memory, jaxloss's with its checksums compared. On 2 CPU cores, the small size
takes a minute, GPT-2 small some minutes and 8 GB of memory.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import torch
from tqdm import tqdm

import torch_ref.model5
import torch_ref.training
from jaxloss import linear_next_token_loss
from jaxloss.model5 import Model5, Model5Config, init_params, to_arrays
from jaxloss.training import init_state, make_optimizer, make_train_step
from jaxloss.training.checkpoint import Checkpoints, newest_checkpoint, restore

SIZES = {  # the model, crops in a batch
    "small": (Model5Config(vocab_size=8192, embed_dim=256, num_heads=4, num_blocks=4), 8),
    "gpt2": (Model5Config(), 2),
}
FIGURES = ("step waits, s", "training loses, s", "on disk after, s", "restored in, s", "bytes")
STEPS = 4


def timed(function: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


class Training:
    """Real steps of jaxloss, one after the other."""

    def __init__(self, state, config: Model5Config, batch_size: int):
        shape = (batch_size, config.context_length + 1)
        self._tokens = np.random.default_rng(0).integers(0, config.vocab_size, shape, dtype=np.int32)
        self._step = make_train_step(linear_next_token_loss, from_hidden=True)
        self.state = state
        self.run(1)

    def run(self, num_steps: int) -> None:
        """So many steps, each waited for."""
        for _ in range(num_steps):
            batch = self._tokens[:, :-1], self._tokens[:, 1:]
            self.state, loss, _ = self._step(self.state, *batch, jax.random.key(1))
            float(loss)


def jaxloss_round(training: Training, folder: Path) -> tuple[float, float, float, float, int]:
    """What one checkpoint costs, by `FIGURES`."""
    with Checkpoints(folder, {}, every=1) as checkpoints:
        waits, _ = timed(lambda: checkpoints.save(1, training.state))
        rest, _ = timed(checkpoints.wait)
    in_memory, _ = timed(
        lambda: jax.block_until_ready(restore(newest_checkpoint(folder, print), training.state))
    )
    num_bytes = size(folder)
    usual, _ = timed(lambda: training.run(STEPS))
    with Checkpoints(folder, {}, every=1) as checkpoints:
        beside, _ = timed(lambda: (checkpoints.save(2, training.state), training.run(STEPS)))
        late, _ = timed(checkpoints.wait)
    if late > 0.1 * usual:
        raise RuntimeError(f"the checkpoint was not on disk after {STEPS} steps: its cost is not all counted")
    return waits, beside - usual, waits + rest, in_memory, num_bytes


def torch_round(state, folder: Path) -> tuple[float, float, float, float, int]:
    """The same by `torch.save` and `torch.load`."""
    folder.mkdir()

    def save() -> None:
        with open(folder / "state.pt", "wb") as file:
            torch.save({"model": state.model.state_dict(), "optimizer": state.optimizer.state_dict()}, file)

    def sync() -> None:
        with open(folder / "state.pt", "rb") as file:
            os.fsync(file.fileno())

    def load() -> None:
        stored = torch.load(folder / "state.pt")
        state.model.load_state_dict(stored["model"])
        state.optimizer.load_state_dict(stored["optimizer"])

    waits, _ = timed(save)
    rest, _ = timed(sync)
    seconds, _ = timed(load)
    return waits, waits, waits + rest, seconds, size(folder)


def states(config: Model5Config):
    """The same training state in both frameworks, after an update, so that no average is all zeros."""
    params = init_params(config, jax.random.key(0))
    jax_state = init_state(Model5(config).apply, params, make_optimizer(), batch_size=1)
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    grads = [jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    jax_state = jax_state.apply_gradients(grads=jax.tree.unflatten(structure, grads))
    model = torch_ref.model5.from_arrays(to_arrays(params), config)
    torch_state = torch_ref.training.init_state(model, torch_ref.training.make_optimizer(), batch_size=1)
    for parameter in torch_state.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    torch_state.optimizer.step()
    return jax_state, torch_state


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", help="where to write; the system's temporary folder if not given")
    options = parser.parse_args()
    print(f"jax {jax.__version__}, torch {torch.__version__}, {os.cpu_count()} CPU cores, medians (range)\n")
    print(f"| size | | {' | '.join(FIGURES)} |\n| --- | --- | {' | '.join('---:' for _ in FIGURES)} |")
    for name in options.sizes:
        config, batch_size = SIZES[name]
        jax_state, torch_state = states(config)
        training = Training(jax_state, config, batch_size)
        contenders = {
            "jaxloss": lambda path, training=training: jaxloss_round(training, path),
            "torch.save": lambda path, state=torch_state: torch_round(state, path),
        }
        found: dict[str, list] = {contender: [] for contender in contenders}
        for _ in tqdm(range(options.rounds), desc=name, leave=False):
            for contender, measure in contenders.items():
                folder = Path(tempfile.mkdtemp(dir=options.folder))
                try:
                    found[contender].append(measure(folder / "checkpoints"))
                finally:
                    shutil.rmtree(folder)
        for contender, rounds in found.items():
            *seconds, sizes = zip(*rounds, strict=True)
            cells = [f"{statistics.median(s):.3f} ({min(s):.3f} to {max(s):.3f})" for s in seconds]
            print(f"| {name} | {contender} | {' | '.join(cells)} | {sizes[0]:,} |", flush=True)


if __name__ == "__main__":
    main()
