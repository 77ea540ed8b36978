"""Final-token against all-token training in numbers: speed, stability, text and the cost of a step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxloss.data import Tokenizer
from jaxloss.model5 import Model5Config, generate
from jaxloss.runs.findings import Finding, is_above, spread
from jaxloss.runs.settings import SampleConfig
from jaxloss.runs.tables import format_table
from jaxloss.runs.text import decode_known, measure_text

WINDOW = 40
"""Steps of the moving average that fluctuations are measured around."""


def summarise(
    records: Sequence[Mapping[str, Any]], times: Sequence[Mapping[str, Any]], objective: str
) -> dict[str, Any]:
    """What the metrics of one training say about it.

    Args:
        records: lines of `metrics.jsonl`.
        times: lines of `times.jsonl`.
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
    seconds = [record["seconds"] for record in times if record["objective"] == objective][1:]
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


class Written(NamedTuple):
    """Texts that a model wrote.

    Attributes:
        texts: each with its beginning.
        measures: what `measure_text` says of the continuations, and `perplexity_under_other`.
        losses: of each text, the other model's loss in nats per word of the continuation.
    """

    texts: list[str]
    measures: dict[str, float]
    losses: np.ndarray


def write_texts(
    params: Any,
    config: Model5Config,
    sampling: SampleConfig,
    tokenizer: Tokenizer,
    beginnings_NP: np.ndarray,
    key: jax.Array,
    judge: Callable[[np.ndarray, np.ndarray], Mapping[str, Any]],
) -> Written:
    """Texts that a model writes, and their measures.

    Args:
        params: the model's.
        config: its sizes and options.
        sampling: how it writes.
        tokenizer: its tokenizer.
        beginnings_NP: token ids that the N texts begin with.
        key: the only source of randomness.
        judge: the other model's losses of crops and their targets, by name, one for each crop.
    """
    options: dict[str, Any] = {"num_tokens": sampling.num_tokens, "temperature": sampling.temperature}
    num_given, decode = beginnings_NP.shape[1], partial(decode_known, tokenizer)
    try:
        ids = np.asarray(generate(params, config, jnp.asarray(beginnings_NP), key=key, **options))
    except ValueError as error:
        # A model that has diverged must not cost the run its other results.
        names = [*measure_text(decode, beginnings_NP), "perplexity_under_other"]
        texts = [f"(no text: {error})"] * len(beginnings_NP)
        return Written(texts, dict.fromkeys(names, np.nan), np.full(len(texts), np.nan))
    crops = ids[:, -config.context_length - 1 :]
    losses = np.asarray(judge(crops[:, :-1], crops[:, 1:])["all"], np.float64)
    measures = measure_text(decode, ids[:, num_given:])
    with np.errstate(over="ignore"):  # a model that has diverged finds anything infinitely surprising
        measures["perplexity_under_other"] = float(np.exp(losses.mean()))
    # By the token, a text of blank lines would be the best.
    words = [max(1, len(decode(row).split())) for row in ids[:, num_given:]]
    per_word = losses * crops.shape[1] / np.array(words)
    return Written([decode(row) for row in ids], measures, per_word)


def compare(summaries: Mapping[str, Sequence[Mapping[str, Any]]], steps: int) -> list[Finding]:
    """What the seeds say about the articles' claims F11 and F14.

    Args:
        summaries: "all" and "final" -> for each seed what `summarise` returned.
        steps: the steps of a run; a curve that never falls as far as it should took at least as many.
    """

    def both(*keys: str, digits: int = 2) -> tuple[np.ndarray, np.ndarray, str]:
        absent = steps if keys[0].startswith("steps_to") else np.nan
        every, final = (
            np.array([absent if value is None else value for value in (_look_up(one, keys) for one in seeds)])
            for seeds in (summaries["all"], summaries["final"])
        )
        return every, final, f"{spread(every, digits)} and {spread(final, digits)}"

    loss, scatter = both("test_losses", "all", "mean"), both("fluctuation")
    speed, cost = both("steps_to_drop_1_nat", digits=0), both("step_milliseconds", digits=1)
    noisy, slow = is_above(scatter[1], scatter[0]), is_above(speed[1], speed[0])
    told = (
        f"all tokens and final token: train loss around its mean {scatter[2]}, {speed[2]} steps to gain 1 nat"
    )
    return [
        Finding.of("F11", f"{told}, test loss {loss[2]} nats", [is_above(loss[1], loss[0]), noisy, slow]),
        Finding.of("F14", f"{told}, {cost[2]} ms a step", [noisy, slow, is_above(cost[0], cost[1])]),
    ]


def comparison_table(
    summaries: Mapping[str, Sequence[Mapping[str, Any]]],
    labels: Mapping[str, str],
    real_text: Mapping[str, float],
) -> str:
    """The trade-off between the objectives as a Markdown table of at most 80 columns.

    Args:
        summaries: objective -> for each seed what `summarise` returned, with `text`, a `Written`'s measures.
        labels: objective -> its column's title.
        real_text: what `measure_text` returned for held-out text.
    """

    def row(title: str, *keys: str, digits: int = 2, real: str = "") -> list[str]:
        shown = [_shown([_look_up(one, keys) for one in seeds], digits) for seeds in summaries.values()]
        return [title, *shown, real]

    def text(title: str, key: str, digits: int = 2) -> list[str]:
        real = _shown([real_text[key]], digits) if key in real_text else ""
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


def _shown(values: Sequence[Any], digits: int) -> str:
    """Of one seed the value, with its standard error if it has one; of several their mean and spread."""
    if any(value is None or value != value for value in values):
        return "-"
    if isinstance(values[0], Mapping):
        if len(values) == 1:
            return f"{values[0]['mean']:.{digits}f} ± {values[0]['standard_error']:.{digits}f}"
        values = [value["mean"] for value in values]
    if max(map(abs, values)) >= 1e7:
        # The perplexity of what has nearly diverged would make the table some hundred columns wide.
        return f"{float(np.mean(values)):.0e}"
    return spread(values, digits)
