"""Train one Model 5 on one objective: the script for a real run.

    python experiments/train_model5.py
    python experiments/train_model5.py --corpus book.txt --objective final --steps 2000 --batch-size 16
    python experiments/train_model5.py --init gpt2/ --corpus book.txt --learning-rate 1e-4      # fine-tunes
    python experiments/train_model5.py --preset model5              # full size, FineWeb: for an accelerator
    python experiments/train_model5.py --resume runs/train_model5-<time>            # after whatever ended it

The run folder gets the weights as Hugging Face's GPT-2 (`weights/`), the tokenizer, every metric, a plot,
texts, and while it goes on checkpoints: docs/runs.md. A run that was killed at any instant and is resumed
ends with the same weights and the same `metrics.jsonl`, to the last bit, as one that was not.

The default (0.9 M parameters, 1,600 steps, the prose that comes with Python) takes about a minute on two CPU
cores. To expect: the test loss of all tokens falls from ln 4096 = 8.32 nats to about 5.4. Runs of one seed on
one machine are equal to the last bit.
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
import jax.numpy as jnp
import numpy as np

from jaxloss.data import TokenData, load_tokenizer, sample_batch
from jaxloss.model5 import Model5, Model5Config, generate, init_params
from jaxloss.runs import resume
from jaxloss.runs.cli import run_cli
from jaxloss.runs.folder import METRICS, RunFolder
from jaxloss.runs.loggers import check_loggers
from jaxloss.runs.mesh import MeshConfig
from jaxloss.runs.plots import plot_losses
from jaxloss.runs.recorder import Recorder
from jaxloss.runs.settings import (
    LABELS,
    OBJECTIVES,
    SIZES,
    CheckpointConfig,
    DataConfig,
    SampleConfig,
    TrainConfig,
    fit_vocabulary,
    held_out_crops,
)
from jaxloss.runs.start import start_run
from jaxloss.runs.stopping import EarlyStop
from jaxloss.runs.text import decode_known, join_texts, measure_text, wrap
from jaxloss.runs.trained import check_tokenizer, fine_tuned, load_trained, save_trained
from jaxloss.training import evaluate, init_state, make_eval_step, make_train_step, own_crops, whole


@dataclasses.dataclass(frozen=True)
class Config:
    """Train Model 5 on one objective."""

    model: Model5Config
    train: TrainConfig
    data: DataConfig
    sample: SampleConfig = dataclasses.field(default_factory=SampleConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    objective: Literal["all", "final"] = "all"
    """Whether every token of a crop is learnt, or the final one only."""
    preset: Literal["small", "model5"] = "small"
    """small suits two CPU cores; model5 is the full size, for an accelerator."""
    init: str | None = None
    """Go on from a trained model, with its sizes and tokenizer: the folder of a run, a .safetensors file or a
    GPT-2 directory."""
    log: tuple[str, ...] = ()
    """Where its curves can be watched, beside the files: tensorboard, wandb."""
    out: str | None = None
    """New folder for the results; runs/train_model5-<time> if not given."""
    resume: str | None = None
    """Folder of a run to go on with, from its newest checkpoint and with its settings."""


PRESETS = {name: Config(**size, preset=name) for name, size in SIZES.items()}


def main(config: Config) -> int:
    check_loggers(config.log)
    config.mesh.join_processes(config.out or config.resume)
    folder = RunFolder.of_process(config.out, "train_model5", resume=config.resume)
    found = resume.find_checkpoint(folder, config) if config.resume else None
    start, default = None, PRESETS[config.preset]
    if config.init and not found:
        start = fine_tuned(load_trained(config.init), config.model, default.model)
        check_tokenizer(start.tokenizer, config.data, default.data)
    if config.init is None:
        data = config.data.prepare(config.model.context_length, isolates=True)
        model = fit_vocabulary(config.model, data.tokenizer.vocab_size)
    else:
        model = start.config if start else config.model
        tokenizer = start.tokenizer if start else load_tokenizer(folder.shared)
        data = config.data.encode(tokenizer, model.context_length)
    config = dataclasses.replace(config, model=model, resume=None, out=None)
    identity = resume.run_identity(config, data)
    if found:
        resume.check_text(found, identity)
    mesh = config.mesh.make(config.model, config.train.batch_size)
    made = found.step if found else 0
    loggers = start_run(folder, config, data, mesh, log=config.log, step=made)
    print()

    settings, name, boundary = config.train, config.objective, config.data.boundary(data.tokenizer)
    init_key, dropout_key, text_key = jax.random.split(jax.random.key(settings.seed), 3)
    params = init_params(config.model, init_key) if start is None else start.params
    apply_fn = Model5(config.model, boundary, **settings.model_options).apply
    batch_size, optimizer = settings.batch_size, settings.optimizer()
    state = init_state(apply_fn, params, optimizer, batch_size=batch_size, mesh=mesh)
    if found:
        state = resume.restore_run(found, folder, state)
    loss_fn, positions = OBJECTIVES[name]
    options = {"logits_to_keep": positions, **settings.step_options}
    train_step = make_train_step(loss_fn, from_hidden=True, **options)
    eval_step = make_eval_step({key: loss for key, (loss, _) in OBJECTIVES.items()}, from_hidden=True)

    size = {"batch_size": settings.crops_per_step, "context_length": config.model.context_length}
    size |= {"seed": settings.seed, "end_of_text": boundary}
    held_out = held_out_crops(data, config.model.context_length, settings.eval_crops, boundary)

    def test():
        return evaluate(state, eval_step, *held_out, batch_size=batch_size)

    checkpoints = resume.open_checkpoints(folder, identity, config.checkpoint, found)
    recorder = Recorder(folder, {name: name}, config.model, settings, mesh=mesh, loggers=loggers)
    stop = EarlyStop(guess=math.log(config.model.vocab_size), learning_rates=settings.learning_rates())
    with stop, resume.saving(checkpoints, folder), recorder as record:
        if not found:
            record.test(name, 0, test())
            checkpoints.save(0, state)
        for step in range(made + 1, settings.steps + 1):
            if stop.agreed():
                break
            batch = sample_batch(data.train, **size, step=step - 1)
            began = time.perf_counter()
            state, *values = train_step(state, *own_crops(batch, mesh), dropout_key)
            loss, grad_norm = map(float, values)
            seconds = time.perf_counter() - began
            if stop.has_diverged(name, step, loss=loss, grad_norm=grad_norm):
                break
            record.update(name, step, loss=loss, grad_norm=grad_norm, seconds=seconds)
            if step % settings.eval_every == 0 or step == settings.steps:
                record.test(name, step, test())
            if stop.is_worth_keeping(loss):
                checkpoints.save_if_due(step, state)
        if not stop.diverged:
            checkpoints.save(int(state.step), state)
    if stop.diverged:
        state = resume.restore_newest(folder, state)

    params = whole(state.params)
    save_trained(folder.file("weights"), params, config.model)
    results = {"objective": name, "stopped_early": stop.reason, "step": int(state.step)}
    losses = test()
    folder.write_json("results.json", results | {"test_losses": {k: v._asdict() for k, v in losses.items()}})
    if jax.process_index() > 0:
        return stop.exit_code
    title = f"Model 5 trained on {LABELS[name]}: {Path(config.data.corpus).name}"
    records, labels = folder.read(METRICS), {name: LABELS[name]}
    plot_losses(folder.file("loss.png"), records, title=title, labels=labels, test_loss=name)
    if not stop.requested:
        write_texts(folder, config, data, params, text_key)
    how = f": go on with --resume {folder.path}" if stop.requested and not stop.diverged else ""
    print(f"\nwritten to {folder.path}/{how}")
    return stop.exit_code


def write_texts(folder: RunFolder, config: Config, data: TokenData, params: Any, key: jax.Array) -> None:
    """What the model writes, and its measures."""
    sampling = config.sample
    real, _ = held_out_crops(data, config.model.context_length, sampling.num_texts)
    begun = sampling.beginnings(data.tokenizer, real)
    options = {"num_tokens": sampling.num_tokens, "temperature": sampling.temperature, "key": key}
    ids = np.asarray(generate(params, config.model, jnp.asarray(begun), **options))
    decode = partial(decode_known, data.tokenizer)
    texts = [decode(row) for row in ids]
    folder.write_text("samples.txt", join_texts({"Model 5": texts}))
    folder.write_json("text.json", measure_text(decode, ids[:, begun.shape[1] :]))
    print(f"\n{wrap(texts[0])}")


if __name__ == "__main__":
    sys.exit(run_cli(main, Config, presets=PRESETS, resume=resume.read_config))
