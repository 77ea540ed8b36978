"""Loss and perplexity of a trained Model 5 or a GPT-2 on any text, under both objectives.

    python experiments/evaluate.py runs/train_model5-20260101-120000
    python experiments/evaluate.py gpt2/ --corpus book.txt --part all --crops 1000
    python experiments/evaluate.py weights.safetensors --corpus fineweb --out results.json

The loss of all tokens is the mean over the tokens of the crops; that of the final token looks at the last of
each crop, which has the most text before it. Both are in nats, with the standard error over the crops.
"""

if __name__ == "__main__":
    import interrupt  # noqa: F401

import dataclasses
import math
import sys
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import optax
import tyro

from jaxloss._checks import check_integer
from jaxloss.data import describe, eval_crops
from jaxloss.data.progress import progress_bar
from jaxloss.model5 import Model5, num_params
from jaxloss.runs.cli import run_cli
from jaxloss.runs.folder import to_json
from jaxloss.runs.settings import LABELS, OBJECTIVES, TextConfig
from jaxloss.runs.tables import format_table
from jaxloss.runs.text import wrap
from jaxloss.runs.trained import load_trained
from jaxloss.training import Estimate, init_state, make_eval_step

FIGURES = {"loss": "loss, nats", "perplexity": "perplexity"}


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure a trained model on a text."""

    model: Annotated[str, tyro.conf.Positional]
    """Folder of a run, a .safetensors file, or a GPT-2 directory."""
    data: TextConfig
    part: Literal["test", "train", "all"] = "test"
    """test is the last tenth of the text, which a training on it does not see; all is the whole of it."""
    crops: int = 512
    """Crops, evenly spaced over the part; fewer where it holds fewer."""
    context_length: int | None = None
    """Tokens of a crop; the model's context if not given."""
    batch_size: int = 8
    """Crops in one forward pass."""
    tokenizer: str | None = None
    """A tokenizer.json, gpt2 or bytes; the model's own if not given."""
    out: str | None = None
    """New JSON file for the results."""

    def __post_init__(self) -> None:
        for name in ("crops", "batch_size"):
            check_integer(f"--{name.replace('_', '-')}", getattr(self, name), low=1)
        if self.context_length is not None:
            check_integer("--context-length", self.context_length, low=1)


def crops_of(
    parts: list[np.ndarray], num_crops: int, length: int, boundary: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Evenly spaced crops and their targets, of each part as many as its share of the tokens."""
    total, chosen = sum(map(len, parts)), []
    for tokens in parts:
        share = max(1, round(num_crops * len(tokens) / total))
        share = min(share, len(tokens) - length)
        chosen.append(eval_crops(tokens, num_crops=share, context_length=length, end_of_text=boundary))
    inputs, targets = zip(*chosen, strict=True)
    return np.concatenate(inputs), np.concatenate(targets)


def figures(loss: Estimate) -> dict[str, dict[str, float]]:
    """The loss, and exp of it with the error that follows from the loss's."""
    perplexity = math.exp(min(loss.mean, 700.0))
    of_perplexity = Estimate(perplexity, perplexity * loss.standard_error)
    return {"loss": loss._asdict(), "perplexity": of_perplexity._asdict()}


def shown(mean: float, standard_error: float) -> str:
    digits = 3 if mean < 100 else 1
    return f"{mean:,.{digits}f} ± {standard_error:,.{digits}f}"


def main(config: Config) -> int:
    if config.out is not None and Path(config.out).exists():
        raise ValueError(f"--out: {config.out} is there already: name a new file")
    params, model, tokenizer, path = load_trained(config.model, tokenizer=config.tokenizer)
    length = config.context_length or model.context_length
    check_integer("--context-length", length, low=1, high=model.context_length)
    data = config.data.encode(tokenizer, length)
    parts = {"test": [data.test], "train": [data.train], "all": [data.train, data.test]}[config.part]
    print(wrap(f"{describe(data)}\n{path}: {num_params(model):,} parameters\n", indent=""))

    boundary = config.data.boundary(tokenizer)
    inputs_NT, targets_NT = crops_of(parts, config.crops, length, boundary)
    state = init_state(Model5(model, boundary).apply, params, optax.identity(), batch_size=config.batch_size)
    eval_step = make_eval_step({name: loss for name, (loss, _) in OBJECTIVES.items()}, from_hidden=True)
    measured = {name: [] for name in OBJECTIVES}
    num_crops = len(inputs_NT)
    with progress_bar("evaluating", total=num_crops, unit="crop") as bar:
        for first in range(0, num_crops, config.batch_size):
            # The last batch is filled up, so that one shape is compiled.
            rows = np.arange(first, first + config.batch_size) % num_crops
            kept = min(config.batch_size, num_crops - first)
            for name, losses in eval_step(state, inputs_NT[rows], targets_NT[rows]).items():
                measured[name].extend(np.asarray(losses)[:kept].tolist())
            bar.update(kept)

    results = {"model": str(path), "corpus": data.corpus, "part": config.part, "crops": num_crops}
    results |= {"context_length": length} | {name: figures(Estimate.of(v)) for name, v in measured.items()}
    rows = [[LABELS[name], *(shown(**results[name][what]) for what in FIGURES)] for name in OBJECTIVES]
    print(format_table([f"{num_crops:,} crops of {length} tokens", *FIGURES.values()], rows))
    if config.out is not None:
        Path(config.out).write_text(to_json(results), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main, Config))
