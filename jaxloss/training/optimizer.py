"""The optimizer, with every setting spelled out."""

import functools
from typing import Any, Literal

import jax
import optax

Decay = Literal["all", "kernels"]


def make_optimizer(
    learning_rate: optax.ScalarOrSchedule = 1e-3, weight_decay: float = 0.01, *, decay: Decay = "all"
) -> optax.GradientTransformation:
    """AdamW with PyTorch's defaults: optax's own weight decay would be 1e-4, a hundredth of torch's 0.01.

    Args:
        learning_rate: step size, or one of optax's schedules.
        weight_decay: decoupled, times the learning rate.
        decay: which parameters decay: "all", or "kernels", those with two axes or more that are no embedding.

    Returns:
        The transformation that `init_state` takes; the same one for the same numbers, so that the states of
        several runs share a compiled step.
    """
    try:
        return _adamw(learning_rate, weight_decay, decay)
    except TypeError:  # an array, which has no hash
        return _adamw.__wrapped__(learning_rate, weight_decay, decay)


@functools.lru_cache
def _adamw(
    learning_rate: optax.ScalarOrSchedule, weight_decay: float, decay: Decay
) -> optax.GradientTransformation:
    mask = _are_kernels if decay == "kernels" else None
    return optax.adamw(learning_rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=weight_decay, mask=mask)


def _are_kernels(params: Any) -> Any:
    def is_kernel(path: tuple[Any, ...], leaf: jax.Array) -> bool:
        return leaf.ndim > 1 and "embedding" not in jax.tree_util.keystr(path[-1:])

    return jax.tree.map_with_path(is_kernel, params)
