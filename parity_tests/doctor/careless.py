"""Thirty careless losses, each with the check that must find it and what that must say.

Ten of them are those of experiments/check_a_loss.py. N examples, C classes.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxloss import (
    binary_cross_entropy_with_logits,
    bradley_terry_loss,
    correlation_loss,
    cross_entropy,
    focal_loss,
    l1_loss,
    mse_loss,
)
from jaxloss.doctor import Finding
from parity_tests.scripts import load


class Careless(NamedTuple):
    """A loss that people write, and what the doctor must say.

    `severity` and `finding`, a regular expression for the message, are those of the finding of `check` that
    names the fault; `twin` is a loss without the fault, which must not have that finding: by default, the
    usual one of the kind.
    """

    loss: Callable[..., jax.Array]
    check: str
    severity: str
    finding: str
    kind: str = "classes"
    dtypes: tuple[str, ...] = ("float32",)
    twin: Callable[..., jax.Array] | None = None


USUAL = {
    "classes": cross_entropy,
    "yes_no": binary_cross_entropy_with_logits,
    "real": mse_loss,
    "pairs": bradley_terry_loss,
}


def _of_label(values, labels):
    return jnp.take_along_axis(values, labels[:, None], 1)[:, 0]


def _one_hot(logits, labels):
    return jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)


def mean_of_means(logits, labels):
    """Every class of the batch counts alike, however few its examples."""
    losses, is_class = cross_entropy(logits, labels, reduction="none"), _one_hot(logits, labels)
    count = is_class.sum(0)
    return jnp.sum(losses @ is_class / jnp.maximum(count, 1)) / jnp.sum(count > 0)


def where_after_log(x, y):
    p = jax.nn.sigmoid(x)
    return -jnp.mean(jnp.where(y > 0.5, jnp.log(p), jnp.log(1 - p)))


@jax.custom_vjp
def cotangent_dropped(x, y):
    return jnp.mean((x - y) ** 2)


cotangent_dropped.defvjp(
    lambda x, y: (cotangent_dropped(x, y), (x, y)),
    lambda kept, _: (2 * (kept[0] - kept[1]) / len(kept[0]), jnp.zeros_like(kept[1])),
)


def arguments_swapped(logits, labels):
    """The logarithm of what is given, weighted by what is predicted."""
    return -jnp.mean(jnp.sum(jax.nn.softmax(logits) * jnp.log(_one_hot(logits, labels) + 1e-9), 1))


def integer_division(logits, labels):
    return jnp.sum(cross_entropy(logits, labels, reduction="none")) // len(labels)


def in_bfloat16(logits, labels):
    return cross_entropy(logits.astype(jnp.bfloat16).astype(logits.dtype), labels)


def log_of_much_more(logits, labels):
    return -jnp.mean(jnp.log(_of_label(jax.nn.softmax(logits), labels) + 1e-2))


def clipped(logits, labels):
    return -jnp.mean(jnp.log(jnp.clip(_of_label(jax.nn.softmax(logits), labels), 0.05, 0.95)))


def wrong_operand_stopped(logits, labels):
    """Meant to stop the gradient of the weight."""
    log_p = _of_label(jax.nn.log_softmax(logits), labels)
    return -jnp.mean((1 - jnp.exp(log_p)) ** 2 * jax.lax.stop_gradient(log_p))


def argmax_inside(logits, labels):
    return jnp.mean((jnp.argmax(logits, 1) != labels).astype(logits.dtype))


def second_sign_missing(x, y):
    p = jax.nn.sigmoid(x)
    return -jnp.mean(y * jnp.log(p + 1e-7) - (1 - y) * jnp.log(1 - p + 1e-7))


def softmax_over_the_batch(logits, labels):
    return -jnp.mean(_of_label(jax.nn.log_softmax(logits, 0), labels))


def epsilon_of_float16(logits, labels):
    p = jax.nn.softmax(logits)
    return -jnp.mean(jnp.log(_of_label(p, labels) + jnp.asarray(1e-8, p.dtype)))


def ranked_in_reverse(chosen, rejected):
    return jnp.mean(jax.nn.softplus(chosen - rejected))


def weights_of_classes_added(logits, labels):
    """The weights are in the sum and not in the count, and were meant for other classes."""
    weight = jnp.array([8.0, 1.0, 1.0, 1.0], logits.dtype)
    return jnp.mean(weight[labels] * cross_entropy(logits, labels, reduction="none"))


def ratio_of_scores(chosen, rejected):
    return -jnp.mean(jnp.log(chosen / rejected))


def softplus_by_hand(x, y):
    return jnp.mean(jnp.log(1 + jnp.exp(-(2 * y - 1) * x)))


def penalty_with_a_step(x, y):
    return jnp.mean((x - y) ** 2 + jnp.where(jnp.abs(x - y) > 1, 5.0, 0.0))


def cosine_to_one_hot(logits, labels):
    norm = jnp.sqrt(jnp.sum(logits**2, 1) + 1e-12)
    return 1 - jnp.mean(_of_label(logits, labels) / norm)


def weighted_mean(logits, labels):
    """Needs the whole batch as well: what it divides by is the sum of the weights there."""
    return cross_entropy(logits, labels, jnp.array([1.0, 2.0, 3.0, 4.0], logits.dtype))


def _of_the_experiment() -> dict[str, Careless]:
    """The ten, with what names the fault of each."""
    module = load("check_a_loss")
    twins = {
        "softmax twice": focal_loss,
        "mask by product": mse_loss,
        "root of the square": l1_loss,
        "[N, 1] against [N]": correlation_loss,
    }
    return {
        name: Careless(case.loss, *module.NAMED_BY[name], kind=case.kind, twin=twins.get(name))
        for name, case in module.CASES.items()
    }


CARELESS = _of_the_experiment() | {
    "mean of means": Careless(
        mean_of_means, "reductions", "warning", "each class .* counts alike", twin=weighted_mean
    ),
    "where after log": Careless(where_after_log, "finite", "error", "gradient is NaN", "yes_no"),
    "cotangent dropped": Careless(cotangent_dropped, "gradient", "error", "cotangent", "real"),
    "arguments swapped": Careless(
        arguments_swapped, "meaning", "warning", "certain of the likeliest class", twin=focal_loss
    ),
    "integer division": Careless(integer_division, "gradient_size", "error", "gradient is 0 at every input"),
    "bfloat16 inside": Careless(in_bfloat16, "finite", "warning", "computes in bfloat16"),
    "log(p + 0.01)": Careless(log_of_much_more, "meaning", "warning", "1.04 times as far from even"),
    "clip of p": Careless(clipped, "gradient_size", "warning", "less than .* of the usual gradient"),
    "wrong operand stopped": Careless(
        wrong_operand_stopped, "gradient", "error", "not the value's derivative", twin=focal_loss
    ),
    "argmax inside": Careless(argmax_inside, "gradient_size", "error", "gradient is 0 at every input"),
    "temperature multiplied": Careless(
        lambda logits, labels: cross_entropy(4.0 * logits, labels),
        "meaning",
        "warning",
        r"softmax\(4 \* logits\)",
    ),
    "a second sign": Careless(second_sign_missing, "meaning", "error", "likeliest class is not", "yes_no"),
    "softmax over the batch": Careless(
        softmax_over_the_batch, "reductions", "error", "normalises each class", twin=weighted_mean
    ),
    "epsilon of float16": Careless(epsilon_of_float16, "finite", "error", "not finite", dtypes=("float16",)),
    "ranked in reverse": Careless(
        ranked_in_reverse, "meaning", "error", "likeliest class is not|without bound", "pairs"
    ),
    "weights added": Careless(
        weights_of_classes_added, "meaning", "warning", r"classes weighted \[2.9, 0.36, 0.36, 0.36\]"
    ),
    "ratio of scores": Careless(ratio_of_scores, "finite", "error", "value is NaN", "pairs"),
    "softplus by hand": Careless(softplus_by_hand, "finite", "error", "not finite", "yes_no"),
    "a step in the penalty": Careless(
        penalty_with_a_step, "kinks", "error", "the value jumps", "real", twin=l1_loss
    ),
    "cosine to the one-hot": Careless(cosine_to_one_hot, "invariances", "warning", "a free scale"),
}


def finding_of(name: str, findings: Sequence[Finding]) -> Finding | None:
    """The finding that names the loss's fault, if it is among these."""
    own = CARELESS[name]
    of_check = (f for f in findings if (f.check, f.severity) == (own.check, own.severity))
    return next((f for f in of_check if re.search(own.finding, f.message)), None)
