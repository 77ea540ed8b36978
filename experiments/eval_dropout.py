"""How much does dropout that stays on in evaluation change what PyTorch's attention computes?

    python experiments/eval_dropout.py

Claim F7. `scaled_dot_product_attention` is a function and does not know that its module is in `eval()`: with
a fixed `dropout_p` it goes on dropping out. A small Model 5 is trained on real text, and its held-out loss is
measured sixteen times by a PyTorch copy with that bug, by one with `dropout_p` set from `self.training`, and
by JAX, where dropout needs a key and `deterministic=False`. Takes about a minute on two CPU cores.

To expect, over three seeds: with the bug the loss of the same text differs by 0.003 nats from pass to pass
and is 0.001 too high on average, little enough to be overlooked; without it all passes are equal to the bit,
and so they are in JAX, which refuses `deterministic=False` without a key.
"""

if __name__ == "__main__":
    import interrupt  # noqa: F401

import dataclasses
import sys

import jax
import numpy as np

from jaxloss._checks import check_number
from jaxloss.data import TokenData, eval_crops, sample_batch
from jaxloss.fused import linear_next_token_loss
from jaxloss.losses import next_token_loss
from jaxloss.model5 import Model5, Model5Config, init_params, to_arrays
from jaxloss.runs.cli import run_cli
from jaxloss.runs.experiment import ExperimentConfig
from jaxloss.runs.findings import Finding, is_above, spread, write_results
from jaxloss.runs.folder import RunFolder
from jaxloss.runs.plots import COLOURS, new_figure
from jaxloss.runs.settings import DataConfig
from jaxloss.runs.tables import format_table
from jaxloss.training import init_state, make_optimizer, make_train_step

try:
    import torch
    from torch.nn import functional as F

    import torch_ref.model5
except ImportError:
    sys.exit("error: this experiment needs PyTorch: pip install 'jaxloss[test]'")

CONTEXT, PASSES = 32, 16
NAMES = ("PyTorch, dropout_p fixed", "PyTorch, dropout_p from self.training", "JAX, deterministic=True")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Measure the same held-out text again and again with attention that drops out in eval()."""

    data: DataConfig = dataclasses.field(default_factory=lambda: DataConfig(vocab_size=512))
    steps: int = 300
    """Updates before the measurement."""
    dropout: float = 0.1
    """The articles' rate."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("dropout", self.dropout, low=0, high=1, open_high=True)


class AttentionWithTheBug(torch_ref.model5.Attention):
    """As it is often written: `dropout_p` is the rate, whatever the module's mode."""

    def _attend(self, q_BHTK, k_BHSK, v_BHSK, document_BS):
        rate = self.attn_dropout.rate
        return F.scaled_dot_product_attention(q_BHTK, k_BHSK, v_BHSK, dropout_p=rate, is_causal=True)


def train(config: Config, data: TokenData, model: Model5Config) -> list:
    """Parameters trained from each seed."""
    optimizer, trained = make_optimizer(learning_rate=3e-3), []
    train_step = make_train_step(linear_next_token_loss, from_hidden=True)
    for seed in range(config.seeds):
        init_key, dropout_key = jax.random.split(jax.random.key(seed))
        state = init_state(Model5(model).apply, init_params(model, init_key), optimizer, batch_size=16)
        for step in range(config.steps):
            batch = sample_batch(data.train, batch_size=16, context_length=CONTEXT, seed=seed, step=step)
            state, *_ = train_step(state, *batch, dropout_key)
        trained.append(state.params)
    return trained


def torch_losses(
    params, model: Model5Config, crops: tuple[np.ndarray, np.ndarray], has_bug: bool
) -> list[float]:
    """The held-out loss of a PyTorch copy in eval(), once for each pass."""
    module = torch_ref.model5.from_arrays(to_arrays(params), model).eval()
    if has_bug:
        for block in module.h:
            block.attn.__class__ = AttentionWithTheBug
    inputs_NT, targets_NT = (torch.tensor(ids).long() for ids in crops)
    with torch.no_grad():
        passes = [module(inputs_NT).flatten(0, 1) for _ in range(PASSES)]
    return [F.cross_entropy(logits, targets_NT.flatten()).item() for logits in passes]


def jax_losses(params, model: Model5Config, crops: tuple[np.ndarray, np.ndarray]) -> list[float]:
    """The same, in JAX."""
    measure = jax.jit(
        lambda params, inputs, targets: next_token_loss(
            Model5(model).apply({"params": params}, inputs), targets
        )
    )
    return [float(measure(params, *crops)) for _ in range(PASSES)]


def refusal(params, model: Model5Config, crops: tuple[np.ndarray, np.ndarray]) -> str:
    """What JAX says to dropout without a key."""
    try:
        Model5(model).apply({"params": params}, crops[0], deterministic=False)
    except ValueError as error:
        return str(error)
    return ""


def plot(path, losses: dict[str, np.ndarray], config: Config) -> None:
    """Each pass's loss beside the loss without dropout."""
    figure, (axis,) = new_figure(1, title=f"One held-out text measured {PASSES} times in eval()")
    true = losses[NAMES[1]][:, :1]
    for colour, (name, values) in zip(COLOURS, losses.items(), strict=False):
        passes = np.arange(1, PASSES + 1)
        for i, excess in enumerate(values - true):
            style = {"color": colour, "marker": "o", "markersize": 3, "linewidth": 1, "alpha": 0.8}
            axis.plot(passes, excess, **style, label=name if i == 0 else None)
    axis.set(
        xlabel="pass", ylabel="loss less that without dropout, nats", title=f"dropout {config.dropout:g}"
    )
    axis.legend(frameon=False, fontsize=8)
    figure.savefig(path)


def main(config: Config) -> None:
    folder = RunFolder(config.out, "eval_dropout")
    data = config.data.prepare(CONTEXT)
    sizes = {"context_length": CONTEXT, "embed_dim": 64, "num_heads": 2, "num_blocks": 2}
    model = Model5Config(vocab_size=data.tokenizer.vocab_size, dropout=config.dropout, **sizes)
    folder.create()
    torch.manual_seed(0)
    crops = eval_crops(data.test, num_crops=64, context_length=CONTEXT)
    trained = train(config, data, model)
    runs = [
        [torch_losses(params, model, crops, has_bug=True) for params in trained],
        [torch_losses(params, model, crops, has_bug=False) for params in trained],
        [jax_losses(params, model, crops) for params in trained],
    ]
    losses = {name: np.array(run) for name, run in zip(NAMES, runs, strict=True)}
    rows = [
        [name, *(spread(v, 4) for v in (values.mean(1), np.ptp(values, axis=1)))]
        for name, values in losses.items()
    ]
    table = format_table([f"over {PASSES} passes", "held-out loss, nats", "largest less smallest"], rows)
    says = refusal(trained[0], model, crops)
    print(f"JAX, deterministic=False without a key: {says}")
    bug, fixed, in_jax = losses.values()
    excess, ranges = bug.mean(1) - fixed.mean(1), [np.ptp(values, axis=1) for values in losses.values()]
    finding = Finding.of(
        "F7",
        f"in eval() with a fixed dropout_p the held-out loss differs from pass to pass by "
        f"{spread(ranges[0], 4)} nats and is {spread(excess, 4)} too high; with dropout_p set "
        f"from self.training, and in JAX, all {PASSES} passes are equal to the bit",
        [
            is_above(ranges[0], ranges[1]),
            not ranges[1].any() and not ranges[2].any(),
            "key" in says and bool(np.allclose(fixed, in_jax, rtol=1e-5)),
        ],
    )
    plot(folder.file("eval_dropout.png"), losses, config)
    write_results(folder, config, table, [finding], losses)


if __name__ == "__main__":
    sys.exit(run_cli(main, Config))
