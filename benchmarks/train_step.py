"""One training step of Model 5, dropout on, AdamW: jaxloss against PyTorch for both objectives.

    python benchmarks/train_step.py [--sizes small gpt2] [--rounds 7] [--peers jaxloss "torch eager" ...]
    python benchmarks/train_step.py --sizes gpt2 --batch-size 64 --dtypes float32 bfloat16      # for a GPU

All contenders take turns in one process, round after round, so that a busy machine slows all of them alike;
the table gives the median time of a step and the spread (the middle half of the rounds). PyTorch trains
`torch_ref`'s Model 5, whose final-token step leaves out what only other positions need, as jaxloss's does;
"torch eager, whole" is the usual final-token step, which picks the last position's logits out of all.
`torch.compile` compiles the model. The dtype is that of the forward and backward pass. On 2 CPU cores the
small size takes a minute and GPT-2 small three.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from functools import partial

import jax
import numpy as np
import torch

import torch_ref.losses
import torch_ref.model5
import torch_ref.training
from jaxloss import linear_final_token_loss, linear_next_token_loss
from jaxloss.model5 import Model5, Model5Config, init_params, num_params, to_arrays
from jaxloss.training import init_state, make_optimizer, make_train_step

SIZES = {  # the model, crops in a batch
    "toy": (Model5Config(vocab_size=64, context_length=8, embed_dim=16, num_heads=2, num_blocks=1), 4),
    "small": (Model5Config(vocab_size=8192, embed_dim=256, num_heads=4, num_blocks=4), 8),
    "gpt2": (Model5Config(), 2),
}
OBJECTIVES = {"all": {}, "final": {"logits_to_keep": 1}}
JAX_LOSSES = {"all": linear_next_token_loss, "final": linear_final_token_loss}
TORCH_LOSSES = {"all": torch_ref.losses.next_token_loss, "final": torch_ref.losses.final_token_loss}


def batch(config: Model5Config, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, config.vocab_size, (batch_size, config.context_length + 1), dtype=np.int32)
    return tokens[:, :-1], tokens[:, 1:]


def jaxloss_step(config: Model5Config, batch_size: int, objective: str, dtype: str, **chunked):
    """A function that makes one step and waits for it."""
    inputs, targets = batch(config, batch_size)
    params = init_params(config, jax.random.key(0))
    state = init_state(Model5(config).apply, params, make_optimizer(), batch_size=batch_size)
    loss, options = partial(JAX_LOSSES[objective], **chunked), OBJECTIVES[objective]
    train_step = make_train_step(loss, from_hidden=True, compute_dtype=dtype, **options)
    key = jax.random.key(1)

    def step() -> float:
        nonlocal state
        state, loss, _ = train_step(state, inputs, targets, key)
        return float(loss)

    return step


def torch_step(
    compiled: bool, whole: bool, config: Model5Config, batch_size: int, objective: str, dtype: str
):
    """The same in PyTorch, from the same weights."""
    inputs, targets = (torch.from_numpy(ids.astype(np.int64)) for ids in batch(config, batch_size))
    arrays = to_arrays(init_params(config, jax.random.key(0)))
    model = torch_ref.model5.from_arrays(arrays, config)
    optimizer = torch_ref.training.make_optimizer()
    state = torch_ref.training.init_state(model, optimizer, batch_size=batch_size)
    if compiled:
        # Not before: the state has a copy of the model, whose forward would still be the first model's.
        state.model.forward = torch.compile(state.model.forward)
    options = {"compute_dtype": None if dtype == "float32" else dtype}
    options |= {} if whole else OBJECTIVES[objective]
    train_step = torch_ref.training.make_train_step(TORCH_LOSSES[objective], **options)
    generator = torch.Generator().manual_seed(1)

    def step() -> float:
        _, loss, _ = train_step(state, inputs, targets, generator)
        return loss.item()

    return step


PEERS = {
    "jaxloss": jaxloss_step,
    "torch eager": partial(torch_step, False, False),
    "torch eager, whole": partial(torch_step, False, True),
    "torch.compile": partial(torch_step, True, False),
}


def measure(
    size: str, batch_size: int | None, dtype: str, peers: list[str], chunk_sizes: Sequence[int], rounds: int
) -> None:
    config, usual = SIZES[size]
    batch_size = batch_size or usual
    chunked = partial(jaxloss_step, implementation="chunked")
    sizes = {f"jaxloss, chunks of {n}": partial(chunked, chunk_size=n) for n in chunk_sizes}
    makers = {peer: PEERS[peer] for peer in peers}
    contenders = [
        (objective, peer)
        for objective in OBJECTIVES
        for peer in [*makers, *sizes]
        # Of all tokens, torch's usual step is the whole one; of final tokens there are too few for chunks.
        if not (peer.endswith("whole") if objective == "all" else peer in sizes)
    ]
    makers |= sizes
    steps, seconds, losses = {}, {}, {}
    for objective, peer in contenders:
        start = time.perf_counter()
        steps[objective, peer] = makers[peer](config, batch_size, objective, dtype)
        losses[objective, peer] = [steps[objective, peer]()]  # compiles, and warms the allocators
        seconds[objective, peer] = []
        seconds_to_first = time.perf_counter() - start
        print(f"{objective}, {peer}: first step after {seconds_to_first:.0f} s", file=sys.stderr, flush=True)
    for _ in range(rounds):
        for contender in contenders:
            start = time.perf_counter()
            losses[contender].append(steps[contender]())
            seconds[contender].append(time.perf_counter() - start)
    for contender, values in losses.items():
        if len(set(values)) == 1:
            sys.exit(f"{', '.join(contender)}: every step has one loss, so none drops out or updates")

    parameters = f"{num_params(config) / 1e6:.1f} M parameters"
    shape = f"batch {batch_size} x {config.context_length}, {dtype}"
    print(f"\n{size}: {parameters}, {shape}, {rounds} rounds\n")
    print(f"| objective | | ms | middle half | of {peers[0]} | of its all-token step |")
    print("|---|---|---:|---:|---:|---:|")
    medians = {contender: statistics.median(times) for contender, times in seconds.items()}
    for objective, peer in contenders:
        low, _, high = statistics.quantiles(seconds[objective, peer], n=4)
        median = medians[objective, peer]
        print(
            f"| {objective} | {peer} | {1e3 * median:,.0f} | {1e3 * low:,.0f} - {1e3 * high:,.0f} "
            f"| {median / medians[objective, peers[0]]:.2f} "
            f"| {median / medians.get(('all', peer.removesuffix(', whole')), float('nan')):.2f} |"
        )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["small", "gpt2"])
    parser.add_argument("--batch-size", type=int, help="crops; 8 of the small size and 2 of gpt2 by default")
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument(
        "--chunk-sizes", nargs="+", type=int, default=[], help="measure jaxloss with these as well"
    )
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args(argv)
    if given.rounds < 2 or given.peers[0].endswith("whole"):
        parser.error("--rounds must be at least 2, and the first of --peers one that has both objectives")
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}, torch {torch.__version__}")
    for size in given.sizes:
        for dtype in given.dtypes:
            measure(size, given.batch_size, dtype, given.peers, given.chunk_sizes, given.rounds)


if __name__ == "__main__":
    main()
