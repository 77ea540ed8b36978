"""One training step of Model 5, dropout on, AdamW: jaxloss against PyTorch for both objectives.

    python benchmarks/train_step.py [--sizes small gpt2] [--rounds 7] [--peers jaxloss "torch eager" ...]

All contenders take turns in one process, round after round, so that a busy machine slows all of them alike;
the table gives the median time of a step and the spread (the middle half of the rounds). PyTorch trains
`torch_ref`'s Model 5, whose final-token step leaves out what only other positions need, as jaxloss's does;
"torch eager, whole" is the usual final-token step, which picks the last position's logits out of all.
`torch.compile` compiles the model. On 2 CPU cores the small size takes a minute and GPT-2 small three.
"""

import argparse
import statistics
import time
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


def jaxloss_step(config: Model5Config, batch_size: int, objective: str):
    """A function that makes one step and waits for it."""
    inputs, targets = batch(config, batch_size)
    params = init_params(config, jax.random.key(0))
    state = init_state(Model5(config).apply, params, make_optimizer(), batch_size=batch_size)
    train_step = make_train_step(JAX_LOSSES[objective], from_hidden=True, **OBJECTIVES[objective])
    key = jax.random.key(1)

    def step() -> float:
        nonlocal state
        state, loss, _ = train_step(state, inputs, targets, key)
        return float(loss)

    return step


def torch_step(compiled: bool, whole: bool, config: Model5Config, batch_size: int, objective: str):
    """The same in PyTorch, from the same weights."""
    inputs, targets = (torch.from_numpy(ids.astype(np.int64)) for ids in batch(config, batch_size))
    arrays = to_arrays(init_params(config, jax.random.key(0)))
    model = torch_ref.model5.from_arrays(arrays, config)
    if compiled:
        model.forward = torch.compile(model.forward)
    optimizer = torch_ref.training.make_optimizer()
    state = torch_ref.training.init_state(model, optimizer, batch_size=batch_size)
    options = {} if whole else OBJECTIVES[objective]
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


def measure(size: str, peers: list[str], rounds: int) -> None:
    config, batch_size = SIZES[size]
    contenders = [
        (objective, peer)
        for objective in OBJECTIVES
        for peer in peers
        if not (objective == "all" and peer.endswith("whole"))  # the same as without
    ]
    steps, seconds = {}, {}
    for objective, peer in contenders:
        start = time.perf_counter()
        steps[objective, peer] = PEERS[peer](config, batch_size, objective)
        steps[objective, peer]()  # compiles, and warms the allocators
        seconds[objective, peer] = []
        print(f"{objective}, {peer}: first step after {time.perf_counter() - start:.0f} s", flush=True)
    for _ in range(rounds):
        for contender in contenders:
            start = time.perf_counter()
            steps[contender]()
            seconds[contender].append(time.perf_counter() - start)

    parameters = f"{num_params(config) / 1e6:.1f} M parameters"
    print(f"\n{size}: {parameters}, batch {batch_size} x {config.context_length}, {rounds} rounds\n")
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    if arguments.rounds < 2 or arguments.peers[0].endswith("whole"):
        parser.error("--rounds must be at least 2, and the first of --peers one that has both objectives")
    print(f"jax {jax.__version__} on {jax.default_backend()}, torch {torch.__version__}")
    for size in arguments.sizes:
        measure(size, arguments.peers, arguments.rounds)


if __name__ == "__main__":
    main()
