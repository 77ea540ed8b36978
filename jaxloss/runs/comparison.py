"""Final-token against all-token training in numbers: speed, stability, text and the cost of a step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxloss.data import Tokenizer
from jaxloss.model5 import Model5Config, generate
from jaxloss.runs.settings import SampleConfig
from jaxloss.runs.tables import format_table
from jaxloss.runs.text import measure_text
from jaxloss.training import Estimate

WINDOW = 40
"""Steps of the moving average that fluctuations are measured around."""


def summarise(records: Sequence[Mapping[str, Any]], objective: str) -> dict[str, Any]:
    """What the metrics of one training say about it.

    Args:
        records: lines of `metrics.jsonl`.
        objective: which training; also the name of its own test loss.

    Returns:
        Losses in nats per predicted token, times in milliseconds; None where a curve never got that far.
    """
    own = [record for record in records if record["objective"] == objective]
    updates = [record for record in own if record["kind"] == "train"]
    tests = [record for record in own if record["kind"] == "test"]
    losses = [record["loss"] for record in updates]
    steps = [record["step"] for record in tests]
    curve = [record["losses"][objective]["mean"] for record in tests]
    # The first step compiles.
    seconds = [record["seconds"] for record in updates][1:]
    return {
        "steps": len(updates),
        "initial_test_loss": curve[0],
        "test_losses": tests[-1]["losses"],
        "train_loss": float(np.mean(losses[-80:])) if losses else None,
        "loss_drop_per_100_steps": 100 * (curve[0] - curve[-1]) / steps[-1] if steps[-1] else None,
        "steps_to_drop_1_nat": first_step_below(steps, curve, curve[0] - 1),
        "steps_to_drop_2_nats": first_step_below(steps, curve, curve[0] - 2),
        "fluctuation": fluctuation(losses, WINDOW) if len(losses) >= WINDOW else None,
        "largest_rise_of_test_loss": float(np.max(np.diff(curve), initial=0.0)),
        "step_milliseconds": 1000 * float(np.median(seconds)) if seconds else None,
    }


def fluctuation(values: Sequence[float], window: int) -> float:
    """Standard deviation of a curve around its own moving average, where the whole window fits.

    The average follows each of its values by a share of 1/window, which the result is corrected for. NaN for
    fewer values than a window.

    >>> noise = np.random.default_rng(0).normal(scale=0.5, size=4000)
    >>> round(fluctuation(noise + np.linspace(8, 4, 4000), window=40), 1)
    0.5
    """
    if window < 2 or len(values) < window:
        return float("nan")
    average = np.convolve(values, np.full(window, 1 / window), "valid")
    first = (window - 1) // 2
    residual = np.asarray(values)[first : first + len(average)] - average
    return float(np.sqrt(np.mean(residual**2) / (1 - 1 / window)))


def first_step_below(steps: Sequence[int], values: Sequence[float], threshold: float) -> float | None:
    """Step at which a curve first falls to a threshold, read between its points; None if it never does.

    >>> first_step_below([0, 80, 160], [8.0, 6.0, 5.0], 7.0)
    40.0
    """
    points = list(zip(steps, values, strict=True))
    if points and points[0][1] <= threshold:
        return float(points[0][0])
    for (step, value), (next_step, next_value) in itertools.pairwise(points):
        if next_value <= threshold:
            return step + (value - threshold) / (value - next_value) * (next_step - step)
    return None


def write_texts(
    params: Any,
    config: Model5Config,
    sampling: SampleConfig,
    tokenizer: Tokenizer,
    key: jax.Array,
    judge: Callable[[tuple[np.ndarray, np.ndarray]], Mapping[str, Estimate]],
) -> tuple[list[str], dict[str, float]]:
    """Texts that a model writes, and their measures.

    Args:
        params: the model's.
        config: its sizes and options.
        sampling: how it writes.
        tokenizer: its tokenizer.
        key: the only source of randomness.
        judge: the other model's test losses of crops and their targets, by name.

    Returns:
        The texts, and what `measure_text` says of them with `perplexity_under_other`.
    """
    prompt = np.tile(tokenizer.encode([sampling.prompt])[0].astype(np.int32), (sampling.num_texts, 1))
    options: dict[str, Any] = {"num_tokens": sampling.num_tokens, "temperature": sampling.temperature}
    try:
        ids = np.asarray(generate(params, config, jnp.asarray(prompt), key=key, **options))
    except ValueError as error:
        # A model that has diverged must not cost the run its other results.
        measures = dict.fromkeys([*measure_text(tokenizer.decode, prompt), "perplexity_under_other"], np.nan)
        return [f"(no text: {error})"] * sampling.num_texts, measures
    crops = ids[:, -config.context_length - 1 :]
    measures = measure_text(tokenizer.decode, ids[:, prompt.shape[1] :])
    with np.errstate(over="ignore"):  # a model that has diverged finds anything infinitely surprising
        measures["perplexity_under_other"] = float(np.exp(judge((crops[:, :-1], crops[:, 1:]))["all"].mean))
    return [tokenizer.decode(row) for row in ids], measures


def comparison_table(
    summaries: Mapping[str, Mapping[str, Any]], labels: Mapping[str, str], real_text: Mapping[str, float]
) -> str:
    """The trade-off between the objectives as a Markdown table of at most 80 columns.

    Args:
        summaries: objective -> what `summarise` returned, with `text` (what `measure_text` returned and
            `perplexity_under_other`).
        labels: objective -> its column's title.
        real_text: what `measure_text` returned for held-out text.
    """

    def row(title: str, *keys: str, digits: int = 2, real: str = "") -> list[str]:
        return [title, *(_shown(_look_up(summary, keys), digits) for summary in summaries.values()), real]

    def text(title: str, key: str, digits: int = 2) -> list[str]:
        real = _shown(real_text[key], digits) if key in real_text else ""
        return row(title, "text", key, digits=digits, real=real)

    def heading(title: str) -> list[str]:
        return [f"**{title}**", *[""] * len(summaries), ""]

    rows = [
        heading("speed of learning"),
        row("loss drop in 100 steps, nats", "loss_drop_per_100_steps"),
        row("steps until 1 nat is gained", "steps_to_drop_1_nat", digits=0),
        row("steps until 2 nats are gained", "steps_to_drop_2_nats", digits=0),
        row("train loss at the end", "train_loss"),
        row("test loss, every token", "test_losses", "all"),
        row("test loss, final token", "test_losses", "final"),
        heading("stability"),
        row("train loss around its mean, std", "fluctuation"),
        row("largest rise of the test loss", "largest_rise_of_test_loss"),
        heading("fit to generation"),
        text("tokens that begin with a space", "tokens_with_space"),
        text("mean word length, characters", "word_length", 1),
        text("repeated 4-grams", "repeated_ngrams", 3),
        row("perplexity under the other model", "text", "perplexity_under_other", digits=0),
        heading("cost"),
        row("time of a step, ms", "step_milliseconds", digits=1),
    ]
    return format_table(["", *(labels[name] for name in summaries), "real text"], rows)


def _look_up(summary: Mapping[str, Any], keys: Sequence[str]) -> Any:
    value: Any = summary
    for key in keys:
        value = value[key]
    return value


def _shown(value: Any, digits: int) -> str:
    if value is None or value != value:
        return "-"
    if isinstance(value, Mapping):
        return f"{value['mean']:.{digits}f} ± {value['standard_error']:.{digits}f}"
    return f"{value:,.{digits}f}"
