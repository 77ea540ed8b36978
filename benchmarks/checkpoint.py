"""A checkpoint's cost: jaxloss's against `torch.save`, of parameters and AdamW's averages of Model 5.

    python benchmarks/checkpoint.py [--sizes small gpt2] [--rounds 5] [--folder /path/on/the/disk]

Both take turns in one process. "step waits" is how long the training stands still, "on disk" when the file is
there whole and safe from a power cut: jaxloss's checkpoint is then also read back and summed up, and
`torch.save` is followed by fsync. Both restores end with every array in memory, jaxloss's with its checksums
compared. On 2 CPU cores, the small size takes some seconds, GPT-2 small a minute or two and 6 GB of memory.
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
import torch
from tqdm import tqdm

import torch_ref.model5
import torch_ref.training
from jaxloss.model5 import Model5, Model5Config, init_params, to_arrays
from jaxloss.training import init_state, make_optimizer
from jaxloss.training.checkpoint import Checkpoints, newest_checkpoint, restore

SIZES = {
    "small": Model5Config(vocab_size=8192, embed_dim=256, num_heads=4, num_blocks=4),
    "gpt2": Model5Config(),
}
FIGURES = ("step waits, s", "on disk after, s", "restored in, s", "bytes")


def timed(function: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def jaxloss_round(state, folder: Path) -> tuple[float, float, float, int]:
    """What one checkpoint costs, by `FIGURES`."""
    with Checkpoints(folder, {}, every=1) as checkpoints:
        waits, _ = timed(lambda: checkpoints.save(1, state))
        rest, _ = timed(checkpoints.wait)
    seconds, _ = timed(lambda: jax.block_until_ready(restore(newest_checkpoint(folder, print), state)))
    return waits, waits + rest, seconds, size(folder)


def torch_round(state, folder: Path) -> tuple[float, float, float, int]:
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
    return waits, waits + rest, seconds, size(folder)


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
        jax_state, torch_state = states(SIZES[name])
        contenders = {
            "jaxloss": lambda path, state=jax_state: jaxloss_round(state, path),
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
