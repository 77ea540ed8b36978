"""Losses that raise on a label out of range, instead of returning NaN."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import checkify

from jaxloss import _checks, _rows

__all__ = ["make_checked"]


def make_checked(loss: Callable) -> Callable:
    r"""Make a loss on labels raise when a label is no class, naming the label and where it stands.

    Compiled code cannot raise, so a loss answers a label outside `[0, C)` with NaN. The checked loss raises
    at once when called eagerly (under `jax.grad` and `jax.vmap` too). Under `jax.jit`, the compiled function
    must be wrapped: `error, value = jax.jit(jax.experimental.checkify.checkify(step))(...)`, then
    `error.throw()`.

    Args:
        loss: a function whose first argument is logits and which has an argument `target`, such as
            `cross_entropy`, `next_token_loss` or one's own. Its `axis`, `ignore_index` and `where` are
            respected, if it has them; floating-point targets are passed on unchecked.

    Returns:
        A function with the signature and results of `loss`.

    Raises:
        TypeError: `loss` has no argument `target`.
        ValueError: (when called) a label is out of range; or, under `jit` without `checkify`, jax's own
            advice to add it.

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
    signature = inspect.signature(loss)
    if "target" not in signature.parameters:
        raise TypeError(
            f"loss must have an argument target; {getattr(loss, '__name__', loss)} has {signature}."
        )
    logits_name = next(iter(signature.parameters))

    @functools.wraps(loss)
    def checked(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = bound.arguments
        target = arguments["target"]
        if target is not None and not jnp.issubdtype(getattr(target, "dtype", int), jnp.floating):
            _check_labels(
                _checks.as_floats(logits_name, arguments[logits_name]),
                _checks.as_labels("target", target),
                arguments.get("ignore_index"),
                arguments.get("where"),
                arguments.get("axis", -1),
            )
        return loss(*args, **kwargs)

    return checked


def _check_labels(logits: jax.Array, labels: jax.Array, ignore_index: int | None, where, axis: int) -> None:
    num_classes = logits.shape[_checks.class_axis(logits, axis)]
    is_wrong = (labels < 0) | (labels >= num_classes)
    if ignore_index is not None:
        is_wrong &= _rows.not_ignored(labels, _checks.check_integer("ignore_index", ignore_index))
    if where is not None:
        where = _checks.as_mask("where", where, labels.shape[: jnp.ndim(where)], "that of target")
        is_wrong &= jnp.reshape(where, where.shape + (1,) * (labels.ndim - where.ndim))
    if labels.size == 0:
        return
    first = jnp.argmax(is_wrong.ravel())
    place = [f"{{index_{i}}}" for i in range(labels.ndim)]
    values: dict[str, Any] = {
        f"index_{i}": index for i, index in enumerate(jnp.unravel_index(first, labels.shape))
    }
    checkify.check(
        ~jnp.any(is_wrong),
        f"target[{', '.join(place)}] is {{label}}, outside [0, {num_classes}); "
        f"{{num_wrong}} of {labels.size} labels are.",
        label=labels.ravel()[first],
        num_wrong=jnp.sum(is_wrong),
        **values,
    )
