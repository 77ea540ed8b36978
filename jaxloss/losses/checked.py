"""Losses that raise on a label, length or log-probability out of range, instead of returning NaN."""

import functools
from collections.abc import Callable

from jaxloss._checked import checks_values

__all__ = ["make_checked"]


def make_checked(loss: Callable) -> Callable:
    r"""Make a loss on labels raise when a label is no class, naming the label and where it stands.

    Compiled code cannot raise, so a loss answers a label outside `[0, C)` with NaN. The checked loss raises
    at once when called eagerly (under `jax.grad` and `jax.vmap` too). Under `jax.jit` or `jax.shard_map`, the
    whole function must be wrapped: `error, value = jax.jit(jax.experimental.checkify.checkify(step))(...)`,
    then `error.throw()`.

    Args:
        loss: any loss of this package, or a function of one's own that calls some: each checks the labels,
            groups and lengths that it looks at, with its own `axis`, `ignore_index` and `where`.

    Returns:
        A function with the signature and results of `loss`. It raises a `ValueError` if a label is out of
        range; or, where `checkify` is lacking, with JAX's own advice to add it.

    Differs from torch: torch raises on the CPU, without the place, and aborts the process's CUDA context on a
    GPU.

    Reference: the "checkify" guide of JAX's documentation.

    >>> import jax.numpy as jnp
    >>> from jaxloss.losses import cross_entropy
    >>> make_checked(cross_entropy)(jnp.zeros((2, 10)), jnp.array([3, 10]))
    Traceback (most recent call last):
    ...
    jax._src.checkify.JaxRuntimeError: target[1] is 10, outside [0, 10); 1 of 2 labels are. (`check` failed)
    """

    return _Checked(loss)


class _Checked:
    """A class, since a function that has taken another's name cannot be pickled."""

    def __init__(self, loss: Callable):
        functools.update_wrapper(self, loss)
        self._loss = loss

    def __call__(self, *args, **kwargs):
        with checks_values(True):
            return self._loss(*args, **kwargs)

    def __reduce__(self):
        return make_checked, (self._loss,)
