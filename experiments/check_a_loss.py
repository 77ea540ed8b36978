"""Ten careless losses: what the doctor says before any training, and what training then does.

    python experiments/check_a_loss.py

Claim L8: a careless custom loss explodes, vanishes or does not converge, and can be checked before it is
trained with. Each is examined as a function; then a small network is trained with it and with the right loss,
from the same weights and examples, by SGD: five on four classes, five on amounts of which half are 0. Two
start from weights 30 times too large, one has NaN among its targets. Measured on new examples: the share
answered right, or the share of the variance explained. Takes two to three minutes on two CPU cores.

To expect, over five seeds: the doctor names all ten faults and warns of neither right loss. Eight come to
nothing; 1 - p stays where its weights put it, 0.28 ± 0.07 right to 0.56 ± 0.02; softmax twice is slower.
"""

if __name__ == "__main__":
    import interrupt  # noqa: F401

import dataclasses
import functools
import re
import sys
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from jaxloss import cross_entropy, mse_loss, nll_loss
from jaxloss.doctor import Finding, examine
from jaxloss.runs.cli import run_cli
from jaxloss.runs.experiment import ExperimentConfig
from jaxloss.runs.findings import Finding as Claim
from jaxloss.runs.findings import is_above, spread, write_results
from jaxloss.runs.folder import RunFolder
from jaxloss.runs.plots import COLOURS, new_figure
from jaxloss.runs.tables import format_table

NUM_CLASSES, NUM_FEATURES = 4, 8
CHECKS = ("finite", "gradient", "gradient_size", "kinks", "curvature", "invariances", "reductions", "meaning")
RIGHT = {"classes": cross_entropy, "real": mse_loss}


def masked_by_product(y_hat, y, where=True):
    return jnp.sum((y_hat - y) ** 2 * where) / jnp.sum(jnp.broadcast_to(where, y.shape))


class Case(NamedTuple):
    """A careless loss, and where its trouble shows."""

    loss: Callable[..., jax.Array]
    kind: str = "classes"
    weights: float = 1.0
    has_gaps: bool = False


CASES = {
    "softmax, then log": Case(lambda y_hat, y: nll_loss(jnp.log(nn.softmax(y_hat)), y), weights=30.0),
    "1 - p": Case(lambda y_hat, y: 1 + nll_loss(nn.softmax(y_hat), y), weights=30.0),
    "a sign": Case(lambda y_hat, y: jnp.mean(nn.log_softmax(y_hat)[jnp.arange(len(y)), y])),
    "softmax twice": Case(lambda y_hat, y: cross_entropy(nn.softmax(y_hat), y)),
    "labels shifted by one": Case(lambda y_hat, y: cross_entropy(y_hat, (y + 1) % NUM_CLASSES)),
    "mask by product": Case(masked_by_product, "real", has_gaps=True),
    "a sum": Case(lambda y_hat, y: jnp.sum((y_hat - y) ** 2), "real"),
    "root of the square": Case(lambda y_hat, y: jnp.mean(jnp.sqrt((y_hat - y) ** 2)), "real"),
    "[N, 1] against [N]": Case(lambda y_hat, y: jnp.mean((y_hat[:, None] - y) ** 2), "real"),
    "exp of the square": Case(lambda y_hat, y: jnp.mean(jnp.exp((y_hat - y) ** 2)), "real"),
}

# Check, severity and message (a regular expression) of the finding that names the fault.
NAMED_BY = {
    "softmax, then log": ("finite", "error", "not finite"),
    "1 - p": ("gradient_size", "warning", "less than .* of the usual gradient"),
    "a sign": ("meaning", "error", "falls without bound"),
    "softmax twice": ("meaning", "warning", "a softmax before the loss"),
    "labels shifted by one": ("meaning", "error", "the likeliest class is not"),
    "mask by product": ("reductions", "error", "NaN in a masked row"),
    "a sum": ("reductions", "warning", "a sum over the examples"),
    "root of the square": ("finite", "error", "gradient is NaN even in float64"),
    "[N, 1] against [N]": ("reductions", "error", "whichever prediction a target belongs to"),
    "exp of the square": ("gradient_size", "warning", "explodes"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Examine ten careless losses, then train with each beside the right one."""

    seeds: int = 5
    examples: int = 256
    steps: int = 300
    """Updates by SGD, each on all examples."""
    learning_rate: float = 0.1
    """SGD's step size."""


class Network(nn.Module):
    """One hidden layer; a network for amounts begins with the prediction 0."""

    kind: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = jnp.tanh(nn.Dense(32)(x))
        if self.kind == "classes":
            return nn.Dense(NUM_CLASSES)(hidden)
        return nn.Dense(1, kernel_init=nn.initializers.zeros)(hidden)[:, 0]


def draw_examples(key: jax.Array, kind: str, teacher: jax.Array, num: int) -> tuple[jax.Array, jax.Array]:
    """Features, and the class with the largest of a teacher's outputs, or its output where positive."""
    x = jax.random.normal(key, (num, NUM_FEATURES))
    outputs = x @ teacher
    return x, jnp.argmax(outputs, -1) if kind == "classes" else jnp.maximum(outputs[:, 0], 0.0)


def train_and_measure(key: jax.Array, *, loss: Callable, case: Case, config: Config) -> jax.Array:
    """The share of new examples answered right, or of their variance explained; 0 where it is NaN or less."""
    data_key, test_key, teacher_key, init_key = jax.random.split(key, 4)
    teacher = jax.random.normal(teacher_key, (NUM_FEATURES, NUM_CLASSES))
    x, y = draw_examples(data_key, case.kind, teacher, config.examples)
    new_x, new_y = draw_examples(test_key, case.kind, teacher, 2000)
    is_kept = jnp.arange(config.examples) % 8 > 0
    options = {"where": is_kept} if case.has_gaps else {}
    y = jnp.where(is_kept, y, jnp.nan) if case.has_gaps else y
    model, optimizer = Network(case.kind), optax.sgd(config.learning_rate)
    params = jax.tree.map(lambda p: case.weights * p, model.init(init_key, x))

    def update(carry, _):
        params, opt_state = carry
        gradient = jax.grad(lambda params: loss(model.apply(params, x), y, **options))(params)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    (params, _), _ = jax.lax.scan(update, (params, optimizer.init(params)), length=config.steps)
    y_hat = model.apply(params, new_x)
    if case.kind == "classes":
        return jnp.mean((jnp.argmax(y_hat, -1) == new_y) & jnp.isfinite(y_hat).all(-1))
    explained = 1 - jnp.mean((y_hat - new_y) ** 2) / jnp.var(new_y)
    return jnp.where(explained > 0, explained, 0.0)


def warnings_of(loss: Callable, kind: str) -> list[Finding]:
    """What the doctor warns of, errors first."""
    report = examine(loss, kind, checks=CHECKS, dtypes=["float32"], budget_seconds=300.0)
    return [f for f in report.findings if f.severity != "note"]


def named(name: str, findings: list[Finding]) -> str:
    """The finding that names the loss's fault, "nothing" if it is not among these."""
    check, severity, says = NAMED_BY[name]
    found = [f for f in findings if (f.check, f.severity) == (check, severity) and re.search(says, f.message)]
    return f"{found[0].check}: {found[0].message}" if found else "nothing"


def plot(path, right: dict[str, np.ndarray], careless: dict[str, np.ndarray], said: dict[str, str]) -> None:
    """What each loss reaches beside the right one, with the check that named its fault."""
    figure, (axis,) = new_figure(1, title="Trained with what the doctor warned of")
    figure.set_size_inches(8.4, 5.4)
    places = np.arange(len(CASES))[::-1]
    for i, (label, scores) in enumerate({"right": right, "careless": careless}.items()):
        points = np.stack([scores[name] for name in CASES])
        heights = np.broadcast_to(places[:, None] + 0.1 - 0.2 * i, points.shape)
        axis.scatter(points, heights, color=COLOURS[i], s=22, alpha=0.7, label=f"{label} loss")
    axis.set_yticks(places, [f"{name}\n({said[name].partition(':')[0]})" for name in CASES], fontsize=8)
    axis.set(xlim=(-0.03, 1.03), xlabel="answered right, or variance explained, on new examples, by seed")
    axis.legend(frameon=False, loc="upper center", ncols=2, bbox_to_anchor=(0.5, 1.09))
    figure.savefig(path)


def main(config: Config) -> None:
    folder = RunFolder(config.out, "check_a_loss").create()
    keys = jax.random.split(jax.random.key(0), config.seeds)
    right, careless, said, rows = {}, {}, {}, []
    for name, case in tqdm(CASES.items(), ncols=79):
        said[name] = named(name, warnings_of(case.loss, case.kind))
        for scores, loss in ((right, RIGHT[case.kind]), (careless, case.loss)):
            run = jax.vmap(functools.partial(train_and_measure, loss=loss, case=case, config=config))
            scores[name] = np.asarray(jax.jit(run)(keys))
        rows.append([name, said[name], spread(right[name]), spread(careless[name])])
    of_right = sum(len(warnings_of(loss, kind)) for kind, loss in RIGHT.items())
    is_named = [said[name] != "nothing" for name in CASES]
    is_worse = [is_above(right[name], careless[name]) for name in CASES]
    finding = Claim.of(
        "L8",
        f"of {len(CASES)} careless losses {sum(is_named)} have their fault named before training (right ones "
        f"are warned of {of_right} times) and {sum(is_worse)} end worse than the right one, on new examples: "
        + ", ".join(f"{row[0]} {row[3]} (right: {row[2]})" for row in rows),
        [of_right == 0, *is_named, *is_worse],
    )
    plot(folder.file("check_a_loss.png"), right, careless, said)
    table = format_table(["", "the doctor, before training", "the right loss", "this loss"], rows)
    write_results(folder, config, table, [finding], {"right": right, "careless": careless, "said": said})


if __name__ == "__main__":
    sys.exit(run_cli(main, Config))
