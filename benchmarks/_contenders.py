"""What the benchmarks share: steps of both frameworks that take turns in one process, and their memory."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
from _resident import peak_growth, plain_environment
from tqdm import tqdm


def take_turns(steps: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each step in each round; forwards and backwards, so that what is slow falls on all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in tqdm(range(rounds + 1), desc="rounds", leave=False, disable=None):  # None: off in a file
        for name in list(steps)[:: 1 if turn % 2 else -1]:
            start = time.perf_counter()
            steps[name]()
            if turn:  # the first round warms caches and allocators
                seconds[name].append(time.perf_counter() - start)
    return seconds


def middle_half(values: Sequence[float]) -> tuple[float, float, float]:
    """The first quartile, the median and the third quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def ratios(seconds: Sequence[float], of_peer: Sequence[float]) -> tuple[float, float, float]:
    """`middle_half` of the rounds' own ratios."""
    return middle_half([own / peer for own, peer in zip(seconds, of_peer, strict=True)])


def jax_step(function: Callable, *arrays) -> tuple[Callable[[], tuple], float]:
    """A function that runs `function` on the arrays and waits, and the megabytes that it holds meanwhile."""
    import jax

    compiled = jax.jit(function).lower(*arrays).compile()
    megabytes = compiled.memory_analysis().temp_size_in_bytes / 1e6
    return lambda: jax.block_until_ready(compiled(*arrays)), megabytes


def torch_step(loss: Callable, hidden: np.ndarray, head: np.ndarray, *others: np.ndarray, dtype="float32"):
    """A function that computes a loss and its gradients to hidden states and head, and waits."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, weight, *rest = (torch.from_numpy(array).to(device) for array in (hidden, head, *others))
    x, weight = (tensor.to(getattr(torch, dtype)).requires_grad_() for tensor in (x, weight))

    def step():
        x.grad = weight.grad = None
        value = loss(x, weight, *rest)
        value.backward()
        if device == "cuda":
            torch.cuda.synchronize()
        return value.detach(), x.grad, weight.grad

    return step


def torch_megabytes(step: Callable[[], object]) -> float:
    """The peak of a step of `torch_step` beyond inputs and gradients, in a process that does nothing else."""
    import torch

    # The gradients of the run before are counted as held, and given back when the next one begins.
    if not torch.cuda.is_available():
        return peak_growth(step) / 1e6
    step()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def ask_own_process(script: str, *arguments: str) -> float:
    """The number that a script prints in a process of its own, which gives memory back at once."""
    command = [sys.executable, script, *arguments]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=plain_environment())
    return float(run.stdout)
