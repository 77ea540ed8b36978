"""What it gives to compute Model 5's blocks again on the way back (`remat`), and to loop over them (`scan`).

    python benchmarks/blocks.py [--size deep] [--objectives all final] [--fsdp 8] [--rounds 7]
    python benchmarks/blocks.py --size gpt2 --batch-size 64 --fsdp 1                            # for a GPU

A training step, dropout on, AdamW, float32. "compiled" is the processor time, of all cores, from the call to
the program; "step" what the program needs beside parameters, averages and batch, on each device. Steps are
timed on one device only, in rounds in which the ways take turns; with `--fsdp`, one CPU stands in for the
devices, which says nothing of time.
"""

import argparse
import time
from collections.abc import Sequence

import jax
import numpy as np
from _contenders import ratios, take_turns
from tqdm import tqdm

from jaxloss import linear_final_token_loss, linear_next_token_loss
from jaxloss.model5 import Model5, Model5Config, init_params, num_params
from jaxloss.runs.tables import format_table
from jaxloss.training import init_state, make_mesh, make_optimizer, make_train_step, place_batch

SIZES = {  # the model, crops in a batch
    "toy": (Model5Config(vocab_size=64, context_length=8, embed_dim=16, num_heads=2, num_blocks=2), 8),
    "deep": (Model5Config(vocab_size=8192, context_length=64, embed_dim=256, num_heads=4), 16),
    "gpt2": (Model5Config(), 2),
}
WAYS = {
    "called": {},
    "remat": {"remat": True},
    "scan": {"scan": True},
    "scan, remat": {"scan": True, "remat": True},
}
LOSSES = {"all": (linear_next_token_loss, None), "final": (linear_final_token_loss, 1)}
HEADER = (
    "objective",
    "devices",
    "blocks",
    "compiled, s",
    "state, MB",
    "step, MB",
    "time of called",
    "middle half",
)


def compiled_step(config: Model5Config, batch_size: int, objective: str, num_devices: int, options: dict):
    """The program of one step, a function that makes one, and the processor time that it took to compile."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, config.vocab_size, (batch_size, config.context_length + 1), dtype=np.int32)
    mesh = make_mesh(batch_size=batch_size, data=1, fsdp=num_devices)
    params = init_params(config, jax.random.key(0))
    model = Model5(config, **options)
    state = init_state(model.apply, params, make_optimizer(), batch_size=batch_size, mesh=mesh)
    batch = place_batch((tokens[:, :-1], tokens[:, 1:], jax.random.key(1)), state.params)
    loss, positions = LOSSES[objective]
    train_step = make_train_step(loss, from_hidden=True, logits_to_keep=positions)
    start = time.process_time()
    program = train_step.lower(state, *batch).compile()
    seconds = time.process_time() - start

    def step() -> None:
        nonlocal state
        state, *_ = jax.block_until_ready(program(state, *batch))

    return program, step, seconds


def rows(
    config: Model5Config, batch_size: int, objective: str, num_devices: int, rounds: int
) -> list[list[object]]:
    """A row for each way of calling the blocks."""
    found, steps = [], {}
    for way, options in tqdm(WAYS.items(), desc="compiling", leave=False, disable=None):
        program, steps[way], seconds = compiled_step(config, batch_size, objective, num_devices, options)
        memory = program.memory_analysis()
        sizes = (memory.argument_size_in_bytes, memory.temp_size_in_bytes)
        found.append(
            [objective, num_devices, way, f"{seconds:.1f}", *(f"{size / 1e6:,.1f}" for size in sizes)]
        )
    if num_devices > 1 or rounds == 0:
        return [[*row, "-", "-"] for row in found]
    timed = take_turns(steps, rounds)
    for row, taken in zip(found, timed.values(), strict=True):
        low, middle, high = ratios(taken, timed["called"])
        row += [f"{middle:.2f}", f"{low:.2f} - {high:.2f}"]
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="deep")
    parser.add_argument("--batch-size", type=int, help="crops; 16 of deep and 2 of gpt2 by default")
    parser.add_argument("--objectives", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--fsdp", type=int, default=8, help="devices of the second half; 1 leaves it out")
    parser.add_argument("--rounds", type=int, default=7, help="0 leaves out the times")
    given = parser.parse_args(argv)
    if given.fsdp > 1 and jax.config.jax_platforms in (None, "cpu"):
        jax.config.update("jax_num_cpu_devices", given.fsdp)
    config, usual = SIZES[given.size]
    batch_size = given.batch_size or usual
    print(
        f"jax {jax.__version__} on {jax.devices()[0].device_kind}; {given.size}: {config.num_blocks} blocks "
        f"of width {config.embed_dim}, {num_params(config) / 1e6:.1f} M parameters, "
        f"batch {batch_size} x {config.context_length}\n"
    )
    table = []
    for num_devices in dict.fromkeys((1, given.fsdp)):
        for objective in given.objectives:
            table += rows(config, batch_size, objective, num_devices, given.rounds)
    print(format_table(HEADER, table))


if __name__ == "__main__":
    main()
