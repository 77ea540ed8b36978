"""The optimizer, with every setting spelled out."""

import optax


def make_optimizer(
    learning_rate: optax.ScalarOrSchedule = 1e-3, weight_decay: float = 0.01
) -> optax.GradientTransformation:
    """AdamW with PyTorch's defaults: optax's own weight decay would be 1e-4, a hundredth of torch's 0.01.

    Args:
        learning_rate: step size, or one of optax's schedules.
        weight_decay: decoupled, times the learning rate, on every parameter.

    Returns:
        The transformation that `init_state` takes.
    """
    return optax.adamw(learning_rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=weight_decay)
