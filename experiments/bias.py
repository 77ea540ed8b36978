"""What does a penalty on the gap between groups buy, and what does the majority pay for it?

    python experiments/bias.py

Claim L7, a custom loss that penalises a biased model. Nine examples in ten are of one group, and the two
groups are told apart into classes by different boundaries, which a linear model cannot both have. It learns
by cross entropy plus `group_gap_penalty`, with factors from 0 to 2, or by cross entropy that weighs the
minority 1 to 81 times. Measured on new examples: the gap between the groups' mean losses, and each group's
accuracy. Takes about ten seconds on two CPU cores.

To expect, over five seeds: the gap falls from 0.62 ± 0.06 nats to 0.07 ± 0.04 at a factor of 1, the
majority's accuracy from 0.85 to 0.75, and the minority's rises from 0.60 to 0.73. Weights go the same way,
point by point: the penalty makes no better model than the right weight does (9 here). What it saves is to
know that weight: it stops where the gap is closed, and a weight of 27 or 81 goes past it.
"""

if __name__ == "__main__":
    import interrupt  # noqa: F401

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxloss import cross_entropy, group_gap_penalty
from jaxloss._checks import check_integer, check_number
from jaxloss.runs.cli import run_cli
from jaxloss.runs.experiment import ExperimentConfig
from jaxloss.runs.findings import Finding, is_above, spread, write_results
from jaxloss.runs.folder import RunFolder
from jaxloss.runs.plots import COLOURS, new_figure
from jaxloss.runs.tables import format_table

NUM_FEATURES = 10
PENALTIES = (0.0, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
WEIGHTS = (1.0, 2.0, 3.0, 5.0, 9.0, 27.0, 81.0)
MEASURES = ("gap", "majority", "minority")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Learn classes in two unequal groups, by a penalty on their gap and by weights."""

    seeds: int = 5
    examples: int = 1000
    """Examples to learn from."""
    minority: float = 0.1
    """Share of the smaller group."""
    steps: int = 1000
    """Updates by Adam, each on all examples."""
    learning_rate: float = 1e-2
    """Adam's step size."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("examples", self.examples, low=10)
        check_number("minority", self.minority, low=0, high=1, open_low=True, open_high=True)


def draw_examples(key: jax.Array, num_examples: int, minority: float) -> tuple[jax.Array, ...]:
    """Features, labels and groups. Each group has a boundary of its own, 75 degrees from the other's."""
    feature_key, group_key, noise_key = jax.random.split(key, 3)
    x = jax.random.normal(feature_key, (num_examples, NUM_FEATURES))
    group = jax.random.bernoulli(group_key, minority, (num_examples,)).astype(int)
    angle = jnp.deg2rad(75.0) * group
    score = x[:, 0] * jnp.cos(angle) + x[:, 1] * jnp.sin(angle)
    noise = 0.5 * jax.random.normal(noise_key, (num_examples,))
    return x, (score + noise > 0).astype(int), group


def logits_of(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """A linear model's two logits."""
    return x @ params["weight"] + params["bias"]


def loss(params, examples, penalty: jax.Array, minority_weight: jax.Array) -> jax.Array:
    """Cross entropy, its gap between the groups times a factor, the minority with a weight."""
    x, labels, group = examples
    losses = cross_entropy(logits_of(params, x), labels, reduction="none")
    weight = jnp.where(group == 1, minority_weight, 1.0)
    return jnp.sum(weight * losses) / jnp.sum(weight) + penalty * group_gap_penalty(losses, group, 2)


def train_and_measure(key: jax.Array, penalty: jax.Array, weight: jax.Array, config: Config) -> dict:
    """The gap of the losses and both accuracies, on new examples with as many of each group."""
    data_key, test_key = jax.random.split(key)
    examples = draw_examples(data_key, config.examples, config.minority)
    optimizer = optax.adam(config.learning_rate)
    params = {"weight": jnp.zeros((NUM_FEATURES, 2)), "bias": jnp.zeros(2)}

    def update(carry, _):
        params, opt_state = carry
        updates, opt_state = optimizer.update(jax.grad(loss)(params, examples, penalty, weight), opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    (params, _), _ = jax.lax.scan(update, (params, optimizer.init(params)), length=config.steps)
    x, labels, group = draw_examples(test_key, 20_000, 0.5)
    logits = logits_of(params, x)
    losses, right = cross_entropy(logits, labels, reduction="none"), jnp.argmax(logits, -1) == labels
    accuracies = [jnp.mean(right, where=group == g) for g in (0, 1)]
    return {"gap": group_gap_penalty(losses, group, 2), "majority": accuracies[0], "minority": accuracies[1]}


def plot(path, curves: dict[str, dict[str, np.ndarray]]) -> None:
    """The gap, and the minority's accuracy, against what the majority keeps."""
    figure, axes = new_figure(2, title="Two groups, 90 to 10, with different boundaries: what fairness costs")
    for colour, (name, curve) in zip(COLOURS, curves.items(), strict=False):
        majority = curve["majority"]
        for axis, measure in zip(axes, ("gap", "minority"), strict=True):
            values = curve[measure]
            axis.errorbar(
                majority.mean(1), values.mean(1), xerr=majority.std(1), yerr=values.std(1),
                color=colour, marker="o", markersize=4, linewidth=1.4, elinewidth=0.6, label=name,
            )  # fmt: skip
            axis.set_xlabel("accuracy of the majority")
    axes[0].set(ylabel="gap of the groups' mean losses, nats", title="gap of the losses")
    axes[1].set(ylabel="accuracy of the minority", title="accuracy")
    axes[0].legend(frameon=False)
    figure.savefig(path)


def main(config: Config) -> None:
    folder = RunFolder(config.out, "bias").create()
    keys = jax.random.split(jax.random.key(0), config.seeds)
    over_seeds = jax.vmap(lambda key, p, w: train_and_measure(key, p, w, config), (0, None, None))
    over_all = jax.jit(jax.vmap(over_seeds, (None, 0, 0)))
    settings = {
        "group_gap_penalty": (jnp.array(PENALTIES), jnp.ones(len(PENALTIES))),
        "weight of the minority": (jnp.zeros(len(WEIGHTS)), jnp.array(WEIGHTS)),
    }
    curves = {name: {k: np.asarray(v) for k, v in over_all(keys, *s).items()} for name, s in settings.items()}

    rows = [
        [f"{name} {value:g}", *(spread(curve[measure][i]) for measure in MEASURES)]
        for (name, curve), values in zip(curves.items(), (PENALTIES, WEIGHTS), strict=True)
        for i, value in enumerate(values)
    ]
    header = ["", "gap of losses, nats", "majority's accuracy", "minority's accuracy"]
    table = format_table(header, rows)
    plain, penalised = 0, PENALTIES.index(1.0)
    before, after = ({m: curves["group_gap_penalty"][m][i] for m in MEASURES} for i in (plain, penalised))
    finding = Finding.of(
        "L7, bias",
        f"gap of the losses {spread(before['gap'])} without and {spread(after['gap'])} with "
        f"the penalty at 1; the majority's accuracy {spread(before['majority'])} and "
        f"{spread(after['majority'])}, the minority's {spread(before['minority'])} and "
        f"{spread(after['minority'])}",
        [is_above(before["gap"], after["gap"]), is_above(after["minority"], before["minority"])],
    )
    plot(folder.file("bias.png"), curves)
    write_results(folder, config, table, [finding], curves)


if __name__ == "__main__":
    sys.exit(run_cli(main, Config))
