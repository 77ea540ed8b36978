"""How many learning rates work, beside those of the kind's usual loss.

Two toys, one that a line separates and one with noise, are learnt by a small network at every rate of a
grid, by SGD and by AdamW, from several seeds: all in one program.

Shapes: R rates, S seeds, N examples, F features, H hidden units, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxloss.doctor.inputs import KINDS as SPECS
from jaxloss.doctor.inputs import NUM_CLASSES
from jaxloss.doctor.report import Finding, Result
from jaxloss.doctor.subject import Subject
from jaxloss.losses.binary import binary_cross_entropy_with_logits
from jaxloss.losses.classification import cross_entropy
from jaxloss.losses.preference import bradley_terry_loss
from jaxloss.losses.regression import mse_loss

RATES = 10.0 ** np.arange(-4.0, 3.01, 0.5)
DECADES_BETWEEN = 0.5
OPTIMIZERS, TOYS = ("SGD", "AdamW"), ("separable", "noisy")
NUM_SEEDS, NUM_STEPS = 3, 100
NUM_TRAINED, NUM_TESTED, NUM_FEATURES, NUM_HIDDEN = 48, 256, 4, 8
NOISE = 0.1  # the share of answers that are wrong; to numbers, 5 times that is added as standard deviation
REACHED = 0.8  # of the way from chance to the best that the usual loss gets to
NARROW = 0.5  # of the usual loss's decades


class Kind(NamedTuple):
    """A kind of targets: the outputs of the network, the usual loss, and the score of guessing."""

    num_outputs: int
    usual: Callable[..., jax.Array]
    chance: float


KINDS = {
    "classes": Kind(NUM_CLASSES, cross_entropy, 1 / NUM_CLASSES),
    "yes_no": Kind(1, binary_cross_entropy_with_logits, 0.5),
    "real": Kind(1, mse_loss, 0.0),
    "pairs": Kind(1, bradley_terry_loss, 0.5),
}


def check(subject: Subject) -> Result:
    """The decades of learning rates at which toys are learnt, against cross entropy's or its like."""
    name = subject.spec.kind
    if name is not None and subject.spec is not SPECS[name]:
        return Result(figures={"rates that work": f"not tried: the toys have {NUM_CLASSES} classes"})
    if name is None:
        return Result(figures={"rates that work": "not tried: the targets are of your own kind"})

    def loss(prediction: Any, target: Any) -> Any:
        return subject.loss(prediction, target)

    usual, own = usual_scores(name), scores(loss, name)
    findings: list[Finding] = []
    figures = {"rates that work beside those of": KINDS[name].usual.__name__}
    for toy, of_toy, usual_of_toy in zip(TOYS, own, usual, strict=True):
        chance = KINDS[name].chance
        level_S = chance + REACHED * (usual_of_toy.max((0, 1)) - chance)
        for optimizer, score_RS, usual_RS in zip(OPTIMIZERS, of_toy, usual_of_toy, strict=True):
            width_S, usual_S = decades(score_RS, level_S), decades(usual_RS, level_S)
            case = f"{optimizer}, {toy}"
            figures[case] = f"{_spread(width_S)} decades to {_spread(usual_S)}"
            findings += _judge(name, case, width_S, usual_S)
    return Result(_worst(findings), figures)


def decades(score_RS: np.ndarray, level: np.ndarray | float) -> np.ndarray:
    """How many decades of rates reach a score, or each seed its own, for each seed."""
    return DECADES_BETWEEN * (score_RS >= level).sum(0)


@cache
def usual_scores(kind: str) -> np.ndarray:
    """What the kind's usual loss scores, [toys, optimizers, R, S]."""
    usual = KINDS[kind].usual
    return scores(lambda prediction, target: usual(*_arguments(kind, prediction, target)), kind)


def scores(loss: Callable[..., Any], kind: str) -> np.ndarray:
    """Scores on new examples after training, [toys, optimizers, R, S]; -1 where training ended in NaN."""
    optax = _optax()
    toys = [_Toy.draw(kind, noise, seed) for noise in (0.0, NOISE) for seed in range(NUM_SEEDS)]
    shape = len(TOYS), NUM_SEEDS
    toys_TS = jax.tree.map(lambda *each: np.stack(each).reshape(*shape, *each[0].shape), *toys)

    def train(rate: jax.Array, is_adam: jax.Array, toy: _Toy) -> jax.Array:
        return _train(optax, loss, kind, rate, is_adam, toy)

    over_seeds = jax.vmap(train, (None, None, 0))
    over_rates = jax.vmap(over_seeds, (0, None, None))
    over_optimizers = jax.vmap(over_rates, (None, 0, None))
    over_toys = jax.jit(jax.vmap(over_optimizers, (None, None, 0)))
    with jax.enable_x64(False):
        rates, is_adam = jnp.asarray(RATES, jnp.float32), jnp.array([False, True])
        predictions = np.asarray(over_toys(rates, is_adam, toys_TS), np.float64)
    return _score(kind, predictions, toys_TS.new_answer[:, None, None])


class _Toy(NamedTuple):
    """Examples to learn from and new ones without noise, what a linear teacher answers, and first weights."""

    x: Any
    target: Any
    new_x: Any
    new_answer: Any
    params: Any

    @classmethod
    def draw(cls, kind: str, noise: float, seed: int) -> _Toy:
        rng = np.random.default_rng(seed)
        num_outputs = KINDS[kind].num_outputs
        teacher = rng.standard_normal((NUM_FEATURES, num_outputs))
        params = {
            "in": rng.standard_normal((NUM_FEATURES, NUM_HIDDEN)) / NUM_FEATURES**0.5,
            "bias": np.zeros(NUM_HIDDEN),
            "out": rng.standard_normal((NUM_HIDDEN, num_outputs)) / NUM_HIDDEN**0.5,
        }
        x, target, _ = _draw(rng, kind, teacher, NUM_TRAINED, noise)
        new_x, _, new_answer = _draw(rng, kind, teacher, NUM_TESTED, 0.0)
        toy = cls(x, target, new_x, new_answer, params)
        return jax.tree.map(lambda a: a.astype(np.float32) if a.dtype.kind == "f" else a, toy)


def _draw(
    rng: np.random.Generator, kind: str, teacher: np.ndarray, num: int, noise: float
) -> tuple[np.ndarray, Any, np.ndarray]:
    """Features, the targets, and the teacher's answers, of which the targets have some wrong."""
    x = rng.standard_normal((num, 2, NUM_FEATURES) if kind == "pairs" else (num, NUM_FEATURES))
    answer = x @ teacher
    is_wrong = rng.random(num) < noise
    if kind == "classes":
        labels = answer.argmax(-1)
        return x, np.where(is_wrong, rng.integers(0, NUM_CLASSES, num), labels).astype(np.int32), labels
    answer = answer[..., 0]
    if kind == "yes_no":
        return x, ((answer > 0) != is_wrong).astype(np.float32), answer > 0
    if kind == "real":
        return x, answer + 5 * noise * rng.standard_normal(num), answer
    is_swapped = (answer[:, 0] < answer[:, 1]) != is_wrong
    return np.where(is_swapped[:, None, None], x[:, ::-1], x), (), np.ones(num)


def _train(optax: Any, loss: Any, kind: str, rate: jax.Array, is_adam: jax.Array, toy: _Toy) -> jax.Array:
    """Predictions of new examples after training on all examples at every step."""
    sgd, adam = optax.sgd(1.0), optax.adamw(1.0)

    def update(carry: Any, _: None) -> tuple[Any, None]:
        params, sgd_state, adam_state = carry
        gradient = jax.grad(lambda params: loss(_predict(params, toy.x, kind), toy.target))(params)
        steps, sgd_state = sgd.update(gradient, sgd_state, params)
        adam_steps, adam_state = adam.update(gradient, adam_state, params)
        chosen = jax.tree.map(lambda a, b: rate * jnp.where(is_adam, b, a), steps, adam_steps)
        return (optax.apply_updates(params, chosen), sgd_state, adam_state), None

    start = toy.params, sgd.init(toy.params), adam.init(toy.params)
    (params, _, _), _ = jax.lax.scan(update, start, length=NUM_STEPS)
    return _predict(params, toy.new_x, kind)


def _predict(params: Any, x: jax.Array, kind: str) -> jax.Array:
    """Logits [N, C], or numbers [N]; scores [N, 2] of pairs."""
    output = jnp.tanh(x @ params["in"] + params["bias"]) @ params["out"]
    return output if kind == "classes" else output[..., 0]


def _score(kind: str, prediction: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """The share answered right; of numbers, the signed square of the correlation, whatever their scale."""
    is_finite = np.isfinite(prediction).all((-1, -2) if kind in ("classes", "pairs") else -1)
    if kind == "classes":
        score = (prediction.argmax(-1) == answer).mean(-1)
    elif kind == "yes_no":
        score = ((prediction > 0) == answer).mean(-1)
    elif kind == "pairs":
        score = (prediction[..., 0] > prediction[..., 1]).mean(-1)
    else:
        a, b = (each - each.mean(-1, keepdims=True) for each in (prediction, answer))
        r = (a * b).mean(-1) / np.maximum(a.std(-1) * b.std(-1), 1e-300)
        score = r * np.abs(r)
    return np.where(is_finite, score, -1.0)


def _arguments(kind: str, prediction: Any, target: Any) -> tuple[Any, ...]:
    return (prediction[..., 0], prediction[..., 1]) if kind == "pairs" else (prediction, target)


def _judge(kind: str, case: str, width_S: np.ndarray, usual_S: np.ndarray) -> list[Finding]:
    usual = f"{KINDS[kind].usual.__name__}'s {_spread(usual_S)}"
    tried = f"rates from {RATES[0]:g} to {RATES[-1]:g}, {NUM_SEEDS} seeds"
    if usual_S.max() == 0:
        return []
    if width_S.max() == 0:
        message = f"it learns the toy ({case}) at no learning rate, against {usual} decades of them"
        advice = "see the errors of the other checks; without one, divide the loss by its size: no rate fits"
        return [Finding("trains", "error", message, 0.0, tried, advice)]
    gap = width_S.mean() + np.hypot(width_S.std(ddof=1), usual_S.std(ddof=1))
    if gap >= NARROW * usual_S.mean():
        return []
    message = f"few learning rates work ({case}): {_spread(width_S)} decades, against {usual}"
    advice = "tune the rate with care, and clip the gradient if it explodes"
    return [Finding("trains", "warning", message, float(width_S.mean()), tried, advice)]


def _worst(findings: list[Finding]) -> list[Finding]:
    """Of each severity, the case with the fewest rates: the others say the same."""
    worst: dict[str, Finding] = {}
    for finding in findings:
        known = worst.get(finding.severity)
        if known is None or (finding.number or 0) < (known.number or 0):
            worst[finding.severity] = finding
    return list(worst.values())


def _spread(values: np.ndarray) -> str:
    return f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"


def _optax() -> Any:
    try:
        import optax
    except ImportError as error:
        raise ImportError("it trains with optax, which is not installed: pip install optax") from error
    return optax
