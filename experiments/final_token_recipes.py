"""What helps whoever must train on the final token, at equal compute?

    python experiments/final_token_recipes.py

Beyond the articles, on F11 and F14. A small Model 5 is to predict the last token of 64. Each recipe may spend
the same number of floating-point operations, counted by `operations`: other learning rates and schedules,
larger batches, an average of the weights, the last 4 and 16 tokens, all tokens, and all tokens first.
Measured is the test loss of the final token. Takes about four minutes on two CPU cores.

To expect, over three seeds: 5.99 nats at the articles' rate, and as much, within chance, at other rates, with
larger batches, averaged weights, or all tokens first; 5.84 ± 0.05 from the last 4 tokens, 5.71 ± 0.03 from
the last 16, and 5.80 ± 0.03 from all, whose updates are half as many.
"""

if __name__ == "__main__":
    import interrupt  # noqa: F401

import dataclasses
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from jaxloss.data import TokenData, sample_batch
from jaxloss.fused import linear_final_token_loss, linear_next_token_loss
from jaxloss.model5 import Model5, Model5Config, init_params
from jaxloss.runs.cli import run_cli
from jaxloss.runs.experiment import ExperimentConfig
from jaxloss.runs.findings import Finding, is_above, spread, write_results
from jaxloss.runs.folder import RunFolder
from jaxloss.runs.plots import COLOURS, new_figure
from jaxloss.runs.settings import DataConfig, TrainConfig, held_out_crops
from jaxloss.runs.tables import format_table
from jaxloss.training import evaluate, init_state, make_eval_step, make_train_step

CONTEXT = 64


class Recipe(NamedTuple):
    """Which last tokens of how many sequences each update learns from, and how."""

    phases: tuple[int, ...] = (1,)
    """The last k tokens; each phase has the same share of the operations."""
    batch_size: int = 16
    learning_rate: float = 3e-3
    schedule: str = "constant"
    average: float = 0.0
    """Decay of the average of the weights that is tested in place of them."""


ARTICLES = "final token, the articles' rate"
RECIPES = {
    ARTICLES: Recipe(learning_rate=1e-3),
    "rate times 3": Recipe(),
    "rate times 10": Recipe(learning_rate=1e-2),
    "rate times 3, cosine": Recipe(schedule="cosine"),
    "rate times 3, batch times 4": Recipe(batch_size=64),
    "rate times 3, weights averaged": Recipe(average=0.98),
    "rate times 3, last 4": Recipe((4,)),
    "rate times 3, last 16": Recipe((16,)),
    "rate times 3, all, then final": Recipe((CONTEXT, 1)),
    "rate times 3, all tokens": Recipe((CONTEXT,)),
    "all tokens, the articles' rate": Recipe((CONTEXT,), learning_rate=1e-3),
}

SHOWN = (ARTICLES, *(f"rate times 3, {name}" for name in ("last 16", "all, then final", "all tokens")))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Train for the final token by several recipes of the same number of operations."""

    data: DataConfig = dataclasses.field(default_factory=lambda: DataConfig(vocab_size=1024))
    steps: int = 500
    """Updates of final-token training with 16 sequences, whose operations every recipe may spend."""
    evaluations: int = 4
    """Times that the test loss is measured in a run."""


def operations(model: Model5Config, kept: int) -> int:
    """Floating-point operations of one sequence, forward and backward, if its last `kept` tokens are learnt.

    The last block makes keys and values of every position, and all else of the kept ones only.
    """
    width, length = model.embed_dim, model.context_length

    def block(queries: int) -> int:
        return 2 * width**2 * length + 10 * width**2 * queries + 2 * length * queries * width

    earlier = (model.num_blocks - 1) * block(length)
    return 6 * (earlier + block(kept) + kept * width * model.vocab_size)


def updates(recipe: Recipe, model: Model5Config, budget: int) -> Iterator[int]:
    """For each update that the budget allows, how many last tokens it learns from."""
    for kept in recipe.phases:
        cost = recipe.batch_size * operations(model, kept)
        yield from [kept] * max(1, budget // len(recipe.phases) // cost)


def train(
    recipe: Recipe, seed: int, config: Config, data: TokenData, model: Model5Config, steps: dict[Any, Any]
) -> tuple[list[float], list[float], float]:
    """Shares of the budget, the final token's test losses there, and seconds of computing."""
    plan = list(updates(recipe, model, config.steps * 16 * operations(model, 1)))
    settings = TrainConfig(steps=len(plan), learning_rate=recipe.learning_rate, schedule=recipe.schedule)
    init_key, dropout_key = jax.random.split(jax.random.key(seed))
    params = init_params(model, init_key)
    state = init_state(Model5(model).apply, params, settings.optimizer(), batch_size=recipe.batch_size)
    crops, average = held_out_crops(data, CONTEXT, 1024), params
    size = {"batch_size": recipe.batch_size, "context_length": CONTEXT, "seed": seed}
    cost = np.cumsum([operations(model, kept) for kept in plan])
    marks = {round(len(plan) * i / config.evaluations) for i in range(1, config.evaluations + 1)}
    shares, losses, seconds = [], [], 0.0
    for step, kept in enumerate(plan, 1):
        batch, start = sample_batch(data.train, **size, step=step - 1), time.perf_counter()
        state, loss, _ = steps[kept](state, *batch, dropout_key)
        if recipe.average:
            average = steps["average"](average, state.params, 1 - recipe.average)
        loss.block_until_ready()
        seconds += time.perf_counter() - start
        if step in marks:
            tested = state.replace(params=average) if recipe.average else state
            losses.append(evaluate(tested, steps["eval"], *crops, batch_size=64)["final"].mean)
            shares.append(float(cost[step - 1] / cost[-1]))
    return shares, losses, seconds


def plot(path, curves: dict[str, np.ndarray], shares: dict[str, list[float]]) -> None:
    """The losses over the operations, and at the end."""
    figure, (axis, end_axis) = new_figure(2, title="Training for the final token, at equal compute")
    names = list(curves)
    shown = dict(zip(SHOWN, COLOURS, strict=False))
    for i, (name, curve) in enumerate(curves.items()):
        colour = shown.get(name, "#777777")
        if name in shown:
            axis.plot(shares[name], curve.mean(0), color=colour, marker="o", markersize=3.5, label=name)
        style = {"color": colour, "fmt": "o", "capsize": 3}
        end_axis.errorbar(curve[:, -1].mean(), i, xerr=curve[:, -1].std(), **style)
    axis.set(xlabel="share of the operations", ylabel="test loss of the final token, nats")
    axis.legend(frameon=False, fontsize=8)
    end_axis.set(xlabel="test loss of the final token at the end, nats ± std")
    end_axis.set_yticks(range(len(names)), names, fontsize=8)
    end_axis.invert_yaxis()
    figure.savefig(path)


def main(config: Config) -> None:
    folder = RunFolder(config.out, "final_token_recipes")
    data = config.data.prepare(CONTEXT)
    sizes = {"context_length": CONTEXT, "embed_dim": 64, "num_heads": 2, "num_blocks": 2}
    model = Model5Config(vocab_size=data.tokenizer.vocab_size, **sizes)
    folder.create()
    steps: dict[Any, Any] = {
        kept: make_train_step(linear_next_token_loss, from_hidden=True, logits_to_keep=kept)
        for kept in {k for recipe in RECIPES.values() for k in recipe.phases}
    }
    steps["eval"] = make_eval_step({"final": linear_final_token_loss}, from_hidden=True)
    steps["average"] = jax.jit(lambda old, new, share: optax.incremental_update(new, old, share))
    shares, curves, seconds = {}, {}, {}
    for name, recipe in RECIPES.items():
        runs = [train(recipe, seed, config, data, model, steps) for seed in range(config.seeds)]
        shares[name], curves[name] = runs[0][0], np.array([losses for _, losses, _ in runs])
        seconds[name] = np.mean([spent for *_, spent in runs])
        print(f"{name}: {spread(curves[name][:, -1])} nats", flush=True)
    ends = {name: curve[:, -1] for name, curve in curves.items()}
    budget = config.steps * 16 * operations(model, 1)
    rows = [
        [name, len(list(updates(recipe, model, budget))), spread(ends[name]), f"{seconds[name]:.1f}"]
        for name, recipe in RECIPES.items()
    ]
    table = format_table(["", "updates", "test loss, nats", "seconds"], rows)
    better = {name: is_above(ends[ARTICLES], ends[name]) for name in RECIPES if name != ARTICLES}
    finding = Finding.of(
        "beyond, recipes",
        f"test loss of the final token at {budget:.1e} operations: "
        + ", ".join(f"{spread(end)} ({name})" for name, end in ends.items())
        + f". Better than the articles' recipe beyond chance: {'; '.join(n for n, b in better.items() if b)}",
        list(better.values()),
    )
    plot(folder.file("final_token_recipes.png"), curves, shares)
    write_results(folder, config, table, [finding], {"shares": shares, "curves": curves, "seconds": seconds})


if __name__ == "__main__":
    sys.exit(run_cli(main, Config))
