"""Losses that raise on a label or length out of range, instead of returning NaN."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify

from jaxloss import _checks

__all__ = ["make_checked"]

# Their targets are signs or numbers, of any dtype; there is no label to be out of range.
_WITHOUT_LABELS = (
    "cosine_embedding_loss",
    "hinge_embedding_loss",
    "margin_ranking_loss",
    "multilabel_soft_margin_loss",
    "soft_margin_loss",
)
_OF_LAST_POSITION = ("final_token_loss", "linear_final_token_loss")


def make_checked(loss: Callable) -> Callable:
    r"""Make a loss on labels raise when a label is no class, naming the label and where it stands.

    Compiled code cannot raise, so a loss answers a label outside `[0, C)` with NaN. The checked loss raises
    at once when called eagerly (under `jax.grad` and `jax.vmap` too). Under `jax.jit`, the compiled function
    must be wrapped: `error, value = jax.jit(jax.experimental.checkify.checkify(step))(...)`, then
    `error.throw()`.

    Args:
        loss: any loss of this package on labels or groups, `ctc_loss` and its lengths included; or a function
            of one's own whose first argument is logits and which has an argument `target`. Its `axis`,
            `ignore_index` and `where` are respected, if it has them; floating-point targets, and those of
            the losses on signs, are passed on unchecked.

    Returns:
        A function with the signature and results of `loss`.

    Raises:
        TypeError: `loss` has no argument `target`, `targets` or `group`.
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
    parameters, name = list(signature.parameters), _name(loss)
    check: Callable[[dict[str, Any]], None]
    if {"log_probs", "targets", "input_lengths", "target_lengths"} <= {*parameters}:
        check = _check_sequences
    elif {"group", "num_groups"} <= {*parameters}:
        check = _check_groups
    elif "target" in parameters:
        check = functools.partial(_check_target, logits_name=parameters[0], loss_name=name)
    else:
        raise TypeError(
            f"loss must have an argument target, or those of ctc_loss or group_gap_penalty; {name or loss} "
            f"has {signature}."
        )

    @functools.wraps(loss)
    def checked(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = dict(bound.arguments)
        for parameter in signature.parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                arguments |= arguments.pop(parameter.name)
        check(arguments)
        return loss(*args, **kwargs)

    return checked


def _name(loss: Callable) -> str:
    while isinstance(loss, functools.partial):
        loss = loss.func
    return getattr(loss, "__name__", "")


def _check_target(arguments: dict[str, Any], logits_name: str, loss_name: str) -> None:
    target = arguments["target"]
    if target is None or _checks.has_dtype(target, jnp.floating) or loss_name in _WITHOUT_LABELS:
        return
    labels = _checks.as_labels("target", target)
    ignore_index = arguments.get("ignore_index")
    if "linear_weight" in arguments:
        num_classes = _checks.as_floats("linear_weight", arguments["linear_weight"]).shape[0]
        ignore_index = -100 if ignore_index is None else ignore_index
    else:
        logits = _checks.as_floats(logits_name, arguments[logits_name])
        axis = _checks.class_axis(logits, arguments.get("axis", -1)) if logits.ndim else 0
        # The losses on margins take a scalar for one class, as torch does.
        num_classes = logits.shape[axis] if logits.ndim else 1
    # -1 ends a row of several labels.
    lowest = -1 if loss_name == "multilabel_margin_loss" else 0
    is_wrong = (labels < lowest) | (labels >= num_classes)
    if ignore_index is not None:
        is_wrong &= _checks.not_ignored(target, _checks.check_integer("ignore_index", ignore_index))
    if loss_name in _OF_LAST_POSITION and labels.ndim:
        is_wrong &= jnp.arange(labels.shape[-1]) == labels.shape[-1] - 1
    is_wrong = _where_taking_part(is_wrong, arguments.get("where"), "that of target")
    _check("target", target, is_wrong, f"[{lowest}, {num_classes})", "labels")


def _check_groups(arguments: dict[str, Any]) -> None:
    group, num_groups = arguments["group"], _checks.check_integer("num_groups", arguments["num_groups"])
    groups = _checks.as_labels("group", group)
    is_wrong = (groups < 0) | (groups >= num_groups)
    ignore_index = _checks.check_integer("ignore_index", arguments.get("ignore_index", -100))
    is_wrong &= _checks.not_ignored(group, ignore_index)
    is_wrong = _where_taking_part(is_wrong, arguments.get("where"), "that of group")
    _check("group", group, is_wrong, f"[0, {num_groups})", "groups")


def _check_sequences(arguments: dict[str, Any]) -> None:
    """Lengths first, since they say which labels there are."""
    log_probs = _checks.as_floats("log_probs", arguments["log_probs"])
    if log_probs.ndim not in (2, 3):
        return  # The loss will say what is wrong.
    num_frames, num_classes = log_probs.shape[0], log_probs.shape[-1]
    num_sequences = log_probs.shape[1] if log_probs.ndim == 3 else 1
    targets = arguments["targets"]
    labels = _checks.as_labels("targets", targets)
    # A row of all labels of all sequences one after the other, in which lengths say where each begins.
    in_one_row = labels.ndim == 1 and log_probs.ndim == 3
    where = arguments.get("where")
    most = labels.size if in_one_row else labels.shape[-1] if labels.ndim else 0
    for name, longest in (("input_lengths", num_frames), ("target_lengths", most)):
        value = arguments[name]
        value = np.asarray(value) if isinstance(value, (tuple, list)) else value
        lengths = _checks.as_labels(name, value)
        if lengths.size != num_sequences:
            return
        is_wrong = _where_taking_part((lengths < 0) | (lengths > longest), where, f"that of {name}")
        _check(name, value, is_wrong, f"[0, {longest}]", "lengths")

    length_N = lengths.reshape(num_sequences)
    is_wrong = (labels < 0) | (labels >= num_classes)
    if in_one_row:
        ends_N = jnp.cumsum(length_N)
        too_long = _where_taking_part(ends_N > labels.size, where, "that of target_lengths")
        _check("target_lengths", length_N, too_long, f"what is left of {labels.size} targets", "lengths")
        owner = jnp.searchsorted(ends_N, jnp.arange(labels.size), side="right")
        is_wrong &= owner < num_sequences
        if where is not None:
            is_wrong &= jnp.asarray(where)[jnp.minimum(owner, num_sequences - 1)]
    elif labels.shape[:-1] in ((num_sequences,), ()):
        is_wrong &= jnp.arange(most) < length_N.reshape((*labels.shape[:-1], 1))
        is_wrong = _where_taking_part(is_wrong, where, "one value for each sequence")
    _check("targets", targets, is_wrong, f"[0, {num_classes})", "labels")


def _where_taking_part(is_wrong: jax.Array, where, of: str) -> jax.Array:
    """Also of rows: `where` may lack the last axes."""
    if where is None:
        return is_wrong
    where = _checks.as_mask("where", where, is_wrong.shape[: jnp.ndim(where)], of)
    return is_wrong & jnp.reshape(where, where.shape + (1,) * (is_wrong.ndim - where.ndim))


def _check(name: str, given, is_wrong: jax.Array, interval: str, what: str) -> None:
    """Raise, naming the first of the `given` integers that is wrong."""
    if is_wrong.size == 0:
        return
    first = jnp.argmax(is_wrong.ravel())
    place = [f"{{index_{i}}}" for i in range(is_wrong.ndim)]
    place_text = f"[{', '.join(place)}]" if place else ""
    values: dict[str, Any] = {
        f"index_{i}": index for i, index in enumerate(jnp.unravel_index(first, is_wrong.shape))
    }
    integers, value = _checks.unwrapped(given), "{value}"
    if isinstance(integers, np.ndarray) and not isinstance(is_wrong, jax.core.Tracer):
        # As it was given; it may be more than JAX can hold.
        value = str(integers.ravel()[int(first)])
    checkify.check(
        ~jnp.any(is_wrong),
        f"{name}{place_text} is {value}, outside {interval}; {{num_wrong}} of {is_wrong.size} {what} are.",
        value=_checks.as_labels(name, given).ravel()[first],
        num_wrong=jnp.sum(is_wrong),
        **values,
    )
