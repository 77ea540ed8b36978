"""How far cross entropy in float32 is from 50 digits: jaxloss, torch and optax side by side, in Markdown.

    python benchmarks/accuracy.py

Errors are the worst elementwise distance, in units of the last place; "exact 0" counts losses that come out
as 0 and are not. Takes about 20 seconds.
"""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import torch

from jaxloss.losses import cross_entropy

NUM_ROWS, NUM_CLASSES = 32, 37
RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, NUM_CLASSES, NUM_ROWS)
NOISE = RANDOM.standard_normal((NUM_ROWS, NUM_CLASSES))
IS_LABEL = np.arange(NUM_CLASSES) == LABELS[:, None]
LEVEL = NOISE + IS_LABEL * (NOISE.max(1, keepdims=True) - NOISE)  # the label's logit equals the largest


def lead(low: float, high: float) -> np.ndarray:
    """What to add so that the label leads by `low` in the first row and by `high` in the last."""
    return IS_LABEL * np.linspace(low, high, NUM_ROWS)[:, None]


LOGITS = {
    "near-uniform": NOISE * 0.02,
    "leading by up to 4": LEVEL + lead(0, 4),
    "confident, by 5 to 80": LEVEL + lead(5, 80),
    "deep, by 80 to 90": NOISE * 0.1 + lead(80, 90),
    "confidently wrong": NOISE - lead(5, 80),
    "saturated": NOISE * 1e4,
    "huge": NOISE * 1e30,
    "offset by 1,000": NOISE + 1000,
    "tied": np.where(IS_LABEL, 2, RANDOM.integers(0, 3, NOISE.shape)),
}


def in_jax(loss, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    value, pullback = jax.vjp(loss, jnp.asarray(logits))
    return np.asarray(value), np.asarray(pullback(jnp.ones_like(value))[0])


def in_torch(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = torch.tensor(logits, requires_grad=True)
    value = torch.nn.functional.cross_entropy(x, torch.tensor(LABELS), reduction="none")
    value.sum().backward()
    return value.detach().numpy(), x.grad.numpy()


def exactly(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Losses and their gradients in 50 digits, of which the sums over the other classes keep enough."""
    powers = np.vectorize(lambda z: mpmath.exp(mpmath.mpf(float(z))), otypes=[object])(
        logits - logits.max(1, keepdims=True)
    )
    others, labelled = (powers * ~IS_LABEL).sum(1), powers[IS_LABEL]
    value = np.array([mpmath.log1p(a / b) for a, b in zip(others, labelled, strict=True)])
    totals = powers.sum(1)[:, None]
    return value, np.where(IS_LABEL, -others[:, None], powers) / totals


def in_ulp(actual: np.ndarray, truth: np.ndarray) -> float:
    """The worst distance in float32's units in the last place; XLA may flush what is not a normal number."""
    tiny = np.finfo(np.float32).tiny
    gap = np.abs(actual.astype(object) - truth).astype(np.float64)
    unit = np.spacing(np.maximum(np.abs(truth.astype(np.float32)), tiny))
    is_normal = np.maximum(np.abs(actual), np.abs(truth.astype(np.float64))) >= tiny
    return float((gap / unit)[is_normal].max(initial=0))


def main() -> None:
    mpmath.mp.dps = 50
    labels = jnp.asarray(LABELS)
    contenders = {
        "jaxloss": lambda z: in_jax(lambda x: cross_entropy(x, labels, reduction="none"), z),
        "torch": in_torch,
        "optax": lambda z: in_jax(
            lambda x: optax.losses.softmax_cross_entropy_with_integer_labels(x, labels), z
        ),
    }
    print("| logits | library | value, ULP | gradient, ULP | exact 0 |")
    print("| --- | --- | ---: | ---: | ---: |")
    for kind, logits in LOGITS.items():
        logits = logits.astype(np.float32)
        truth, gradient_truth = exactly(logits.astype(np.float64))
        for name, run in contenders.items():
            value, gradient = run(logits)
            errors = in_ulp(value, truth), in_ulp(gradient, gradient_truth)
            zeros = sum(v == 0 and t > 1e-37 for v, t in zip(value, truth, strict=True))
            print(f"| {kind} | {name} | {errors[0]:.2g} | {errors[1]:.2g} | {zeros} of {len(value)} |")


if __name__ == "__main__":
    main()
