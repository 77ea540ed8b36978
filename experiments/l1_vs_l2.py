"""Does L1's jumping gradient make one weight oscillate where L2's shrinking gradient lets it settle?

    python experiments/l1_vs_l2.py

One weight starts at 2 and is pulled to 3 by plain SGD, learning rate 0.05, 50 iterations, once with each
loss, in JAX and in PyTorch. Takes about ten seconds on two CPU cores, most of them imports. Nothing is
random, so the numbers have no spread over seeds.

To expect: L1 moves by 0.05 in every step, whatever the error is, reaches the target after 20 and from then
on hops to one side and back, 0.05 wide; at half the learning rate the hop is half as wide. (Rounding leaves
it 1e-6 short of 3; at exactly 3, where the gradient is 0, it would stay.) L2 closes a tenth of the
remaining gap in every step, never crosses the target and is 0.9^50 = 0.005 short of it at the end. Both
frameworks give the same numbers to the last bit.
"""

if __name__ == "__main__":
    import interrupt  # noqa: F401

import dataclasses
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxloss._checks import check_integer, check_number
from jaxloss.losses import l1_loss, mse_loss
from jaxloss.runs.cli import run_cli
from jaxloss.runs.findings import Finding, write_results
from jaxloss.runs.folder import RunFolder
from jaxloss.runs.plots import COLOURS, new_figure
from jaxloss.runs.tables import format_table

try:
    import torch

    import torch_ref.losses
except ImportError:
    sys.exit("error: this experiment needs PyTorch: pip install 'jaxloss[test]'")

LOSSES = {"L1": (l1_loss, torch_ref.losses.l1_loss), "L2": (mse_loss, torch_ref.losses.mse_loss)}
LAST = 10  # iterations at the end over which the oscillation is measured


@dataclasses.dataclass(frozen=True)
class Config:
    """Train a single weight with the L1 and with the L2 loss, in JAX and in PyTorch."""

    start: float = 2.0
    """Where the weight starts."""
    target: float = 3.0
    """Where the losses pull it."""
    learning_rate: float = 0.05
    """Step size of plain SGD."""
    steps: int = 50
    """Number of updates."""
    out: str | None = None
    """New folder for table, numbers and plot; runs/l1_vs_l2-<time> if not given."""

    def __post_init__(self) -> None:
        check_integer("steps", self.steps, low=1)
        for name in ("start", "target"):
            check_number(name, getattr(self, name), open_low=True, open_high=True)
        check_number("learning_rate", self.learning_rate, low=0, open_low=True, open_high=True)


def train_jax(loss: Callable[..., jax.Array], config: Config) -> tuple[np.ndarray, np.ndarray]:
    """The weight and its loss before every update and after the last."""
    optimizer = optax.sgd(config.learning_rate)
    target = jnp.float32(config.target)

    def update(carry, _):
        weight, opt_state = carry
        value, gradient = jax.value_and_grad(loss)(weight, target)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return (optax.apply_updates(weight, updates), opt_state), (weight, value)

    start = jnp.float32(config.start)
    _, (weights, losses) = jax.lax.scan(update, (start, optimizer.init(start)), length=config.steps + 1)
    return np.asarray(weights), np.asarray(losses)


def train_torch(loss: Callable[..., torch.Tensor], config: Config) -> tuple[np.ndarray, np.ndarray]:
    """The same, in PyTorch."""
    weight = torch.nn.Parameter(torch.tensor(config.start))
    target = torch.tensor(config.target)
    optimizer = torch.optim.SGD([weight], lr=config.learning_rate)
    history = []
    for _ in range(config.steps + 1):
        optimizer.zero_grad()
        value = loss(weight, target)
        history.append((weight.item(), value.item()))
        value.backward()
        optimizer.step()
    weights, losses = np.array(history, dtype=np.float32).T
    return weights, losses


def oscillation(weights: np.ndarray) -> float:
    """How far apart the weight's last values lie, if it goes back and forth between them; else 0."""
    moves = np.diff(weights[-LAST - 1 :])
    return float(np.ptp(weights[-LAST:])) if np.any(moves[1:] * moves[:-1] < 0) else 0.0


def plot(path, runs: dict[str, tuple[np.ndarray, np.ndarray]], config: Config) -> None:
    figure, (loss_axis, weight_axis) = new_figure(
        2, title=f"One weight, SGD with learning rate {config.learning_rate:g}: L1 against L2"
    )
    for colour, (name, (weights, losses)) in zip(COLOURS, runs.items(), strict=False):
        style = {"color": colour, "linewidth": 1.6, "marker": "o", "markersize": 3, "label": name}
        loss_axis.plot(losses, **style)
        weight_axis.plot(weights, **style)
    weight_axis.axhline(config.target, color="#555555", linewidth=1, linestyle="--", label="target")
    loss_axis.set(xlabel="iteration", ylabel="loss (squared units for L2)", title="loss")
    weight_axis.set(xlabel="iteration", ylabel="weight", title="weight")
    for axis in (loss_axis, weight_axis):
        axis.legend(frameon=False)
    figure.savefig(path)


def single_errors() -> str:
    """Both losses of one prediction, 2, of a target, 5."""
    in_jax = [loss(jnp.float32(2), jnp.float32(5)).item() for loss, _ in LOSSES.values()]
    in_torch = [loss(torch.tensor(2.0), torch.tensor(5.0)).item() for _, loss in LOSSES.values()]
    rows = [
        [name, *(f"{loss:g}" for loss in losses)] for name, losses in (("JAX", in_jax), ("PyTorch", in_torch))
    ]
    return format_table(["prediction 2, target 5", *LOSSES], rows)


def findings(results: dict[str, dict], config: Config) -> list[Finding]:
    """What the figures say about L4 and L5."""
    errors = [loss(jnp.float32(2), jnp.float32(5)).item() for loss, _ in LOSSES.values()]
    width, error = ([results[name][key] for name in LOSSES] for key in ("oscillation width", "final error"))
    return [
        Finding.of("L4", f"{errors[0]:g} and {errors[1]:g}", [errors == [3.0, 9.0]]),
        Finding.of(
            "L5",
            f"width of the oscillation at the end: L1 {width[0]:.3f} at a learning rate of "
            f"{config.learning_rate:g}, L2 {width[1]:.3f}; final error {error[0]:.2g} and {error[1]:.2g}",
            [abs(width[0] - config.learning_rate) < 1e-5, width[1] == 0.0],
        ),
    ]


def weight_table(pairs: dict[str, tuple], config: Config) -> str:
    """The weight at a few iterations, for each loss in each framework."""
    steps = sorted({step for step in (0, 1, 5, 10, 20, 21, 30, 40, config.steps) if step <= config.steps})
    rows = [
        [f"after {step}", *(f"{run[0][step]:.7f}" for pair in pairs.values() for run in pair)]
        for step in steps
    ]
    return format_table(["weight", *(f"{name} {f}" for name in pairs for f in ("JAX", "PyTorch"))], rows)


def oscillation_by_rate(config: Config) -> str:
    """The final oscillation at half, once and twice the learning rate, after as long a way."""
    rows = []
    for factor in (0.5, 1.0, 2.0):
        changed = dataclasses.replace(
            config, learning_rate=factor * config.learning_rate, steps=round(config.steps / min(factor, 1.0))
        )
        widths = [oscillation(train_jax(loss, changed)[0]) for loss, _ in LOSSES.values()]
        rows.append([f"{changed.learning_rate:g}", *(f"{width:.4f}" for width in widths)])
    return format_table(["oscillation at learning rate", *LOSSES], rows)


def main(config: Config) -> None:
    folder = RunFolder(config.out, "l1_vs_l2").create()
    pairs = {name: (train_jax(a, config), train_torch(b, config)) for name, (a, b) in LOSSES.items()}
    results = {
        name: {
            "final error": abs(float(in_jax[0][-1]) - config.target),
            f"largest error of the last {LAST}": float(np.abs(in_jax[0][-LAST:] - config.target).max()),
            "oscillation width": oscillation(in_jax[0]),
            "JAX against PyTorch, largest difference": float(np.abs(np.subtract(in_jax, in_torch)).max()),
        }
        for name, (in_jax, in_torch) in pairs.items()
    }
    rows = [[key, *(f"{results[name][key]:.3g}" for name in LOSSES)] for key in results["L1"]]
    text = "\n\n".join(
        [
            single_errors(),
            weight_table(pairs, config),
            format_table([f"after {config.steps} iterations", *LOSSES], rows),
            oscillation_by_rate(config),
        ]
    )
    found = findings(results, config)
    for name, (in_jax, _) in pairs.items():
        results[name] |= {"weights": in_jax[0].tolist(), "losses": in_jax[1].tolist()}
    plot(folder.file("loss_and_weight.png"), {name: in_jax for name, (in_jax, _) in pairs.items()}, config)
    write_results(folder, config, text, found, results)


if __name__ == "__main__":
    sys.exit(run_cli(main, Config))
