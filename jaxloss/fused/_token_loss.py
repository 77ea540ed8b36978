"""A token's loss from a linear head's product: all that differs between the losses of a head.

Shapes: N tokens, or the C of a chunk, D width, V vocabulary (a device's slice of it, where devices share it).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxloss import _checks
from jaxloss._mesh import varying_axes
from jaxloss._reduction import compute_dtype
from jaxloss.fused._program import Program

Arrays = dict[str, Any]

_HEAD = ("linear_weight", "linear_bias", "logit_scale", "logit_softcap")
_ALWAYS = ("input", "valid", "factor")


@dataclass(frozen=True)
class TokenLoss:
    """What `make_linear_loss` was given, and how one call uses it: all that a compiled program depends on.

    Attributes:
        fn: from logits [C, V], the tokens' arrays [C, ...] and keywords to losses [C], or losses and
            statistics.
        splits_classes: `fn` takes `axis_name`, and may have its vocabulary split; if not, the head is
            gathered.
        axis_name: the mesh axis that the vocabulary is split over, if any.
        closes_over_nothing: `fn` alone says what it does, so that programs can be kept by it.
        is_frugal: one array of the logits' size is alive at once, so that chunks may be larger.
    """

    fn: Callable
    splits_classes: bool = False
    axis_name: str | None = None
    closes_over_nothing: bool = False
    is_frugal: bool = False

    @property
    def name(self) -> str:
        """How messages call the function."""
        return getattr(self.fn, "__qualname__", None) or repr(self.fn)


def token_losses(loss: TokenLoss, shared: Arrays, rows: Arrays) -> tuple[jax.Array, Any]:
    """Each token's loss, 0 for tokens that are not valid, and the statistics, with the logits whole.

    `shared` holds "linear_weight" [V, D], the rest of the head if given, the function's keywords by name, and
    what it closes over, numbered. `rows` holds "input" [N, D], "factor" [N], which is in the dtype of the
    computation, "valid" [N], and the function's arrays [N, ...], numbered.
    """
    rows = filled(rows, stand_in(rows))
    return losses_of_product(loss, product(rows["input"], shared["linear_weight"], 1, 1), shared, rows)


def stand_in(rows: Arrays) -> Arrays:
    """The first valid token; zeros if there is none.

    The loss is evaluated on it in place of tokens that are not valid. What is finite on zeros is not known of
    a function, and 0 times the derivative of an infinite loss is NaN.
    """
    own = {k: lax.stop_gradient(a) for k, a in rows.items() if k not in _ALWAYS[1:]}
    num_tokens = rows["valid"].shape[0]
    if num_tokens == 0:
        return {k: jnp.zeros(a.shape[1:], a.dtype) for k, a in own.items()}
    # Neither `argmax` nor a slice at an index, for which the tokens of a sharded batch would be gathered.
    first = jnp.min(jnp.where(rows["valid"], jnp.arange(num_tokens), num_tokens), keepdims=True)
    found = {k: a.at[first].get(mode="clip")[0] for k, a in own.items()}
    return {k: jnp.where(first[0] < num_tokens, a, jnp.zeros((), a.dtype)) for k, a in found.items()}


def filled(rows: Arrays, stand_in: Arrays) -> Arrays:
    """The rows, with the stand-in's operands for those of tokens that are not valid."""
    return rows | {k: kept(rows["valid"], rows[k], a) for k, a in stand_in.items()}


def kept(valid: jax.Array, rows: jax.Array, other: jax.Array | float = 0) -> jax.Array:
    """Rows [N, ...] where tokens are valid, `other` [...] elsewhere."""
    mask = valid.reshape(valid.shape + (1,) * (rows.ndim - valid.ndim))
    return jnp.where(mask, rows, jnp.asarray(other, rows.dtype))


def losses_of_product(loss: TokenLoss, product_NV: jax.Array, shared: Arrays, rows: Arrays):
    """`token_losses`, given the product and filled rows."""
    # What is not finite on the stand-in has no gradient either: of its logits, nor of what the tokens share.
    product_NV = kept(rows["valid"], product_NV, lax.stop_gradient(product_NV))
    shared = _without_gradient_unless(jnp.any(rows["valid"]), shared)
    logits = logits_of(product_NV.astype(rows["factor"].dtype), shared)
    losses, statistics = values_of(loss, logits, shared, rows)
    losses = kept(rows["valid"], losses.astype(logits.dtype))
    return losses, jax.tree.map(lambda a: kept(rows["valid"], lax.stop_gradient(a)), statistics)


def _without_gradient_unless(is_wanted: jax.Array, operands: Arrays) -> Arrays:
    def is_differentiated(name: str, array: jax.Array) -> bool:
        # What is closed over keeps its type, and has no gradient where the devices share it.
        keeps_type = not name.isdigit() or varying_axes(is_wanted) <= varying_axes(array)
        return keeps_type and bool(jnp.issubdtype(array.dtype, jnp.floating))

    return {
        name: jnp.where(is_wanted, array, lax.stop_gradient(array))
        if is_differentiated(name, array)
        else array
        for name, array in operands.items()
    }


def values_of(loss: TokenLoss, logits: jax.Array, shared: Arrays, rows: Arrays) -> tuple[jax.Array, Any]:
    """What the function makes of logits [C, V] and of the operands that are its own."""
    arrays, options = own_operands(shared, rows)
    if isinstance(loss.fn, Program):
        return loss.fn(numbered(shared), logits, *arrays, **options)
    return checked_values(loss, logits, *arrays, **options)


def own_operands(shared: Arrays, rows: Arrays) -> tuple[list, Arrays]:
    """The function's arrays, and what it takes by name."""
    return numbered(rows), {k: a for k, a in shared.items() if k not in _HEAD and not k.isdigit()}


def numbered(operands: Arrays) -> list:
    """The operands that have no name, in their order."""
    return [operands[name] for name in sorted(filter(str.isdigit, operands), key=int)]


def checked_values(loss: TokenLoss, logits: jax.Array, *arrays, **options) -> tuple[jax.Array, Any]:
    """The function's losses [C], and its statistics, None if it has none."""
    if loss.splits_classes:
        options["axis_name"] = loss.axis_name
    num_tokens, result = logits.shape[0], loss.fn(logits, *arrays, **options)
    losses, statistics = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    wanted = f"{loss.name} must return one floating-point value for each token, [{num_tokens}]"
    if not isinstance(losses, jax.Array):
        raise TypeError(f"{wanted}, or (values, statistics); got {type(losses).__name__}.")
    if losses.shape != (num_tokens,) or not jnp.issubdtype(losses.dtype, jnp.floating):
        raise ValueError(f"{wanted}; got {_checks.describe(losses)}.")
    statistics = jax.tree.map(jnp.asarray, statistics)
    for array in jax.tree.leaves(statistics):
        if array.shape[:1] != (num_tokens,):
            shape = f"[{num_tokens}, ...]"
            raise ValueError(
                f"{loss.name} must return statistics of shape {shape}; got {_checks.describe(array)}."
            )
    return losses, statistics


def wider(a: jax.Array, b: jax.Array) -> jnp.dtype:
    """The dtype of a product: both arrays' own, or one that holds both; at least 16 bits.

    A chunk's part of a gradient has this dtype, and would underflow in one of 8 bits.
    """
    if a.dtype != b.dtype:
        return compute_dtype(a, b)
    return a.dtype if a.dtype.itemsize > 1 else jnp.dtype(jnp.bfloat16)


def product(a: jax.Array, b: jax.Array, a_axis: int, b_axis: int) -> jax.Array:
    """The matrix product over one axis of each, summed in at least float32."""
    dtype = wider(a, b)
    dimensions = (((a_axis,), (b_axis,)), ((), ()))
    return lax.dot_general(
        a.astype(dtype), b.astype(dtype), dimensions, preferred_element_type=compute_dtype(a, b)
    )


def logits_of(product_CV: jax.Array, shared: Arrays) -> jax.Array:
    """The logits, from the product of input and weight: `cap * tanh(scale * (product + bias) / cap)`.

    `shared` may hold "linear_bias" [V], "logit_scale" [] and "logit_softcap" [].
    """
    logits = product_CV
    if "linear_bias" in shared:
        logits = logits + shared["linear_bias"].astype(logits.dtype)[None]
    if "logit_scale" in shared:
        logits = logits * shared["logit_scale"].astype(logits.dtype)
    if "logit_softcap" in shared:
        logits = shared["logit_softcap"] * jnp.tanh(logits / shared["logit_softcap"])
    return logits
