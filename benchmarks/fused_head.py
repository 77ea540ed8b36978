"""Value and gradients of a language model's head and loss: jaxloss against its peers, side by side.

    python benchmarks/fused_head.py [--shapes 4096x768x50257 ...] [--rounds 5] [--peers jaxloss naive ...]
    python benchmarks/fused_head.py --shapes 16384x768x50257 --dtypes bfloat16 --chunk-sizes 1024 4096

All peers run in turn, round after round, so that what else the machine does falls on all of them alike; the
table gives the median time and the spread (the middle half of the rounds), the memory beyond inputs and
outputs, and the rate of the 6 N D V operations of the three products, in GFLOP/s and as a share of what a
bare chain of the products reaches. JAX's memory is the compiler's own figure; PyTorch's is the growth of
the resident set in a process of its own.
"""

import argparse
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from _contenders import ask_own_process, jax_step, middle_half, take_turns, torch_megabytes, torch_step
from jax import lax

from jaxloss.fused import linear_cross_entropy

SHAPES = ("4096x768x50257", "2048x512x32000", "8192x256x8192")


def problem(shape: str):
    num_tokens, width, vocabulary = map(int, shape.split("x"))
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((num_tokens, width), np.float32)
    head = 0.02 * rng.standard_normal((vocabulary, width), np.float32)
    return hidden, head, rng.integers(0, vocabulary, num_tokens)


def bare_products(hidden, head, labels):
    logits = lax.dot_general(hidden, head, (((1,), (1,)), ((), ())))
    return logits[0, 0], (logits @ head, lax.dot_general(logits, hidden, (((0,), (0,)), ((), ()))))


def jaxloss_head(hidden, head, labels, **options):
    return jax.value_and_grad(partial(linear_cross_entropy, **options), (0, 1))(hidden, head, labels)


def naive(hidden, head, labels):
    import optax

    def loss(hidden, head):
        logits = jnp.matmul(hidden, head.T, preferred_element_type=jnp.float32)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return jax.value_and_grad(loss, (0, 1))(hidden, head)


def checkpointed_scan(hidden, head, labels, chunk_size=256):
    import optax

    @jax.checkpoint
    def chunk_loss(head, chunk):
        return optax.softmax_cross_entropy_with_integer_labels(chunk[0] @ head.T, chunk[1]).sum()

    def loss(hidden, head):
        chunks = hidden.reshape(-1, chunk_size, hidden.shape[1]), labels.reshape(-1, chunk_size)
        total, _ = lax.scan(lambda total, chunk: (total + chunk_loss(head, chunk), None), 0.0, chunks)
        return total / labels.size

    return jax.value_and_grad(loss, (0, 1))(hidden, head)


def torch_eager(compiled=False):
    import torch

    def loss(hidden, head, labels):
        return torch.nn.functional.cross_entropy(hidden @ head.T, labels)

    return torch.compile(loss) if compiled else loss


def torch_linear(chunked=False):
    import torch

    options = torch.nn.LinearCrossEntropyOptions() if chunked else None
    return partial(torch.nn.functional.linear_cross_entropy, options=options)


JAX_PEERS = {
    "jaxloss": jaxloss_head,
    "naive": naive,
    "checkpointed scan": checkpointed_scan,
    "bare products": bare_products,
}
JAX_NAMES = {
    "jaxloss": "jaxloss",
    "naive": "JAX + optax, logits whole",
    "checkpointed scan": "jax.checkpoint'ed scan",
}
TORCH_PEERS = {
    "torch eager": torch_eager,
    "torch.compile": partial(torch_eager, compiled=True),
    "torch linear_cross_entropy": torch_linear,
    "torch linear_cross_entropy, options": partial(torch_linear, chunked=True),
}


def torch_head(name: str, shape: str, dtype: str):
    return torch_step(TORCH_PEERS[name](), *problem(shape), dtype=dtype)


def measure(
    shape: str, dtype: str, peers: list[str], chunk_sizes: Sequence[int], rounds: int
) -> dict[str, tuple[list[float], float]]:
    hidden, head, labels = map(jnp.asarray, problem(shape))
    arrays, chunked = (hidden.astype(dtype), head.astype(dtype), labels), {"implementation": "chunked"}
    in_jax = {name: function for name, function in JAX_PEERS.items() if name in peers}
    in_jax |= {
        f"jaxloss, chunks of {size}": partial(jaxloss_head, **chunked, chunk_size=size)
        for size in chunk_sizes
    }
    steps, megabytes = {}, {}
    for name, function in in_jax.items():
        steps[name], megabytes[name] = jax_step(function, *arrays)
    for name in (name for name in peers if name in TORCH_PEERS):
        steps[name] = torch_head(name, shape, dtype)
        own = ("--memory-of", name, "--shapes", shape, "--dtypes", dtype)
        megabytes[name] = ask_own_process(__file__, *own)
    seconds = take_turns(steps, rounds)
    return {name: (seconds[name], megabytes[name]) for name in steps}


def print_table(shape: str, dtype: str, results) -> None:
    num_tokens, width, vocabulary = map(int, shape.split("x"))
    operations = 6 * num_tokens * width * vocabulary / 1e9
    bare = middle_half(results["bare products"][0])[1] if "bare products" in results else None
    print(f"\nN = {num_tokens}, D = {width}, V = {vocabulary}, {dtype}\n")
    print("| | ms | middle half | MB | GFLOP/s | of bare products |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, (times, memory) in results.items():
        low, middle, high = (1e3 * t for t in middle_half(times))
        share = f"{bare * 1e3 / middle:.0%}" if bare else ""
        print(
            f"| {JAX_NAMES.get(name, name)} | {middle:,.0f} | {low:,.0f} - {high:,.0f} | {memory:,.0f} "
            f"| {operations / middle * 1e3:,.0f} | {share} |",
            flush=True,
        )


def main(argv: Sequence[str] | None = None) -> None:
    everyone = [*JAX_PEERS, *TORCH_PEERS]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="N x D x V")
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    parser.add_argument(
        "--chunk-sizes", nargs="+", type=int, default=[], help="measure jaxloss with these as well"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", nargs="+", choices=everyone, default=everyone)
    parser.add_argument("--memory-of", choices=list(TORCH_PEERS), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.memory_of:
        step = torch_head(arguments.memory_of, arguments.shapes[0], arguments.dtypes[0])
        print(torch_megabytes(step))
        return
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}; {arguments.rounds} rounds")
    for shape in arguments.shapes:
        for dtype in arguments.dtypes:
            results = measure(shape, dtype, arguments.peers, arguments.chunk_sizes, arguments.rounds)
            print_table(shape, dtype, results)


if __name__ == "__main__":
    main()
