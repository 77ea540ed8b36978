"""Does a whole training run in JAX follow the same run in PyTorch, dropout included?

    python experiments/jax_vs_torch.py

A small Model 5 trains on real text, on all tokens and on the final token only, in both frameworks: the same
weights to begin with, the same batches, and the dropout masks that JAX draws injected into the PyTorch model
by name. The JAX run is repeated from weights moved by one float32 eps, which shows how far apart two correct
runs may drift. Takes about four minutes on two CPU cores.

To expect, over two seeds: on all tokens the losses stay within 8e-7 to 1e-4 of each other in float32, 1e-15
to 7e-14 in float64. On the final token they do for 150 steps; then one eps grows to an eighth of the loss.
"""

if __name__ == "__main__":
    import interrupt  # noqa: F401

import dataclasses
import sys
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from jaxloss.data import describe, sample_batch
from jaxloss.fused import linear_final_token_loss, linear_next_token_loss
from jaxloss.model5 import Model5, Model5Config, init_params, to_arrays
from jaxloss.runs.cli import run_cli
from jaxloss.runs.folder import RunFolder
from jaxloss.runs.plots import COLOURS, new_figure
from jaxloss.runs.settings import DataConfig, PlainTrainConfig, fit_vocabulary
from jaxloss.runs.tables import format_table
from jaxloss.testing import EPS, inject_masks
from jaxloss.training import init_state, make_optimizer, make_train_step

try:
    import torch

    import torch_ref.losses
    import torch_ref.model5
    import torch_ref.training
except ImportError:
    sys.exit("error: this experiment needs PyTorch: pip install 'jaxloss[test]'")

OBJECTIVES = {  # JAX's loss, torch's, positions they look at
    "all tokens": (linear_next_token_loss, torch_ref.losses.next_token_loss, None),
    "final token": (linear_final_token_loss, torch_ref.losses.final_token_loss, 1),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Train Model 5 with the same batches and dropout masks in JAX and in PyTorch, and compare the curves."""

    model: Model5Config
    train: PlainTrainConfig
    data: DataConfig
    preset: Literal["small"] = "small"
    """small suits two CPU cores."""
    out: str | None = None
    """New folder for plot, table and losses; runs/jax_vs_torch-<time> if not given."""


DEFAULT = Config(
    model=Model5Config(context_length=32, embed_dim=128, num_heads=4, num_blocks=2),
    train=PlainTrainConfig(steps=300, batch_size=8),
    data=DataConfig(vocab_size=2048),
)


def train_jax(config: Config, starts: list, batches: list, key: jax.Array, name: str) -> list[np.ndarray]:
    """Losses of runs in JAX, one from each set of initial parameters."""
    loss, _, positions = OBJECTIVES[name]
    optimizer = make_optimizer(config.train.learning_rate, config.train.weight_decay)
    apply_fn = Model5(config.model).apply
    train_step = make_train_step(loss, from_hidden=True, logits_to_keep=positions)
    runs = []
    for params in starts:
        state = init_state(apply_fn, params, optimizer, batch_size=config.train.batch_size)
        losses = []
        for inputs_BT, targets_BT in batches:
            state, value, _ = train_step(state, inputs_BT, targets_BT, key)
            losses.append(float(value))
        runs.append(np.array(losses))
    return runs


def train_torch(config: Config, params: Any, batches: list, draw: Any, name: str) -> np.ndarray:
    """Losses of the same run in PyTorch, with the masks that `draw(step)` gives."""
    _, loss, positions = OBJECTIVES[name]
    model = torch_ref.model5.from_arrays(to_arrays(params), config.model).train()
    optimizer = torch_ref.training.make_optimizer(config.train.learning_rate, config.train.weight_decay)
    state = torch_ref.training.init_state(model, optimizer, batch_size=config.train.batch_size)
    train_step = torch_ref.training.make_train_step(loss, logits_to_keep=positions)
    generator, losses = torch.Generator(), []
    for step, batch in enumerate(batches):
        with inject_masks(state.model, draw(step)):
            state, value, _ = train_step(state, *(torch.tensor(ids).long() for ids in batch), generator)
        losses.append(value.item())
    return np.array(losses)


def make_draw_masks(config: Config, params: Any, inputs_BT: np.ndarray, key: jax.Array) -> Any:
    """The function from a step to its dropout masks, as `make_train_step` draws them."""

    @jax.jit
    def draw(step):
        options = {"rngs": {"dropout": jax.random.fold_in(key, step)}, "mutable": ["dropout_masks"]}
        return Model5(config.model).apply({"params": params}, inputs_BT, deterministic=False, **options)[1]

    def of_step(step):
        # The masks are the same with float64 on, and this compiles once.
        with jax.enable_x64(False):
            return draw(step)["dropout_masks"]

    return of_step


def move_by_one_eps(params: Any) -> Any:
    """Each weight one float32 eps up or down."""
    rng, eps = np.random.default_rng(0), np.float32(EPS["float32"])
    return jax.tree.map(lambda x: x * (1 + eps * rng.choice([-1, 1], x.shape).astype(np.float32)), params)


def train_all(config: Config, params: Any, batches: list, key: jax.Array, name: str) -> dict[str, np.ndarray]:
    """Loss curves of one objective: both frameworks in both dtypes, and JAX from moved weights."""
    draw = make_draw_masks(config, params, batches[0][0], key)
    in_jax = train_jax(config, [params, move_by_one_eps(params)], batches, key, name)
    curves = dict(zip(("JAX", "moved"), in_jax, strict=True))
    curves["PyTorch"] = train_torch(config, params, batches, draw, name)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: leaf.astype("float64"), params)
        (curves["JAX float64"],) = train_jax(config, [wide], batches, key, name)
        curves["PyTorch float64"] = train_torch(config, wide, batches, draw, name)
    print(f"{name}: trained", flush=True)
    return curves


def gaps(curves: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Relative differences between loss curves, by the name that plot and table have for them."""
    pairs = {
        "PyTorch, float32": ("PyTorch", "JAX"),
        "JAX, weights moved by one eps": ("moved", "JAX"),
        "PyTorch, float64": ("PyTorch float64", "JAX float64"),
    }
    return {name: np.abs(curves[a] - curves[b]) / curves[b] for name, (a, b) in pairs.items()}


def plot(path: Path, curves: dict[str, dict[str, np.ndarray]], corpus: str) -> None:
    """Both frameworks' curves above, and the differences on an axis of their own below."""
    title = f"The same training run in JAX and in PyTorch, dropout on: {corpus}"
    figure, axes = new_figure(len(curves), title=title)
    for axis, (name, runs) in zip(axes, curves.items(), strict=True):
        steps = np.arange(1, len(runs["JAX"]) + 1)
        axis.plot(steps, runs["JAX"], color=COLOURS[0], linewidth=2.2, alpha=0.7, label="JAX, float32")
        dashed = {"color": COLOURS[1], "linewidth": 1, "linestyle": "--"}
        axis.plot(steps, runs["PyTorch"], **dashed, label="PyTorch, float32")
        low, high = runs["JAX"].min(), runs["JAX"].max()
        axis.set(title=name, xlabel="step", ylim=(low - 1.3 * (high - low), high + 0.1 * (high - low)))
        axis.set_yticks([tick for tick in axis.get_yticks() if low - 0.2 < tick < high + 0.2])
        axis.set_ylabel("train loss (nats)", loc="top")
        other = axis.twinx()
        for (label, gap), colour in zip(gaps(runs).items(), (COLOURS[2], "#999999", COLOURS[3]), strict=True):
            # The largest of ten steps: single steps agree to the last bit now and then.
            largest = [gap[max(0, i - 9) : i + 1].max() or np.nan for i in range(len(gap))]
            other.semilogy(steps, largest, color=colour, linewidth=1.2, label=f"JAX against {label}")
        other.set(ylim=(1e-17, 1e17), yticks=[1e-16, 1e-12, 1e-8, 1e-4, 1])
        other.minorticks_off()
        other.set_ylabel("relative difference", loc="bottom")
    handles = [h for a in (axis, other) for h in a.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, fontsize=8, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path)


def main(config: Config) -> int:
    folder = RunFolder(config.out, "jax_vs_torch")
    data = config.data.prepare(config.model.context_length)
    config = dataclasses.replace(config, model=fit_vocabulary(config.model, data.tokenizer.vocab_size))
    folder.create()
    folder.write_json("config.json", dataclasses.asdict(config))
    print(describe(data))
    steps, seed, batch_size = config.train.steps, config.train.seed, config.train.batch_size
    size = {"batch_size": batch_size, "context_length": config.model.context_length}
    batches = [sample_batch(data.train, **size, seed=seed, step=step) for step in range(steps)]
    init_key, key = jax.random.split(jax.random.key(seed))
    params = init_params(config.model, init_key)
    curves = {name: train_all(config, params, batches, key, name) for name in OBJECTIVES}
    found = [gaps(runs) for runs in curves.values()]
    rows = [[label, *(f"{gap[label].max():.1e}" for gap in found)] for label in found[0]]
    table = format_table(["JAX against", *curves], rows)
    print(f"\nlargest relative difference of the loss over {steps} steps\n\n{table}\n")
    print(f"written to {folder.path}/")
    folder.write_text("table.md", table)
    folder.write_json("losses.json", {n: {k: v.tolist() for k, v in r.items()} for n, r in curves.items()})
    plot(folder.file("jax_vs_torch.png"), curves, config.data.corpus)
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main, Config, presets={"small": DEFAULT}))
