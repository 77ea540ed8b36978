"""A token's loss from a linear head's product: all that differs between the losses of a head.

Shapes: N tokens, or the C of a chunk, D width, V vocabulary (a device's slice of it, where devices share it).
"""

import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxloss import _checks
from jaxloss._mesh import varying_axes
from jaxloss._reduction import compute_dtype

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
    """

    fn: Callable
    splits_classes: bool = False
    axis_name: str | None = None

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
    logits = logits_of(product_NV.astype(rows["factor"].dtype), shared)
    options = {k: a for k, a in shared.items() if k not in _HEAD and not k.isdigit()}
    fn, arrays = _with(loss, numbered(shared)), numbered(rows)
    losses, statistics = _checked(loss, fn(logits, *arrays, **options), logits.shape[0])
    losses = kept(rows["valid"], losses.astype(logits.dtype))
    return losses, jax.tree.map(lambda a: kept(rows["valid"], lax.stop_gradient(a)), statistics)


def numbered(operands: Arrays) -> list:
    """The operands that have no name, in their order."""
    return [operands[name] for name in sorted(filter(str.isdigit, operands), key=int)]


def closed_over(fn: Callable, run: Callable, *operands) -> list:
    """The traced arrays that `fn`, which `run` calls, closes over: derivative rules need them as operands."""
    return _tracers(jax.make_jaxpr(run)(*operands).consts) if _may_close_over(fn) else []


def _may_close_over(value, within: tuple = ()) -> bool:
    """Whether a function may hold traced arrays; to look for them traces it once more."""
    if isinstance(value, partial):
        return any(_may_close_over(v, within) for v in (value.func, *value.args, *value.keywords.values()))
    if isinstance(value, types.FunctionType) and value not in within:
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        held = [*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        return any(_may_close_over(v, (*within, value)) for v in held)
    if isinstance(value, jax.Array):
        return isinstance(value, jax.core.Tracer)
    return not (value is None or value in within or isinstance(value, (bool, int, float, str)))


def _tracers(values) -> list:
    return [value for value in values if isinstance(value, jax.core.Tracer)]


def _with(loss: TokenLoss, closed: list) -> Callable:
    """The function, with these values for the traced arrays that it closes over, in their order."""
    fn = partial(loss.fn, axis_name=loss.axis_name) if loss.splits_classes else loss.fn
    if not closed:
        return fn

    def call(*arrays, **options):
        jaxpr, shapes = jax.make_jaxpr(fn, return_shape=True)(*arrays, **options)
        values = iter(closed)
        consts = [_same(loss, c, next(values)) if isinstance(c, jax.core.Tracer) else c for c in jaxpr.consts]
        results = jax.core.eval_jaxpr(jaxpr.jaxpr, consts, *jax.tree.leaves((arrays, options)))
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return call


def _same(loss: TokenLoss, const: jax.Array, value: jax.Array) -> jax.Array:
    # Where devices share what the function closes over, its gradient would be summed over them twice.
    if varying_axes(const) != varying_axes(value):
        raise ValueError(
            f"{loss.name} closes over the traced array {_checks.describe(const)}, which devices with other "
            f"tokens share; pass it to the loss instead, by a name of its own."
        )
    return value


def _checked(loss: TokenLoss, result, num_tokens: int) -> tuple[jax.Array, Any]:
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
