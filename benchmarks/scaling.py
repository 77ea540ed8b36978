"""What a training step of Model 5 costs each of 1, 2, 4 and 8 devices: work, memory and traffic.

    python benchmarks/scaling.py [--size small] [--devices 1 2 4 8] [--layouts data fsdp tensor]

The batch is the same for all, so that a perfect layout leaves each of n devices 1 / n of the work. Nothing is
timed: the figures are those of the compiled program, for devices that one CPU stands in for. Work is XLA's
count of operations, without dropout, whose random integers it counts too; "state" is what a device holds of
parameters, averages and batch, "step" what it needs beside that. Traffic is what a device sends if exchanges
go around a ring of n: of an array of s bytes, 2 (n - 1) / n s for an all-reduce and (n - 1) / n s for an
all-gather, a reduce-scatter or an all-to-all.
"""

import argparse
import re
from collections import Counter
from functools import partial

import jax
import numpy as np
from tqdm import tqdm

from jaxloss import linear_next_token_loss
from jaxloss.model5 import Model5, Model5Config, init_params, num_params
from jaxloss.runs.tables import format_table
from jaxloss.training import init_state, make_mesh, make_optimizer, make_train_step

SIZES = {  # 8 heads and padded vocabularies, which 8 devices divide
    "small": Model5Config(vocab_size=8192, embed_dim=256, num_heads=8, num_blocks=4, dropout=0.0),
    "gpt2": Model5Config(vocab_size=50304, num_heads=8, dropout=0.0),
}
BATCH_SIZE = 16
LAYOUTS = ("data", "fsdp", "tensor")
HEADER = ("layout", "devices", "GFLOP", "of one's", "state, MB", "step, MB", "all-reduce, MB", "others, MB")
# Of machine code that never runs, the quickest will do.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}

_BYTES = {"pred": 1, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "f32": 4, "f64": 8, "s64": 8, "u64": 8}
_COLLECTIVE = re.compile(
    r" = (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(.*"
    r"(?:replica_groups|source_target_pairs)=(.*)"
)


def compiled_step(config: Model5Config, layout: str, num_devices: int):
    """The program of one step on that many devices."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, config.vocab_size, (BATCH_SIZE, config.context_length + 1), dtype=np.int32)
    mesh = make_mesh(batch_size=BATCH_SIZE, **({"data": 1} | {layout: num_devices}))
    params = init_params(config, jax.random.key(0))
    state = init_state(Model5(config).apply, params, make_optimizer(), batch_size=BATCH_SIZE, mesh=mesh)
    # XLA counts the body of a loop once: with all tokens in one chunk, the head has none.
    one_chunk = {"implementation": "chunked", "chunk_size": BATCH_SIZE * config.context_length}
    train_step = make_train_step(partial(linear_next_token_loss, **one_chunk), from_hidden=True)
    lowered = train_step.lower(state, tokens[:, :-1], tokens[:, 1:], jax.random.key(1))
    return lowered.compile(compiler_options=QUICK)


def bytes_sent(program: str) -> Counter:
    """What a device sends in a program, in bytes, by the kind of collective."""
    sent: Counter = Counter()
    for shapes, kind, groups in _COLLECTIVE.findall(program):
        size = sum(
            _BYTES[dtype] * int(np.prod([int(n) for n in shape.split(",") if n]))
            for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", shapes)
        )
        n = 1 if kind == "collective-permute" else group_size(groups)
        share = {"all-reduce": 2 * (n - 1) / n, "reduce-scatter": n - 1, "collective-permute": 1}
        sent[kind] += size * share.get(kind, (n - 1) / n)
    return sent


def group_size(groups: str) -> int:
    """How many devices exchange with each other, in any of the three ways that XLA writes it."""
    if listed := re.match(r"\{\{([\d,]+)\}", groups):
        return listed[1].count(",") + 1
    if iota := re.match(r"\[\d+,(\d+)\]<=", groups):
        return int(iota[1])
    if mesh := re.match(r"mesh\[([^]]*)\](?:, device_ids=\(.*?\)\))? \{([^}]*)\}", groups):
        sizes = dict(axis.split("=") for axis in mesh[1].split(","))
        return int(np.prod([int(sizes[axis]) for axis in mesh[2].split(",")]))
    raise ValueError(f"XLA writes groups of devices in a new way: {groups[:80]}")


def costs(config: Model5Config, layout: str, num_devices: int) -> dict[str, float]:
    """The step's cost for each device: floating-point operations, and bytes."""
    program = compiled_step(config, layout, num_devices)
    memory, sent = program.memory_analysis(), bytes_sent(program.as_text())
    return {
        "flops": program.cost_analysis()["flops"],
        "state": memory.argument_size_in_bytes,
        "step": memory.temp_size_in_bytes,
        "all-reduce": sent["all-reduce"],
        "others": sent.total() - sent["all-reduce"],
    }


def table(config: Model5Config, layouts: list[str], devices: list[int]) -> str:
    """A row for each layout and number of devices, beside one device."""
    cells = [("none", 1), *((layout, n) for layout in layouts for n in devices if n > 1)]
    rows, one = [], 0.0
    for layout, n in tqdm(cells, ncols=79, leave=False, disable=None):
        cost = costs(config, "data" if layout == "none" else layout, n)
        one = one or cost["flops"]
        megabytes = (f"{cost[what] / 1e6:,.1f}" for what in ("state", "step", "all-reduce", "others"))
        rows.append([layout, n, f"{cost['flops'] / 1e9:,.1f}", f"{cost['flops'] / one:.3f}", *megabytes])
    return format_table(HEADER, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="small", help="gpt2 takes 16 GB of memory")
    parser.add_argument("--devices", nargs="+", type=int, choices=(1, 2, 4, 8), default=[1, 2, 4, 8])
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=LAYOUTS)
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(arguments.devices))
    config = SIZES[arguments.size]
    print(
        f"jax {jax.__version__}; {arguments.size}: {num_params(config) / 1e6:.1f} M parameters, "
        f"batch {BATCH_SIZE} x {config.context_length}, float32\n"
    )
    print(table(config, arguments.layouts, arguments.devices))


if __name__ == "__main__":
    main()
