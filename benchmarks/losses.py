"""Value and gradient of cross entropy on float32 logits: jaxloss and optax jitted, torch eager, side by side.

    python benchmarks/losses.py
    python benchmarks/losses.py --sizes 1024x50257 --rounds 5

The contenders take turns in one process, forwards and backwards, so that a busy machine slows all of them
alike. Time is the median of the rounds with its range; the ratio is the median of the rounds' own ratios to
the better peer, with their middle half. With the C library's default settings, page faults take most of the
time of all contenders; `make bench` has it keep huge pages. Memory is what the process holds at its peak
beyond the logits, in units of their size, measured in a process of its own (the gradient is one unit). On 2
CPU cores both sizes take about two minutes.
"""

import argparse
import statistics

import numpy as np
from _contenders import ask_own_process, ratios, take_turns
from _resident import peak_growth

CONTENDERS = ["jaxloss", "optax", "torch"]


def make_step(name: str, num_rows: int, num_classes: int):
    """A function without arguments that computes value and gradient and waits for them."""
    random = np.random.default_rng(0)
    logits = random.standard_normal((num_rows, num_classes), dtype=np.float32)
    labels = random.integers(0, num_classes, num_rows)
    if name == "torch":
        import torch

        x, y = torch.from_numpy(logits).requires_grad_(), torch.from_numpy(labels)

        def step():
            loss = torch.nn.functional.cross_entropy(x, y)
            return loss.detach(), *torch.autograd.grad(loss, x)

        return step

    import jax
    import jax.numpy as jnp

    if name == "jaxloss":
        from jaxloss.losses import cross_entropy as loss
    else:
        from optax.losses import softmax_cross_entropy_with_integer_labels

        def loss(x, y):
            return softmax_cross_entropy_with_integer_labels(x, y).mean()

    x, y = jnp.asarray(logits), jnp.asarray(labels, jnp.int32)
    compiled = jax.jit(jax.value_and_grad(loss)).lower(x, y).compile()

    def step():
        return jax.block_until_ready(compiled(x, y))

    step.memory = compiled.memory_analysis()
    return step


def print_peak(name: str, num_rows: int, num_classes: int) -> None:
    """For a process of its own: what one step adds to the peak, in units of the logits."""
    step = make_step(name, num_rows, num_classes)
    if name != "torch":
        # The compiler's own plan, since XLA gives memory back when it likes.
        print(
            (step.memory.temp_size_in_bytes + step.memory.output_size_in_bytes) / (4 * num_rows * num_classes)
        )
        return
    print(peak_growth(step) / (4 * num_rows * num_classes))


def measure(num_rows: int, num_classes: int, rounds: int) -> None:
    steps = {name: make_step(name, num_rows, num_classes) for name in CONTENDERS}
    seconds = take_turns(steps, rounds)
    steps.clear()
    best_peer = min(CONTENDERS[1:], key=lambda name: statistics.median(seconds[name]))
    print(f"\ncross entropy, value and gradient, float32 [{num_rows}, {num_classes}], {rounds} rounds")
    print(f"{'':8}  {'seconds':>8}  {'range':>15}  {'of the better peer':>24}  {'peak beyond logits':>18}")
    for name, times in seconds.items():
        peak = ask_own_process(__file__, "--peak", name, "--sizes", f"{num_rows}x{num_classes}")
        low, middle, high = ratios(times, seconds[best_peer])
        spread = f"{min(times):.3f} - {max(times):.3f}"
        print(
            f"{name:8}  {statistics.median(times):8.3f}  {spread:>15}  "
            f"{f'{middle:.2f} ({low:.2f} to {high:.2f})':>24}  {peak:17.2f}x",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", nargs="+", default=["4096x50257", "16384x4096"], help="rows x classes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak", choices=CONTENDERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for size in arguments.sizes:
        num_rows, num_classes = (int(part) for part in size.split("x"))
        if arguments.peak:
            print_peak(arguments.peak, num_rows, num_classes)
        else:
            measure(num_rows, num_classes, arguments.rounds)


if __name__ == "__main__":
    main()
