"""The arguments that the losses of a linear head share: checked, and left in the caller's shapes.

Shapes: *N axes of tokens, *K axes of heads (none, unless the weight has more axes than two), D width,
V vocabulary.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxloss import _checks
from jaxloss._checked import check_labels, checks_values
from jaxloss._mesh import lie_as, varying_axes
from jaxloss._reduction import REDUCTIONS, compute_dtype

_IMPLEMENTATIONS = ("auto", "reference", "chunked")


class Operands(NamedTuple):
    """A loss's arrays by their leading axes, none combined with another, since they may lie differently.

    Attributes:
        input: hidden states of tokens, the same for all heads [*N, D].
        tokens: of tokens and heads [*N, *K, ...]: "valid", "sample_weight", and the function's, numbered.
        classes: of classes [V, ...]: "linear_weight" [V, *K, D]; if given, "linear_bias" [V, *K]; and the
            function's, by name.
        others: scalars, such as "logit_scale", and the arrays that the function closes over, numbered. What
            is not given is left out, which is all that a compiled program depends on.
        denominator: what a mean divides by, if not by the sum of "sample_weight".
    """

    input: jax.Array
    tokens: dict[str, Any]
    classes: dict[str, Any]
    others: dict[str, Any]
    denominator: jax.Array | None


class Options(NamedTuple):
    """How a loss is evaluated and reduced; the values are those of the public functions' arguments."""

    reduction: str
    implementation: str
    chunk_size: int | None


def check_options(reduction, implementation, chunk_size) -> Options:
    """The options that all losses of a head have."""
    _checks.check_choice("reduction", reduction, REDUCTIONS)
    _checks.check_choice("implementation", implementation, _IMPLEMENTATIONS)
    if chunk_size is not None and _checks.check_integer("chunk_size", chunk_size) < 1:
        raise ValueError(f"chunk_size must be at least 1; got {chunk_size}.")
    return Options(reduction, implementation, chunk_size)


def check_operands(
    input,
    linear_weight,
    arrays: tuple,
    names: list[str],
    options: Mapping[str, Any],
    *,
    linear_bias,
    where,
    sample_weight,
    denominator,
    logit_softcap,
    logit_scale,
    axis_name,
) -> Operands:
    """Check everything that has a shape; operands of one axis take the dtype of the computation.

    `names` are those of the tokens' arrays; `options` are the scalars and arrays of classes that the function
    takes besides.
    """
    input, linear_weight, bias = check_head(input, linear_weight, linear_bias, axis_name=axis_name)
    num_classes, shape = linear_weight.shape[0], input.shape[:-1] + linear_weight.shape[1:-1]
    where = _checks.as_mask("where", where, shape, "one value for each token")
    sample_weight = _checks.as_sample_weight(sample_weight, shape, "one number for each token")
    own = [_of_tokens(name, array, shape) for name, array in zip(names, arrays, strict=True)]
    given = {name: _option(name, value, num_classes) for name, value in options.items() if value is not None}
    classes: dict[str, Any] = {name: value for name, value in given.items() if jnp.ndim(value) > 0}
    scalars: dict[str, Any] = {name: value for name, value in given.items() if name not in classes}
    if logit_softcap is not None:
        scalars["logit_softcap"] = check_softcap("logit_softcap", logit_softcap)
    learnt_scale = None
    if logit_scale is not None:
        scalars["logit_scale"] = scale = check_logit_scale("logit_scale", logit_scale)
        learnt_scale = scale if isinstance(scale, jax.Array) else None
    dtype = compute_dtype(input, linear_weight, bias, sample_weight, learnt_scale, *own, *classes.values())

    small = {k: a for k, a in classes.items() if a.ndim == 1 and jnp.issubdtype(a.dtype, jnp.floating)}
    if bias is not None:
        small["linear_bias"] = bias
    classes |= {"linear_weight": linear_weight} | {k: a.astype(dtype) for k, a in small.items()}
    tokens = {"valid": jnp.ones(shape, bool) if where is None else where}
    tokens["sample_weight"] = jnp.ones(shape, dtype) if sample_weight is None else sample_weight.astype(dtype)
    return Operands(
        input,
        tokens | {str(i): array for i, array in enumerate(own)},
        classes,
        {name: jnp.asarray(value, dtype) for name, value in scalars.items()},
        None if denominator is None else jnp.asarray(denominator, dtype),
    )


def _of_tokens(name: str, value, shape: tuple[int, ...]) -> jax.Array:
    _checks.check_is_array(name, value, "an array with an entry for each token")
    array = jnp.asarray(_checks.as_wide_as_jax(value) if _checks.has_dtype(value, jnp.integer) else value)
    if array.shape[: len(shape)] != shape:
        sizes = ", ".join(map(str, (*shape, "...")))
        raise ValueError(
            f"{name} must have shape [{sizes}], an entry for each token; got {_checks.describe(array)}."
        )
    return array


def _option(name: str, value, num_classes: int) -> float | jax.Array:
    """A scalar, or an array with an entry for each class."""
    if not getattr(value, "ndim", 0):
        return _checks.as_scalar(name, value)
    array = jnp.asarray(value)
    if array.shape[0] != num_classes:
        raise ValueError(
            f"{name} must be a number or have shape [{num_classes}, ...], an entry for each class; got "
            f"{_checks.describe(array)}. Arrays of tokens come by position."
        )
    return array


def token_labels(target, shape: tuple[int, ...], num_classes: int, ignore_index, where, axis_name=None):
    """Labels of tokens, 0 for those that take no part, and the mask of those that do."""
    ignore_index = -100 if ignore_index is None else _checks.check_integer("ignore_index", ignore_index)
    labels = _checks.as_labels("target", target)
    _checks.check_shape("target", labels, shape, "one class index for each token")
    valid = _checks.not_ignored(target, ignore_index)
    valid = valid if where is None else valid & lie_as(where, valid)
    if checks_values.value:
        # Within a split vocabulary the labels count the classes of all devices.
        num_devices = 1 if axis_name is None else lax.axis_size(axis_name)
        check_labels("target", target, valid, num_classes * num_devices)
    return jnp.where(valid, labels, 0), valid


def token_probabilities(target, shape: tuple[int, ...], ignore_index) -> jax.Array:
    """Class probabilities of tokens."""
    target = _checks.as_floats("target", target)
    _checks.check_shape("target", target, shape, "that of the logits, to hold probabilities")
    if ignore_index is not None:
        raise ValueError(f"ignore_index must be None with class probabilities; got {ignore_index!r}.")
    return target


def check_head(input, linear_weight, linear_bias, prefix: str = "", axis_name: str | None = None):
    """`input` [*N, D], `linear_weight` [V, *K, D] and `linear_bias` [V, *K] or None, as arrays that fit."""
    names = [prefix + name for name in ("input", "linear_weight", "linear_bias")]
    input, weight = _checks.as_floats(names[0], input), _checks.as_floats(names[1], linear_weight)
    if input.ndim == 0:
        raise ValueError(f"{names[0]} must have shape [..., D]; got the scalar {_checks.describe(input)}.")
    if weight.ndim < 2 or weight.shape[0] == 0:
        raise ValueError(f"{names[1]} must have shape [V, D], with V > 0; got {_checks.describe(weight)}.")
    if weight.shape[-1] != input.shape[-1]:
        raise ValueError(
            f"{names[1]} must have shape [V, {input.shape[-1]}], the width of {names[0]} "
            f"{_checks.describe(input)}; got {_checks.describe(weight)}."
        )
    _check_axis_name(axis_name, weight)
    if linear_bias is None:
        return input, weight, None
    bias = _checks.as_floats(names[2], linear_bias)
    _checks.check_shape(names[2], bias, weight.shape[:-1], f"that of {names[1]} without its last axis")
    return input, weight, bias


def check_logit_scale(name: str, logit_scale) -> float | jax.Array | None:
    """A number, which has no dtype of its own, or a scalar, which may be learnt; or None."""
    return None if logit_scale is None else _checks.as_scalar(name, logit_scale)


def check_softcap(name: str, softcap) -> float | jax.Array | None:
    """A positive number or scalar, or None."""
    if softcap is None:
        return None
    return _checks.as_scalar(name, softcap, low=0.0, high=math.inf, open_low=True, open_high=True)


def unless(number: float, scalar: float | jax.Array) -> float | jax.Array | None:
    """The scalar, or None if it is this very number, with which the option is as good as not given."""
    return None if _checks.is_number(scalar, number) else scalar


def _check_axis_name(axis_name: str | None, linear_weight: jax.Array) -> None:
    """Raise unless the weight is split over this mesh axis."""
    if axis_name is not None and axis_name not in varying_axes(linear_weight):
        known = sorted(varying_axes(linear_weight)) or "no axis"
        raise ValueError(
            f"axis_name must be a mesh axis that linear_weight is split over, inside jax.shard_map with "
            f"check_vma; got {axis_name!r}, and linear_weight differs along {known}."
        )
