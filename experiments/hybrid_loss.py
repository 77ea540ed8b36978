"""Are two losses better together, with weights that are fixed, scheduled, or learnt, than each alone?

    python experiments/hybrid_loss.py

Claim L9, hybrid losses. A network with one hidden layer learns ten classes (cross entropy) and three real
numbers (squared error), both functions of the same six hidden causes, from 200 examples. The numbers have a
standard deviation of 5, so that their loss is the larger at first. Trained by either loss alone; by both with
fixed weights, even, or chosen on a grid; with weights that move in a line over the training, from one loss to
the other, or from both to one; and with weights learnt from the data, by uncertainty (Kendall et al. 2018,
https://arxiv.org/abs/1705.07115). Grid and schedule are chosen by 200 held-out examples, by the sum of what
is measured on 2,000 new ones: accuracy, and explained variance. Takes half a minute on two CPU cores.

To expect, over five seeds: the numbers gain, from 0.597 ± 0.101 alone to 0.634 with the best fixed weight,
0.654 with the best schedule, 0.615 by uncertainty; the classes lose, from 0.498 to 0.492, 0.483 and 0.476.
"""

if __name__ == "__main__":
    import interrupt  # noqa: F401

import dataclasses
import sys
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxloss import (
    cross_entropy,
    init_log_variances,
    make_hybrid_loss,
    make_uncertainty_weighted_loss,
    mse_loss,
)
from jaxloss.runs.cli import run_cli
from jaxloss.runs.experiment import ExperimentConfig
from jaxloss.runs.findings import Finding, is_above, spread, write_results
from jaxloss.runs.folder import RunFolder
from jaxloss.runs.plots import COLOURS, new_figure
from jaxloss.runs.tables import format_table

NUM_CLASSES, NUM_REALS, NUM_CAUSES, NUM_FEATURES, DEVIATION = 10, 3, 6, 20, 5.0
LOSSES = {
    "classes": lambda y_hat, y: cross_entropy(y_hat[0], y[0]),
    "numbers": lambda y_hat, y: mse_loss(y_hat[1], y[1]),
}
MEASURES = {"accuracy": "accuracy of the classes", "explained": "explained variance of the numbers"}
# Weights of both losses at the start and at the end.
ALONE = {"classes alone": ((1, 0), (1, 0)), "numbers alone": ((0, 1), (0, 1))}
GRID = {f"fixed, 1 and {w:g}": ((1, w), (1, w)) for w in (1, 0.3, 0.1, 0.03, 0.01)}
EVEN = next(iter(GRID))
SCHEDULES = {
    "numbers, then classes": ((0, 1), (1, 0)),
    "classes, then numbers": ((1, 0), (0, 1)),
    "both, then classes": ((1, 0.3), (1, 0)),
    "both, then numbers": ((1, 0.3), (0, 0.3)),
}
WEIGHTS = ALONE | GRID | SCHEDULES
LEARNT = "uncertainty"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Learn classes and numbers by two losses in one."""

    seeds: int = 5
    examples: int = 200
    """Examples to learn from, and as many held out."""
    steps: int = 400
    """Updates by Adam, each on all examples."""
    learning_rate: float = 1e-2
    """Adam's step size."""


class TwoHeads(nn.Module):
    """One hidden layer that the logits and the numbers share."""

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = jnp.tanh(nn.Dense(64)(x))
        return nn.Dense(NUM_CLASSES)(x), nn.Dense(NUM_REALS)(x)


MODEL = TwoHeads()


def draw_task(key: jax.Array, num_examples: int):
    """Three sets of examples, `(x, (labels, numbers))`: to learn from, held out, and new."""

    def draw(key: jax.Array, num_examples: int):
        keys = jax.random.split(key, 4)
        causes = jax.random.normal(keys[0], (num_examples, NUM_CAUSES))
        x = jnp.tanh(causes @ of_features) + 0.3 * jax.random.normal(keys[1], (num_examples, NUM_FEATURES))
        scores = causes @ of_classes
        labels = jnp.argmax(scores + 0.3 * jax.random.normal(keys[2], scores.shape), -1)
        numbers = causes @ of_numbers
        return x, (labels, DEVIATION * (numbers + 0.3 * jax.random.normal(keys[3], numbers.shape)))

    keys = jax.random.split(key, 6)
    sizes = NUM_FEATURES, NUM_CLASSES, NUM_REALS
    matrices = [jax.random.normal(k, (NUM_CAUSES, n)) for k, n in zip(keys, sizes, strict=False)]
    of_features, of_classes, of_numbers = (m / NUM_CAUSES**0.5 for m in matrices)
    return [draw(k, n) for k, n in zip(keys[3:], (num_examples, num_examples, 2000), strict=True)]


def measure(params, examples) -> dict[str, jax.Array]:
    """Accuracy, and 1 less the squared error's share of the variance."""
    x, (labels, numbers) = examples
    logits, y_hat = MODEL.apply(params["model"], x)
    explained = 1 - mse_loss(y_hat, numbers) / jnp.mean(jnp.var(numbers, 0))
    return {"accuracy": jnp.mean(logits.argmax(-1) == labels), "explained": explained}


def train_and_measure(key: jax.Array, loss: Callable, config: Config):
    """What is measured on held-out and on new examples; `loss` is of `(y_hat, y, step, log_variances)`."""
    data, *measured = draw_task(key, config.examples)
    params = {
        "model": MODEL.init(jax.random.fold_in(key, 0), data[0]),
        "log_variances": init_log_variances(LOSSES),
    }
    optimizer = optax.adam(config.learning_rate)

    def update(carry, step):
        params, opt_state = carry
        gradient = jax.grad(
            lambda p: loss(MODEL.apply(p["model"], data[0]), data[1], step, p["log_variances"])
        )(params)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    (params, _), _ = jax.lax.scan(update, (params, optimizer.init(params)), jnp.arange(config.steps))
    return [measure(params, examples) for examples in measured]


def run_weights(key: jax.Array, weights: jax.Array, config: Config):
    """Weights `[start or end, loss]`, in a line between."""

    def at(loss: int) -> Callable:
        return lambda step: weights[0, loss] + (weights[1, loss] - weights[0, loss]) * step / config.steps

    hybrid = make_hybrid_loss(LOSSES, {"classes": at(0), "numbers": at(1)})
    return train_and_measure(key, lambda y_hat, y, step, _: hybrid(y_hat, y, step=step), config)


def run_uncertainty(key: jax.Array, config: Config):
    hybrid = make_uncertainty_weighted_loss(LOSSES, {"classes": "softmax", "numbers": "gaussian"})
    return train_and_measure(key, lambda y_hat, y, _, s: hybrid(y_hat, y, s), config)


def plot(path, found: dict[str, dict[str, np.ndarray]], shown: list[str]) -> None:
    """What each hybrid gains on the loss that is there for the measure alone, a point for each seed."""
    figure, axes = new_figure(2, title="Two losses in one, against each alone")
    for axis, (measured, label), alone in zip(axes, MEASURES.items(), ALONE, strict=True):
        for i, (colour, name) in enumerate(zip(COLOURS, shown, strict=True)):
            gains = found[name][measured] - found[alone][measured]
            axis.scatter(gains, np.full(gains.shape, -i), color=colour, s=30)
            axis.plot([gains.mean()] * 2, [-i - 0.25, -i + 0.25], color=colour, linewidth=2)
        axis.axvline(0, color="#444444", linewidth=1)
        axis.set(xlabel=f"{label}, above that of {alone}")
        axis.set_yticks([-i for i in range(len(shown))], shown if axis is axes[0] else [""] * len(shown))
    figure.savefig(path)


def main(config: Config) -> None:
    folder = RunFolder(config.out, "hybrid_loss").create()
    keys = jax.random.split(jax.random.key(0), config.seeds)
    of_keys = jax.vmap(lambda weights, key: run_weights(key, weights, config), (None, 0))
    by_weights = jax.jit(jax.vmap(of_keys, (0, None)))(jnp.array([*WEIGHTS.values()], jnp.float32), keys)
    learnt = jax.jit(jax.vmap(lambda key: run_uncertainty(key, config)))(keys)
    held, found = (
        {name: jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), own) for i, name in enumerate(WEIGHTS)}
        | {LEARNT: jax.tree.map(np.asarray, of_learnt)}
        for own, of_learnt in zip(by_weights, learnt, strict=True)
    )

    worth = {name: sum(own[m].mean() for m in MEASURES) for name, own in held.items()}
    shown = [EVEN, max(GRID, key=worth.get), max(SCHEDULES, key=worth.get), LEARNT]
    rows = [[name, *(spread(own[m]) for m in MEASURES)] for name, own in found.items()]
    figures = [
        f"{spread(found[n]['accuracy'])} and {spread(found[n]['explained'])} ({n})" for n in [*ALONE, *shown]
    ]
    above = [
        is_above(found[n][m], found[alone][m])
        for n in shown[1:]
        for m, alone in zip(MEASURES, ALONE, strict=True)
    ]
    finding = Finding.of(
        "L9, hybrid",
        f"accuracy of classes and explained variance of numbers {'; '.join(figures)}; a fixed weight and the "
        "schedule chosen by held-out examples",
        above,
    )
    plot(folder.file("hybrid_loss.png"), found, shown)
    write_results(folder, config, format_table(["", *MEASURES.values()], rows), [finding], {"found": found})


if __name__ == "__main__":
    sys.exit(run_cli(main, Config))
