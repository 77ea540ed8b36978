"""What happens to training when the log-softmax before an NLL loss is left out?

    python experiments/missing_log_softmax.py

Claim F5. Model 5's forward pass returns logits; `nll_loss` wants log-probabilities. A small Model 5 trains on
real text by `nll_loss` of the log-softmax and by `nll_loss` of the bare logits, in JAX and in PyTorch, from
the same weights on the same batches, without dropout. Drawn are the loss that is minimised and what it should
bring down, the cross entropy of held-out text. Takes about a minute on two CPU cores.

To expect, over three seeds: with log-softmax the cross entropy of held-out text falls from 6.24 to 4.94 ±
0.15 nats. Without, the loss itself falls to -46 and would fall for ever, while the cross entropy follows to
5.3 at step 320, turns, and is 15.6 ± 0.1 at the end, far above a uniform guess. Both frameworks agree.
"""

if __name__ == "__main__":
    import interrupt  # noqa: F401

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxloss import next_token_loss, nll_loss
from jaxloss.data import TokenData, eval_crops, sample_batch
from jaxloss.model5 import Model5, Model5Config, init_params, to_arrays
from jaxloss.runs.cli import run_cli
from jaxloss.runs.experiment import ExperimentConfig
from jaxloss.runs.findings import Finding, is_above, spread, write_results
from jaxloss.runs.folder import RunFolder
from jaxloss.runs.plots import COLOURS, new_figure
from jaxloss.runs.settings import DataConfig
from jaxloss.runs.tables import format_table
from jaxloss.training import evaluate, init_state, make_eval_step, make_optimizer, make_train_step

try:
    import torch
    from torch.nn import functional as F

    import torch_ref.model5
    import torch_ref.training
except ImportError:
    sys.exit("error: this experiment needs PyTorch: pip install 'jaxloss[test]'")

BATCH_SIZE, CONTEXT = 8, 32
LOSSES = {  # the loss in JAX and in PyTorch, of logits [B, T, V] and targets [B, T]
    "with log-softmax": (
        lambda logits, targets: nll_loss(jax.nn.log_softmax(logits), targets),
        lambda logits, targets: F.nll_loss(F.log_softmax(logits, -1).flatten(0, 1), targets.flatten()),
    ),
    "without": (nll_loss, lambda logits, targets: F.nll_loss(logits.flatten(0, 1), targets.flatten())),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Train Model 5 by an NLL loss with and without log-softmax, in JAX and in PyTorch."""

    data: DataConfig = dataclasses.field(default_factory=lambda: DataConfig(vocab_size=512))
    steps: int = 1234
    """Updates by AdamW, at the articles' learning rate of 1e-3; their number is the articles' too."""
    eval_every: int = 40
    """Updates between two looks at held-out text."""


Problem = tuple[Any, list, tuple[np.ndarray, np.ndarray]]  # initial parameters, batches, held-out crops


class Run:
    """One training's curves."""

    def __init__(self) -> None:
        self.minimised: list[float] = []
        self.held_out: list[tuple[int, float]] = []


def train_jax(loss: Callable, problems: list[Problem], model: Model5Config, every: int) -> list[Run]:
    """A training of each problem in JAX."""
    train_step, eval_step = make_train_step(loss), make_eval_step({"true": next_token_loss})
    optimizer, apply_fn, key, runs = make_optimizer(), Model5(model).apply, jax.random.key(0), []
    for params, batches, crops in problems:
        state, run = init_state(apply_fn, params, optimizer, batch_size=BATCH_SIZE), Run()
        for step, (inputs_BT, targets_BT) in enumerate(batches):
            if step % every == 0:
                true = evaluate(state, eval_step, *crops, batch_size=BATCH_SIZE)["true"]
                run.held_out.append((step, true.mean))
            state, value, _ = train_step(state, inputs_BT, targets_BT, key)
            run.minimised.append(float(value))
        runs.append(run)
    return runs


def train_torch(loss: Callable, problems: list[Problem], model: Model5Config, every: int) -> list[Run]:
    """The same, in PyTorch."""
    train_step, runs = torch_ref.training.make_train_step(loss), []
    for params, batches, crops in problems:
        module = torch_ref.model5.from_arrays(to_arrays(params), model)
        optimizer = torch_ref.training.make_optimizer()
        state, run = torch_ref.training.init_state(module, optimizer, batch_size=BATCH_SIZE), Run()
        inputs_NT, targets_NT = (torch.tensor(ids).long() for ids in crops)
        for step, batch in enumerate(batches):
            if step % every == 0:
                with torch.no_grad():
                    logits = state.model.eval()(inputs_NT)
                true = F.cross_entropy(logits.flatten(0, 1), targets_NT.flatten())
                run.held_out.append((step, true.item()))
                state.model.train()
            state, value, _ = train_step(
                state, *(torch.tensor(ids).long() for ids in batch), torch.Generator()
            )
            run.minimised.append(value.item())
        runs.append(run)
    return runs


def train_all(config: Config, data: TokenData) -> dict[str, dict[str, list[Run]]]:
    """The runs of each loss in each framework, one for each seed."""
    sizes = {"context_length": CONTEXT, "embed_dim": 64, "num_heads": 2, "num_blocks": 1}
    model = Model5Config(vocab_size=data.tokenizer.vocab_size, dropout=0.0, **sizes)
    crops = eval_crops(data.test, num_crops=64, context_length=CONTEXT)
    problems, size = [], {"batch_size": BATCH_SIZE, "context_length": CONTEXT}
    for seed in range(config.seeds):
        batches = [sample_batch(data.train, **size, seed=seed, step=step) for step in range(config.steps + 1)]
        problems.append((init_params(model, jax.random.key(seed)), batches, crops))
    runs = {}
    for name, (in_jax, in_torch) in LOSSES.items():
        arguments = problems, model, config.eval_every
        runs[name] = {"JAX": train_jax(in_jax, *arguments), "PyTorch": train_torch(in_torch, *arguments)}
        print(f"{name}: trained", flush=True)
    return runs


def plot(path, runs: dict[str, dict[str, list[Run]]], num_classes: int) -> None:
    """What is minimised, and what it should bring down."""
    figure, (own_axis, true_axis) = new_figure(
        2, title="Model 5 with an NLL loss, with and without log-softmax"
    )
    for colour, (name, frameworks) in zip(COLOURS, runs.items(), strict=False):
        for (framework, seeds), style in zip(frameworks.items(), ("-", "--"), strict=True):
            for i, run in enumerate(seeds):
                line = {"color": colour, "linestyle": style, "linewidth": 1.5, "alpha": 0.8}
                label = f"{name}, {framework}" if i == 0 else None
                own_axis.plot(range(1, len(run.minimised) + 1), run.minimised, **line, label=label)
                true_axis.plot(*zip(*run.held_out, strict=True), **line)
    true_axis.axhline(np.log(num_classes), color="#555555", linewidth=1, linestyle=":", label="uniform guess")
    own_axis.set(xlabel="step", ylabel="value of the loss", title="the loss that is minimised")
    true_axis.set(
        xlabel="step", ylabel="nats per token", title="cross entropy of held-out text", yscale="log"
    )
    own_axis.legend(frameon=False)
    true_axis.legend(frameon=False)
    figure.savefig(path)


def main(config: Config) -> None:
    folder = RunFolder(config.out, "missing_log_softmax")
    data = config.data.prepare(CONTEXT)
    folder.create()
    runs = train_all(config, data)
    ends = {
        name: {f: np.array([run.held_out[-1][1] for run in seeds]) for f, seeds in frameworks.items()}
        for name, frameworks in runs.items()
    }
    minimised = {name: np.array([run.minimised[-1] for run in runs[name]["JAX"]]) for name in LOSSES}
    start = np.array([run.held_out[0][1] for run in runs["without"]["JAX"]])
    rows = [["held-out cross entropy at the start", spread(start, 2), ""]]
    for name, of_frameworks in ends.items():
        rows.append([name, *(spread(values, 2) for values in of_frameworks.values())])
    table = format_table(["", "JAX", "PyTorch"], rows)
    right, wrong = (ends[name]["JAX"] for name in LOSSES)
    finding = Finding.of(
        "F5",
        f"held-out cross entropy from {spread(start, 2)} to {spread(right, 2)} nats with "
        f"log-softmax and to {spread(wrong, 1)} without, while the loss itself falls to "
        f"{spread(minimised['without'], 1)}; PyTorch {spread(ends['without']['PyTorch'], 1)}",
        [is_above(start, right), is_above(wrong, start), is_above(ends["without"]["PyTorch"], start)],
    )
    numbers = {n: {f: [vars(run) for run in seeds] for f, seeds in fs.items()} for n, fs in runs.items()}
    plot(folder.file("missing_log_softmax.png"), runs, data.tokenizer.vocab_size)
    write_results(folder, config, table, [finding], numbers)


if __name__ == "__main__":
    sys.exit(run_cli(main, Config))
