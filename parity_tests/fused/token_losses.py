"""Twelve losses of a token's logits, and what each is called with as a loss of hidden states and head.

`python -m parity_tests.fused.token_losses` prints the temporary memory of each, compiled and not run.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxloss import losses
from jaxloss.fused import make_linear_loss

NUM_TOKENS, WIDTH, CLASSES = 14, 4, 10
RNG = np.random.default_rng(0)
WHERE = RNG.random(NUM_TOKENS) > 0.3
HEAD = {
    "input": RNG.standard_normal((NUM_TOKENS, WIDTH)),
    "linear_weight": RNG.standard_normal((CLASSES, WIDTH)),
    "linear_bias": RNG.standard_normal(CLASSES),
    "logit_scale": np.array(0.8),
    "logit_softcap": np.array(5.0),
    "sample_weight": RNG.uniform(0.5, 2.0, NUM_TOKENS),
}
LABELS = RNG.integers(0, CLASSES, NUM_TOKENS)
TEACHER = RNG.standard_normal((NUM_TOKENS, CLASSES))
ADVANTAGES = RNG.standard_normal(NUM_TOKENS)
OLD_LOG_PROBS = RNG.uniform(-3.0, -2.0, NUM_TOKENS)
BEST = np.argsort(TEACHER, 1)[:, -3:]
CHUNKED = {"implementation": "chunked", "chunk_size": 4}


def log_prob(logits, labels):
    return jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)[:, 0]


def kl(logits, teacher):
    log_p, log_q = jax.nn.log_softmax(teacher), jax.nn.log_softmax(logits)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), 1)


def entropy(logits):
    log_p = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(log_p) * log_p, 1)


def policy(logits, action, old, advantage, *, clip=0.2, temperature=1.0):
    ratio = jnp.exp(log_prob(logits / temperature, action) - old)
    clipped = jnp.clip(ratio, 1 - clip, 1 + clip)
    statistics = {"is_clipped": ratio != clipped, "best": lax.top_k(logits, 2)[1]}
    return -jnp.minimum(ratio * advantage, clipped * advantage), statistics


def of_a_table(logits, scores, *, table):
    # No zeros: neither logits nor scores of 0 have a finite derivative.
    direction = logits / jnp.sqrt(jnp.sum(jnp.square(logits), 1, keepdims=True))
    return jnp.sum((direction @ table) ** 2, 1) * jnp.log(jnp.abs(scores))


def unreduced(loss, **options):
    return partial(loss, reduction="none", **options)


# (the function, its tokens' arrays, its options)
LOSSES = {
    "cross entropy": (unreduced(losses.cross_entropy), [LABELS], {"label_smoothing": np.array(0.1)}),
    "focal": (unreduced(losses.focal_loss), [LABELS], {"gamma": np.array(1.5)}),
    "poly": (unreduced(losses.poly_loss), [LABELS], {"weight": RNG.uniform(0.5, 2.0, CLASSES)}),
    "KL": (kl, [TEACHER], {}),
    "Jensen-Shannon": (unreduced(losses.jensen_shannon_div), [TEACHER], {"beta": np.array(0.3)}),
    "entropy": (unreduced(losses.entropy_loss), [], {}),
    "unlikelihood": (unreduced(losses.unlikelihood_loss), [BEST], {}),
    "z-loss": (unreduced(losses.z_loss), [], {}),
    "margin": (unreduced(losses.multi_margin_loss), [LABELS], {"margin": np.array(0.7)}),
    "top-k KL": (
        unreduced(losses.top_k_distillation_loss), [np.sort(TEACHER, 1)[:, -3:] - 5.0, BEST], {},
    ),
    "policy gradient": (
        policy, [LABELS, OLD_LOG_PROBS, ADVANTAGES], {"temperature": np.array(1.3), "clip": np.array(0.2)},
    ),
    "one's own": (of_a_table, [ADVANTAGES], {"table": RNG.standard_normal((CLASSES, 2))}),
}  # fmt: skip


def problem(name, kept=slice(None), hole=None):
    """The floating-point operands by name, the integers, and a function of both that calls a loss of them."""
    _, arrays, options = LOSSES[name]
    operands = HEAD | {f"array {i}": a for i, a in enumerate(arrays)} | options
    of_tokens = {"input", "sample_weight", *(f"array {i}" for i in range(len(arrays)))}
    operands = {k: jnp.asarray(a[kept] if k in of_tokens else a) for k, a in operands.items()}
    if hole is not None:
        # What a token holds that takes no part: NaN, infinity, no class.
        holes = {
            k: (a[:, None] if operands[k].ndim > 1 else a) for k, a in {k: ~WHERE for k in of_tokens}.items()
        }
        bad = {k: 10**6 if jnp.issubdtype(operands[k].dtype, jnp.integer) else hole for k in of_tokens}
        operands |= {k: jnp.where(holes[k], bad[k], operands[k]) for k in of_tokens}
    floats = {k: a for k, a in operands.items() if jnp.issubdtype(a.dtype, jnp.floating)}
    return floats, {k: a for k, a in operands.items() if k not in floats}


def called(loss, operands, **how):
    """`loss`, of operands by name."""
    arrays = [operands[k] for k in sorted(operands) if k.startswith("array")]
    named = {k: a for k, a in operands.items() if not k.startswith("array")}
    result = loss(named.pop("input"), named.pop("linear_weight"), *arrays, **named, **how)
    return result if isinstance(result, tuple) and isinstance(result[1], dict) else (result, None)


def whole(fn):
    """What `make_linear_loss(fn)` is to equal, without masks."""

    def loss(
        input,
        linear_weight,
        *arrays,
        linear_bias,
        logit_scale,
        logit_softcap,
        sample_weight,
        reduction,
        **options,
    ):
        logits = (input @ linear_weight.T + linear_bias[None]) * logit_scale
        result = fn(logit_softcap * jnp.tanh(logits / logit_softcap), *arrays, **options)
        values, statistics = result if isinstance(result, tuple) else (result, {})
        total, count = jnp.sum(values * sample_weight), jnp.sum(sample_weight)
        reduced = {
            "none": values * sample_weight,
            "sum": total,
            "mean": total / count,
            "parts": (total, count),
        }
        return reduced[reduction], statistics

    return loss


def derivatives(loss, floats, others, cotangents, **how):
    """For each reduction the value, and the gradients of all operands for a cotangent of either sign."""
    results = {}
    for reduction, cotangent in cotangents.items():
        value, pull_back = jax.vjp(
            lambda f, r=reduction: called(loss, f | others, reduction=r, **how)[0], floats
        )
        results[reduction] = value, pull_back(cotangent)[0]
    return results


def temporary_memory(name, num_tokens=4096, width=768, vocabulary=50257):
    """Of value and gradients by hidden states and head, by default settings, as a share of whole logits."""
    sizes = {NUM_TOKENS: num_tokens, CLASSES: vocabulary}
    fn, arrays, options = LOSSES[name]

    def of_size(array):
        dtype = jnp.int32 if jnp.issubdtype(array.dtype, jnp.integer) else jnp.float32
        return jax.ShapeDtypeStruct([sizes.get(size, size) for size in array.shape], dtype)

    def step(head, arrays, options):
        result = make_linear_loss(fn)(*head, *arrays, **options)
        return result[0] if isinstance(result, tuple) else result

    head = [jax.ShapeDtypeStruct((n, width), jnp.float32) for n in (num_tokens, vocabulary)]
    program = jax.jit(jax.value_and_grad(step)).lower(head, *jax.tree.map(of_size, (arrays, options)))
    return program.compile().memory_analysis().temp_size_in_bytes / (4 * num_tokens * vocabulary)


OPERANDS, INTEGERS = problem("policy gradient")
POLICY = make_linear_loss(policy)


def total(operands, loss=POLICY, reduction="none", **how):
    """A number, of losses weighed by numbers of either sign."""
    value, _ = called(loss, INTEGERS | operands, reduction=reduction, **(CHUNKED | {"where": WHERE} | how))
    return jnp.vdot(value, jnp.linspace(-1.0, 2.0, value.size).reshape(value.shape))


if __name__ == "__main__":
    for name in LOSSES:
        print(f"| {name} | {temporary_memory(name):.1%} |", flush=True)
