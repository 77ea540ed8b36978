"""Does the final token teach anything that the others do not, at an equal number of supervised tokens?

    python experiments/supervised_tokens.py

Beyond the articles, on F11, F13 and F14. A small Model 5 learns real text from the last k positions of B
sequences, with B * k always 64: final-token training (k = 1) of 64 sequences, all-token training (k = 64) of
one, and two in between. Each makes as many updates from as many supervised tokens; what differs is how many
tokens have to be computed for them. Takes about three minutes on two CPU cores.

To expect, over three seeds: one curve. All end at 5.96 to 6.00 nats (k = 1: 6.00 ± 0.07, with a rise in one
seed), after 0.5 s of computing for 5,000 supervised tokens at k = 64 and five to nine times as long at k = 1.
The final token teaches nothing special: it is all-token training at 1/T of the batch for nearly the whole
price.
"""

if __name__ == "__main__":
    import interrupt  # noqa: F401

import dataclasses
import statistics
import sys
import time

import jax
import numpy as np

from jaxloss.data import TokenData, eval_crops, sample_batch
from jaxloss.fused import linear_next_token_loss
from jaxloss.model5 import Model5, Model5Config, init_params
from jaxloss.runs.cli import run_cli
from jaxloss.runs.experiment import ExperimentConfig
from jaxloss.runs.findings import Finding, is_above, spread, write_results
from jaxloss.runs.folder import RunFolder
from jaxloss.runs.plots import COLOURS, new_figure
from jaxloss.runs.settings import DataConfig
from jaxloss.runs.tables import format_table
from jaxloss.training import evaluate, init_state, make_eval_step, make_optimizer, make_train_step

CONTEXT, SUPERVISED = 64, 64
KEPT = (1, 4, 16, 64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Train on the last k positions of 64 / k sequences."""

    data: DataConfig = dataclasses.field(default_factory=lambda: DataConfig(vocab_size=1024))
    steps: int = 500
    """Updates by AdamW, each from 64 supervised tokens."""
    learning_rate: float = 1e-3
    """AdamW's step size."""
    eval_every: int = 50
    """Updates between two evaluations."""


def train(kept: int, config: Config, data: TokenData, model: Model5Config) -> tuple[np.ndarray, float]:
    """Test losses of all seeds, [seeds, evaluations], and the median seconds of an update."""
    batch_size, optimizer = SUPERVISED // kept, make_optimizer(config.learning_rate)
    train_step = make_train_step(linear_next_token_loss, from_hidden=True, logits_to_keep=kept)
    eval_step = make_eval_step({"all": linear_next_token_loss}, from_hidden=True)
    crops = eval_crops(data.test, num_crops=256, context_length=CONTEXT)
    curves, seconds = [], []
    for seed in range(config.seeds):
        init_key, dropout_key = jax.random.split(jax.random.key(seed))
        state = init_state(
            Model5(model).apply, init_params(model, init_key), optimizer, batch_size=batch_size
        )
        size, curve = {"batch_size": batch_size, "context_length": CONTEXT, "seed": seed}, []
        for step in range(config.steps + 1):
            if step % config.eval_every == 0 or step == config.steps:
                curve.append(evaluate(state, eval_step, *crops, batch_size=64)["all"].mean)
            start = time.perf_counter()
            state, loss, _ = train_step(state, *sample_batch(data.train, **size, step=step), dropout_key)
            loss.block_until_ready()
            seconds.append(time.perf_counter() - start)
        curves.append(curve)
        print(f"last {kept} of {batch_size}, seed {seed}: {curve[-1]:.2f} nats", flush=True)
    return np.array(curves), statistics.median(seconds)


def plot(path, curves: dict[int, np.ndarray], seconds: dict[int, float], config: Config) -> None:
    """Test loss over supervised tokens, and over seconds of computing."""
    figure, (token_axis, time_axis) = new_figure(
        2, title="The final token against all, at equal supervised tokens"
    )
    steps = [s for s in range(config.steps + 1) if s % config.eval_every == 0 or s == config.steps]
    for colour, kept in zip(COLOURS, KEPT, strict=False):
        mean, std = curves[kept].mean(0), curves[kept].std(0)
        label = f"last {kept} of {CONTEXT}, sequences: {SUPERVISED // kept}"
        for axis, unit in ((token_axis, SUPERVISED), (time_axis, seconds[kept])):
            places = unit * np.array(steps)
            shown = slice(0 if axis is token_axis else 1, None)  # a logarithmic axis has no 0
            band = {"color": colour, "alpha": 0.15, "linewidth": 0}
            axis.fill_between(places[shown], (mean - std)[shown], (mean + std)[shown], **band)
            axis.plot(places[shown], mean[shown], color=colour, linewidth=1.6, label=label)
    token_axis.set(xlabel="supervised tokens", ylabel="test loss on all tokens, nats")
    time_axis.set(xlabel="seconds of computing", ylabel="test loss on all tokens, nats", xscale="log")
    token_axis.legend(frameon=False)
    figure.savefig(path)


def main(config: Config) -> None:
    folder = RunFolder(config.out, "supervised_tokens")
    data = config.data.prepare(CONTEXT)
    sizes = {"context_length": CONTEXT, "embed_dim": 64, "num_heads": 2, "num_blocks": 2}
    model = Model5Config(vocab_size=data.tokenizer.vocab_size, **sizes)
    folder.create()
    curves, seconds = {}, {}
    for kept in KEPT:
        curves[kept], seconds[kept] = train(kept, config, data, model)
    ends = {kept: curve[:, -1] for kept, curve in curves.items()}
    rows = [
        [
            f"last {k} of {SUPERVISED // k} sequences",
            spread(ends[k]),
            f"{1e3 * seconds[k]:.1f}",
            SUPERVISED // k * CONTEXT,
        ]
        for k in KEPT
    ]
    table = format_table(["", "test loss, nats", "ms an update", "tokens computed"], rows)
    final, everything = ends[1], ends[64]
    finding = Finding.of(
        "beyond, tokens",
        f"after {config.steps} updates from {SUPERVISED} supervised tokens each, test loss "
        + ", ".join(f"{spread(ends[k])} (last {k}, {1e3 * seconds[k]:.0f} ms an update)" for k in KEPT),
        [not is_above(final, everything) and not is_above(everything, final), seconds[1] > 2 * seconds[64]],
    )
    plot(folder.file("supervised_tokens.png"), curves, seconds, config)
    numbers = {
        "curves": {str(k): curve for k, curve in curves.items()},
        "seconds": {str(k): s for k, s in seconds.items()},
    }
    write_results(folder, config, table, [finding], numbers)


if __name__ == "__main__":
    sys.exit(run_cli(main, Config))
