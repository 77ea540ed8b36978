"""How much noisier is the gradient of the final token than that of all tokens?

    python experiments/gradient_noise.py
    python experiments/gradient_noise.py --book time_machine.txt --web fineweb_1000.parquet

Claim F13, first cause: one token of T gives a training signal T times smaller. Measured is the variance of
one sequence's gradient, summed over all parameters: of the final token's loss, of one random position's, and
of the mean over all positions, for sequences of 16, 64 and 256 tokens, of a small Model 5 at initialisation
and after training, on one long document and on many. Were a sequence's tokens independent, the ratio of final
to all would be T. Dropout is off, so that only the choice of the sequence is noise.

How variance, noise scale and their standard errors are estimated is said in `jaxloss/runs/gradient_noise.py`.
Takes about three minutes on two CPU cores.

To expect: at the start the ratio is 57 to 59 at T = 64 and 217 at T = 256, on either text, near T; after
training 73 ± 15 and 128 ± 16 (one document), 45 ± 17 and 120 ± 12 (many): at T = 256 well below T, since a
sequence's tokens then tell alike. The claim counts as right where the ratio is above T / 2 by two standard
errors.
"""

if __name__ == "__main__":
    import interrupt  # noqa: F401

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxloss import linear_next_token_loss, next_token_loss
from jaxloss._checks import check_integer
from jaxloss.data import sample_batch
from jaxloss.data.contrast import Stream, prepare_book_and_web
from jaxloss.model5 import Model5, Model5Config, init_params
from jaxloss.runs.cli import run_cli
from jaxloss.runs.findings import Finding, write_results
from jaxloss.runs.folder import RunFolder
from jaxloss.runs.gradient_noise import Moments, covariance_trace, jackknife, make_moments, noise_scale
from jaxloss.runs.plots import COLOURS, new_figure
from jaxloss.runs.tables import format_table
from jaxloss.training import init_state, make_optimizer, make_train_step

LENGTHS, GROUPS = (16, 64, 256), 8
PARTS = {"embeddings": ("wte", "wpe"), "attention": ("attn",), "MLP": ("mlp",), "norms": ("ln_",)}


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure the variance of one sequence's gradient, by objective, length, text and training."""

    book: str | None = None
    """A long text; None means the longest document of the embedded corpus."""
    web: str | None = None
    """A corpus of many documents; None means the rest of the embedded corpus."""
    sequences: int = 256
    """Sequences that each variance is estimated from, a multiple of 8."""
    steps: int = 300
    """Updates of the trained model, on all tokens."""
    out: str | None = None
    """New folder for table, numbers and plot; runs/gradient_noise-<time> if not given."""

    def __post_init__(self) -> None:
        check_integer("steps", self.steps, low=1)
        if check_integer("sequences", self.sequences, low=2 * GROUPS) % GROUPS:
            raise ValueError(f"sequences must be a multiple of {GROUPS}; got {self.sequences}")


def part_of(path: str) -> str:
    """Which part of the model a parameter belongs to."""
    return next(part for part, words in PARTS.items() if any(word in path for word in words))


def make_loss(model: Model5Config) -> Callable[..., jax.Array]:
    """The loss of one sequence, at the marked positions."""

    def loss(params, inputs_T, targets_T, looks_at_T):
        logits = Model5(model).apply({"params": params}, inputs_T[None])
        return next_token_loss(logits, targets_T[None], where=looks_at_T[None])

    return loss


def measure(
    moments: Callable[..., Moments], params: Any, stream: Stream, length: int, count: int
) -> dict[str, Any]:
    """Ratios of variances, and noise scales, for `count` sequences of one length."""
    batch = sample_batch(stream.train, batch_size=count, context_length=length, seed=1, step=0)
    chosen_N = np.random.default_rng(0).integers(0, length, count)
    looks_at = (
        np.ones((count, length), bool),
        np.tile(np.arange(length) == length - 1, (count, 1)),
        np.arange(length) == chosen_N[:, None],
    )
    rows = [slice(i, i + count // GROUPS) for i in range(0, count, count // GROUPS)]
    everything, final, chosen = (
        [moments(params, *(a[r] for a in (*batch, mask))) for r in rows] for mask in looks_at
    )

    def ratio(part: str) -> Callable[..., float]:
        return lambda one, whole: covariance_trace(one)[part] / covariance_trace(whole)[part]

    return {
        "ratio": {part: jackknife(ratio(part), final, everything) for part in (*PARTS, "total")},
        "random position": jackknife(ratio("total"), chosen, everything),
        "noise scale": {"all": noise_scale(everything), "final": noise_scale(final)},
    }


def train(model: Model5Config, params: Any, stream: Stream, steps: int) -> Any:
    """The parameters after training on all tokens of sequences of the longest length."""
    state = init_state(Model5(model).apply, params, make_optimizer(3e-3), batch_size=4)
    train_step = make_train_step(linear_next_token_loss, from_hidden=True)
    for step in range(steps):
        batch = sample_batch(stream.train, batch_size=4, context_length=max(LENGTHS), seed=0, step=step)
        state, *_ = train_step(state, *batch, jax.random.key(1))
    return state.params


def plot(path, results: dict[tuple[str, str, int], dict[str, Any]]) -> None:
    """The ratio over the length, and by part at the longest."""
    figure, (axis, part_axis) = new_figure(
        2, title="Variance of one sequence's gradient: final token over all tokens"
    )
    settings = list(dict.fromkeys((text, state) for text, state, _ in results))
    for i, (colour, setting) in enumerate(zip(COLOURS, settings, strict=True)):
        found = [results[*setting, length]["ratio"] for length in LENGTHS]
        style = {"color": colour, "marker": "o", "label": ", ".join(setting), "capsize": 2}
        axis.errorbar(
            LENGTHS, [f["total"].mean for f in found], [2 * f["total"].standard_error for f in found], **style
        )
        places = np.arange(len(PARTS)) + 0.2 * (i - 1.5)
        part_axis.bar(places, [found[-1][part].mean for part in PARTS], 0.2, color=colour)
    axis.plot(LENGTHS, LENGTHS, color="#555555", linestyle="--", linewidth=1, label="T: independent tokens")
    axis.set(
        xscale="log", yscale="log", xlabel="tokens of a sequence, T", ylabel="ratio of the variances ± 2 SE"
    )
    axis.set_xticks(LENGTHS, [str(length) for length in LENGTHS])
    axis.set_xticks([], minor=True)
    part_axis.set(title=f"by part of the model, T = {LENGTHS[-1]}", ylabel="ratio of the variances")
    part_axis.set_xticks(np.arange(len(PARTS)), list(PARTS))
    axis.legend(frameon=False)
    figure.savefig(path)


def main(config: Config) -> None:
    folder = RunFolder(config.out, "gradient_noise")
    streams, tokenizer = prepare_book_and_web(config.book, config.web)
    sizes = {"context_length": max(LENGTHS), "embed_dim": 128, "num_heads": 4, "num_blocks": 2}
    model = Model5Config(vocab_size=tokenizer.vocab_size, **sizes)
    folder.create()
    initial, results = init_params(model, jax.random.key(0)), {}
    moments = make_moments(make_loss(model), part_of)
    for text in ("book", "web, long"):
        states = {"at the start": initial, "trained": train(model, initial, streams[text], config.steps)}
        for state, params in states.items():
            for length in LENGTHS:
                results[text, state, length] = measure(
                    moments, params, streams[text], length, config.sequences
                )
            print(f"{text}, {state}: measured", flush=True)

    def shown(found: dict[str, Any]) -> list[str]:
        ratio, scale = found["ratio"], found["noise scale"]
        ratios = [
            f"{e.mean:.0f} ± {e.standard_error:.0f}" for e in (ratio["total"], found["random position"])
        ]
        return [*ratios, *(f"{scale[o]:,.0f}" if scale[o] else "-" for o in ("all", "final"))]

    header = ["text, model, T", "final / all", "random / all", "noise scale, all", "noise scale, final"]
    table = format_table(header, [[", ".join(map(str, k)), *shown(found)] for k, found in results.items()])
    _, middle, long = LENGTHS
    at_middle, at_long = (
        {k[:2]: f["ratio"]["total"] for k, f in results.items() if k[2] == n} for n in LENGTHS[1:]
    )
    told = [
        f"{', '.join(k)}: {at_middle[k].mean:.0f} ± {at_middle[k].standard_error:.0f} and "
        f"{at_long[k].mean:.0f} ± {at_long[k].standard_error:.0f}"
        for k in at_middle
    ]
    finding = Finding.of(
        "F13, noise",
        f"variance of a sequence's gradient, final over all tokens, at T = {middle} and {long}: "
        f"{'; '.join(told)}",
        [
            e.mean - 2 * e.standard_error > n / 2
            for n, es in ((middle, at_middle), (long, at_long))
            for e in es.values()
        ],
    )
    numbers = {", ".join(map(str, key)): found for key, found in results.items()}
    plot(folder.file("gradient_noise.png"), results)
    write_results(folder, config, table, [finding], numbers)


if __name__ == "__main__":
    sys.exit(run_cli(main, Config))
