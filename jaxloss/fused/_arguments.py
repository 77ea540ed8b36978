"""The arguments that the losses of a linear head share: checked, and left in the caller's shapes.

Shapes: *N axes of tokens, *K axes of heads (none, unless the weight has more axes than two), D width,
V vocabulary.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxloss import _checks
from jaxloss._checked import check_labels, checks_values
from jaxloss._mesh import varying_axes
from jaxloss._reduction import REDUCTIONS, compute_dtype

_IMPLEMENTATIONS = ("auto", "reference", "chunked")


class Operands(NamedTuple):
    """A head's arrays by their leading axes, none combined with another, since they may lie differently.

    Attributes:
        inputs: of tokens, the same for all heads [*N, D]: "input".
        tokens: of tokens and heads [*N, *K, ...]: "valid", "sample_weight"; if given, "where", "labels",
            "probabilities" [*N, *K, V].
        classes: of classes [V, ...]: "linear_weight" [V, *K, D]; if given, "linear_bias" [V, *K],
            "class_weight" [V].
        scalars: what has no axis, such as "logit_scale"; one that is not given is left out, which is all that
            a compiled program depends on.
    """

    inputs: dict[str, Any]
    tokens: dict[str, Any]
    classes: dict[str, Any]
    scalars: dict[str, Any]


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
    linear_bias,
    target,
    *,
    weight=None,
    ignore_index=None,
    where=None,
    sample_weight=None,
    logit_scale=None,
    axis_name=None,
) -> Operands:
    """Check everything that has a shape; small operands take the dtype of the computation."""
    input, linear_weight, bias = check_head(input, linear_weight, linear_bias)
    _check_axis_name(axis_name, linear_weight)
    num_classes, shape = linear_weight.shape[0], input.shape[:-1] + linear_weight.shape[1:-1]
    class_weight = _checks.as_class_weight(weight, num_classes)
    if target is None:
        tokens: dict[str, Any] = {"valid": jnp.ones(shape, bool)}
    else:
        tokens = _target(target, shape, num_classes, ignore_index)
    if where is not None:
        tokens["where"] = _checks.as_mask("where", where, shape, "one value for each token")
    if checks_values.value and "labels" in tokens:
        valid = tokens["valid"] & tokens.get("where", True)
        # Within a split vocabulary the labels count the classes of all devices.
        num_devices = 1 if axis_name is None else lax.axis_size(axis_name)
        check_labels("target", target, valid, num_classes * num_devices)
    sample_weight = _checks.as_sample_weight(sample_weight, shape, "one number for each token")
    logit_scale = check_logit_scale("logit_scale", logit_scale)
    learnt_scale = logit_scale if isinstance(logit_scale, jax.Array) else None
    given = linear_weight, bias, class_weight, sample_weight, learnt_scale, tokens.get("probabilities")
    dtype = compute_dtype(input, *given)

    tokens["sample_weight"] = jnp.ones(shape, dtype) if sample_weight is None else sample_weight.astype(dtype)
    classes = {"linear_weight": linear_weight}
    if bias is not None:
        classes["linear_bias"] = bias.astype(dtype)
    if class_weight is not None:
        classes["class_weight"] = class_weight.astype(dtype)
    return with_scalars(Operands({"input": input}, tokens, classes, {}), logit_scale=logit_scale)


def check_head(input, linear_weight, linear_bias, prefix: str = ""):
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
    if linear_bias is None:
        return input, weight, None
    bias = _checks.as_floats(names[2], linear_bias)
    _checks.check_shape(names[2], bias, weight.shape[:-1], f"that of {names[1]} without its last axis")
    return input, weight, bias


def _target(target, shape: tuple[int, ...], num_classes: int, ignore_index) -> dict[str, jax.Array]:
    """Labels or probabilities, and the mask of the tokens that they leave in."""
    if _checks.has_dtype(target, jnp.floating):
        target = _checks.as_floats("target", target)
        _checks.check_shape(
            "target", target, (*shape, num_classes), "that of the logits, to hold probabilities"
        )
        if ignore_index is not None:
            raise ValueError(f"ignore_index must be None with class probabilities; got {ignore_index!r}.")
        return {"probabilities": target, "valid": jnp.ones(shape, bool)}
    ignore_index = -100 if ignore_index is None else _checks.check_integer("ignore_index", ignore_index)
    labels = _checks.as_labels("target", target)
    _checks.check_shape("target", labels, shape, "one class index for each token")
    valid = _checks.not_ignored(target, ignore_index)
    return {"labels": jnp.where(valid, labels, 0), "valid": valid}


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


def with_scalars(operands: Operands, **scalars: float | jax.Array | None) -> Operands:
    """The operands and those of the scalars that are given, in the dtype of the computation."""
    dtype = operands.tokens["sample_weight"].dtype
    given = {name: jnp.asarray(value, dtype) for name, value in scalars.items() if value is not None}
    return operands._replace(scalars=operands.scalars | given)


def _check_axis_name(axis_name: str | None, linear_weight: jax.Array) -> None:
    """Raise unless the weight is split over this mesh axis."""
    if axis_name is not None and axis_name not in varying_axes(linear_weight):
        known = sorted(varying_axes(linear_weight)) or "no axis"
        raise ValueError(
            f"axis_name must be a mesh axis that linear_weight is split over, inside jax.shard_map with "
            f"check_vma; got {axis_name!r}, and linear_weight differs along {known}."
        )
