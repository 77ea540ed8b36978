"""Thirty careless losses, each with the check that must find it and what that must say.

Ten of them are those of experiments/check_a_loss.py. N examples, C classes.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxloss import cross_entropy
from jaxloss.doctor import Finding
from parity_tests.scripts import load


class Careless(NamedTuple):
    """A loss that people write, and what the doctor must say.

    `finding` is looked for in the messages of the errors and warnings of `check`; it is a regular expression.
    """

    loss: Callable[..., jax.Array]
    check: str
    finding: str
    kind: str = "classes"
    dtypes: tuple[str, ...] = ("float32",)


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


def _of_the_experiment() -> dict[str, Careless]:
    """The check and finding of each of the ten."""
    found = {
        "softmax, then log": ("finite", r"NaN|infinite|not finite"),
        "1 - p": ("gradient_size", "less than .* of the usual gradient"),
        "a sign": ("meaning", "falls without bound|the likeliest class is not"),
        "softmax twice": ("meaning", "only the likeliest class"),
        "labels shifted by one": ("meaning", "the likeliest class is not"),
        "mask by product": ("reductions", "NaN in a masked row"),
        "a sum": ("reductions", "a sum over the examples"),
        "root of the square": ("finite", "gradient is NaN even in float64"),
        "[N, 1] against [N]": ("reductions", "needs the whole batch"),
        "exp of the square": ("gradient_size", "explodes"),
    }
    cases = load("check_a_loss").CASES
    return {name: Careless(cases[name].loss, *how, kind=cases[name].kind) for name, how in found.items()}


CARELESS = _of_the_experiment() | {
    "mean of means": Careless(mean_of_means, "reductions", "needs the whole batch"),
    "where after log": Careless(where_after_log, "finite", "not finite|NaN|infinite", "yes_no"),
    "cotangent dropped": Careless(cotangent_dropped, "gradient", "cotangent", "real"),
    "arguments swapped": Careless(arguments_swapped, "meaning", "only the likeliest class"),
    "integer division": Careless(integer_division, "gradient_size", "gradient is 0 at every input"),
    "bfloat16 inside": Careless(in_bfloat16, "finite", "computes in bfloat16"),
    "log(p + 0.01)": Careless(log_of_much_more, "meaning", "1.04 times as far from even"),
    "clip of p": Careless(clipped, "gradient_size", "less than .* of the usual gradient"),
    "wrong operand stopped": Careless(wrong_operand_stopped, "gradient", "not the value's derivative"),
    "argmax inside": Careless(argmax_inside, "gradient_size", "gradient is 0 at every input"),
    "temperature multiplied": Careless(
        lambda logits, labels: cross_entropy(4.0 * logits, labels), "meaning", r"softmax\(4 \* logits\)"
    ),
    "a second sign": Careless(
        second_sign_missing, "meaning", "likeliest class is not|without bound", "yes_no"
    ),
    "softmax over the batch": Careless(softmax_over_the_batch, "reductions", "needs the whole batch"),
    "epsilon of float16": Careless(epsilon_of_float16, "finite", "not finite", dtypes=("float16",)),
    "ranked in reverse": Careless(ranked_in_reverse, "trains", "at no learning rate", "pairs"),
    "weights added": Careless(
        weights_of_classes_added, "meaning", r"classes weighted \[2.9, 0.36, 0.36, 0.36\]"
    ),
    "ratio of scores": Careless(ratio_of_scores, "finite", "NaN", "pairs"),
    "softplus by hand": Careless(softplus_by_hand, "finite", "not finite", "yes_no"),
    "a step in the penalty": Careless(penalty_with_a_step, "kinks", "the value jumps", "real"),
    "cosine to the one-hot": Careless(cosine_to_one_hot, "invariances", "a free scale"),
}


def finding_of(name: str, findings: Sequence[Finding]) -> Finding | None:
    """The error or warning that the loss must have, if it is among these."""
    careless = CARELESS[name]
    of_check = (f for f in findings if f.check == careless.check and f.severity != "note")
    return next((f for f in of_check if re.search(careless.finding, f.message)), None)
