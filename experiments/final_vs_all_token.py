"""What does training on the final token only cost Model 5, compared with training on every token?

    python experiments/final_vs_all_token.py
    python experiments/final_vs_all_token.py --preset model5        # full size, FineWeb: for an accelerator

Both objectives start from the same weights and see the same batches with the same dropout keys, a step
each in turn. Each batch gives one training signal a sequence to the one, and one a token to the other: 64
times as many, 256 at the full size. The default (0.9 M parameters, 1,600 steps, three seeds, the prose that
comes with Python) takes about four minutes on two CPU cores; `--seeds 1` a third of it.

To expect, mean and standard deviation of the seeds: the test loss falls from ln 4096 = 8.32 nats to
5.44 ± 0.03 with all tokens and to 6.53 ± 0.01 with the final token; 2 nats are gained after 213 ± 8 and
722 ± 113 steps. The final-token train loss scatters by 0.84 nats around its mean, the other by 0.15. A
final-token step costs less than half. Runs on one machine are equal to the last bit.

The run folder gets each model as Hugging Face's GPT-2, `weights_all-<seed>/` and `weights_final-<seed>/`, for
generate.py, evaluate.py and `train_model5.py --init`. For checkpoints, `--resume` and `--mesh.*`, which a
comparison of two models side by side lacks, train each with train_model5.py.
"""

if __name__ == "__main__":
    import interrupt  # noqa: F401

import dataclasses
import math
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from jaxloss._checks import check_integer
from jaxloss.data import TokenData, sample_batch
from jaxloss.model5 import Model5, Model5Config, init_params, num_params
from jaxloss.runs.cli import run_cli
from jaxloss.runs.comparison import compare, comparison_table, summarise, write_texts
from jaxloss.runs.findings import write_results
from jaxloss.runs.folder import METRICS, TIMES, RunFolder
from jaxloss.runs.plots import plot_losses
from jaxloss.runs.recorder import Recorder
from jaxloss.runs.settings import (
    LABELS,
    OBJECTIVES,
    SIZES,
    DataConfig,
    SampleConfig,
    TrainConfig,
    fit_vocabulary,
    held_out_crops,
)
from jaxloss.runs.start import start_run
from jaxloss.runs.stopping import EarlyStop
from jaxloss.runs.text import join_texts, measure_text, wrap
from jaxloss.runs.trained import save_trained
from jaxloss.training import TrainState, evaluate, init_state, make_eval_step, make_mesh, make_train_step
from jaxloss.training.checkpoint import check_space

SHOWN = dict.fromkeys(OBJECTIVES, "all")  # the test loss that the terminal and the plot show


@dataclasses.dataclass(frozen=True)
class Config:
    """Train Model 5 on all tokens and on the final token only, and compare the two."""

    model: Model5Config
    train: TrainConfig
    data: DataConfig
    sample: SampleConfig = dataclasses.field(default_factory=SampleConfig)
    seeds: int = 3
    """Number of repetitions, each with its own initial weights and batches, from train.seed on."""
    preset: Literal["small", "model5"] = "small"
    """small suits two CPU cores; model5 is the articles' recipe at full size, for an accelerator."""
    out: str | None = None
    """New folder for the results; runs/final_vs_all_token-<time> if not given."""

    def __post_init__(self) -> None:
        check_integer("seeds", self.seeds, low=1)


SEEDS = {"small": 3, "model5": 1}
PRESETS = {name: Config(**size, preset=name, seeds=SEEDS[name]) for name, size in SIZES.items()}


def train(
    seed: int, config: Config, data: TokenData, steps: dict[str, Any], folder: RunFolder, stop: EarlyStop
) -> dict[str, TrainState]:
    """Both models, trained from one seed, however far they came."""
    settings, length = config.train, config.model.context_length
    init_key, dropout_key = jax.random.split(jax.random.key(seed))
    model, params = Model5(config.model, **settings.model_options), init_params(config.model, init_key)
    start = partial(init_state, model.apply, params, settings.optimizer(), batch_size=settings.batch_size)
    states = {name: start() for name in OBJECTIVES}
    size = {"batch_size": settings.crops_per_step, "context_length": length, "seed": seed}
    held_out = held_out_crops(data, length, settings.eval_crops)
    one_batch = sample_batch(data.test, **size, step=0)

    def test(name: str):
        crops = {"": held_out, " of one batch": one_batch}
        found = {of: evaluate(states[name], steps["eval"], *c, batch_size=8) for of, c in crops.items()}
        return {f"{loss}{of}": mean for of, means in found.items() for loss, mean in means.items()}

    to_come = settings.steps * (settings.seed + config.seeds - 1 - seed)
    with Recorder(folder, SHOWN, config.model, settings, seed=seed, steps_after=to_come) as record:
        for name in OBJECTIVES:
            record.test(name, 0, test(name))
        for step in range(1, settings.steps + 1):
            if stop.requested:
                break
            batch = sample_batch(data.train, **size, step=step - 1)
            for name in OBJECTIVES:
                began = time.perf_counter()
                states[name], *values = steps[name](states[name], *batch, dropout_key)
                loss, grad_norm = map(float, values)
                seconds = time.perf_counter() - began
                if stop.has_diverged(name, step, loss=loss, grad_norm=grad_norm):
                    break
                record.update(name, step, loss=loss, grad_norm=grad_norm, seconds=seconds)
                if step % settings.eval_every == 0 or step == settings.steps:
                    record.test(name, step, test(name))
    return states


def describe_models(
    seed: int,
    states: dict[str, TrainState],
    config: Config,
    data: TokenData,
    eval_step: Any,
    folder: RunFolder,
) -> tuple[dict[str, dict[str, Any]], dict[str, list[str]]]:
    """What the models of one seed are worth, and texts beside real ones, the best first."""
    records, times = ([r for r in folder.read(name) if r["seed"] == seed] for name in (METRICS, TIMES))
    cut = partial(held_out_crops, data, config.model.context_length)
    # A crop has one final token but many tokens, so that loss takes more crops to be as certain.
    many, (real, _) = cut(8 * config.train.eval_crops), cut(config.sample.num_texts)
    begun, summaries, written = config.sample.beginnings(data.tokenizer, real), {}, {}
    for name, other in (("all", "final"), ("final", "all")):
        arguments = states[name].params, config.model, config.sample, data.tokenizer, begun
        written[name] = write_texts(*arguments, jax.random.key(seed), partial(eval_step, states[other]))
        losses = evaluate(states[name], eval_step, *many, batch_size=config.train.batch_size)
        summaries[name] = summarise(records, times, name) | {"text": written[name].measures}
        summaries[name]["test_losses"] = {loss: mean._asdict() for loss, mean in losses.items()}
    texts = {LABELS[name]: w.texts for name, w in written.items()}
    texts["real text"] = [data.tokenizer.decode(real[i % len(real)]) for i in range(len(begun))]
    best_first = np.argsort(sum(w.losses for w in written.values()))
    return summaries, {f"{label}, seed {seed}": [of[i] for i in best_first] for label, of in texts.items()}


def main(config: Config) -> int:
    folder = RunFolder(config.out, "final_vs_all_token")
    data = config.data.prepare(config.model.context_length)
    config = dataclasses.replace(config, model=fit_vocabulary(config.model, data.tokenizer.vocab_size))
    start_run(folder, config, data, make_mesh(batch_size=config.train.batch_size))
    check_space(folder.path, 4 * num_params(config.model) * len(OBJECTIVES) * config.seeds)

    steps = {"eval": make_eval_step({name: loss for name, (loss, _) in OBJECTIVES.items()}, from_hidden=True)}
    for name, (loss, positions) in OBJECTIVES.items():
        options = {"logits_to_keep": positions, **config.train.step_options}
        steps[name] = make_train_step(loss, from_hidden=True, **options)
    found, texts = [], {}
    guess, learning_rates = math.log(config.model.vocab_size), config.train.learning_rates()
    with EarlyStop(guess=guess, learning_rates=learning_rates) as stop:
        for seed in range(config.train.seed, config.train.seed + config.seeds):
            if not stop.requested:
                print(f"\nseed {seed}", flush=True)
                states = train(seed, config, data, steps, folder, stop)
                for name in [name for name in OBJECTIVES if name != stop.diverged]:
                    save_trained(folder.file(f"weights_{name}-{seed}"), states[name].params, config.model)
                if stop.diverged:
                    break
                summaries, written = describe_models(seed, states, config, data, steps["eval"], folder)
                found.append(summaries)
                texts |= written

    title = f"All tokens against the final token: {Path(config.data.corpus).name}"
    plot_losses(folder.file("loss.png"), folder.read(METRICS), title=title, labels=LABELS, test_loss="all")
    if stop.diverged:
        folder.write_json("results.json", {"stopped_early": stop.reason, "seeds": found})
        print(f"\nthe losses, their plot and the other model are in {folder.path}/")
        return stop.exit_code
    folder.write_text("samples.txt", join_texts(texts))
    for label in written:
        print(f"\n{label}:\n{wrap(texts[label][0])}")
    print()
    # A seed that was stopped tells nothing beside whole ones.
    whole = found[:-1] if stop.requested and len(found) > 1 else found
    summaries = {name: [one[name] for one in whole] for name in OBJECTIVES}
    length = config.model.context_length
    crops, _ = held_out_crops(data, length, config.sample.num_texts)
    real = measure_text(data.tokenizer.decode, crops[:, length // 4 :])
    table, findings = comparison_table(summaries, LABELS, real), compare(summaries, config.train.steps)
    write_results(folder, config, table, findings, {"stopped_early": stop.reason, "seeds": found})
    return stop.exit_code


if __name__ == "__main__":
    sys.exit(run_cli(main, Config, presets=PRESETS))
