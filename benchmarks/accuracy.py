"""How far cross entropy in float32 is from 50 digits: jaxloss, torch and optax side by side, in Markdown.

    python benchmarks/accuracy.py

Errors are the worst elementwise distance, in units of the last place; "exact 0" counts losses that come out
as 0 and are not. The inputs and the truth are those of parity_tests/losses/test_accuracy.py. Takes about 20
seconds.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from jaxloss.losses import cross_entropy
from parity_tests.losses import oracle, test_accuracy


def in_jax(loss, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    value, pullback = jax.vjp(loss, jnp.asarray(logits))
    return np.asarray(value), np.asarray(pullback(jnp.ones_like(value))[0])


def in_torch(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = torch.tensor(logits, requires_grad=True)
    value = torch.nn.functional.cross_entropy(x, torch.tensor(test_accuracy.LABELS), reduction="none")
    value.sum().backward()
    return value.detach().numpy(), x.grad.numpy()


def main() -> None:
    labels = jnp.asarray(test_accuracy.LABELS)
    contenders = {
        "jaxloss": lambda z: in_jax(lambda x: cross_entropy(x, labels, reduction="none"), z),
        "torch": in_torch,
        "optax": lambda z: in_jax(
            lambda x: optax.losses.softmax_cross_entropy_with_integer_labels(x, labels), z
        ),
    }
    print("| logits | library | value, ULP | gradient, ULP | exact 0 |")
    print("| --- | --- | ---: | ---: | ---: |")
    for kind in test_accuracy.KINDS:
        logits = test_accuracy.rows(kind)
        truth, gradient_truth = oracle.cross_entropy(logits, test_accuracy.LABELS)
        for name, run in contenders.items():
            value, gradient = run(logits)
            errors = [
                oracle.error_in_ulp(value, truth).max(),
                oracle.error_in_ulp(gradient, gradient_truth).max(),
            ]
            zeros = sum(v == 0 and t > 1e-37 for v, t in zip(value, truth, strict=True))
            print(f"| {kind} | {name} | {errors[0]:.2g} | {errors[1]:.2g} | {zeros} of {len(value)} |")


if __name__ == "__main__":
    main()
