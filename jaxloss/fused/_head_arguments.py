"""The arguments that the losses of a linear head share: checked, and laid out with one axis of tokens.

Shapes: N tokens, D width, V vocabulary, K heads (1, unless the weight has more axes than two).
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxloss import _checks
from jaxloss._reduction import compute_dtype, select
from jaxloss.fused import _vocabulary
from jaxloss.losses._rows import not_ignored

IMPLEMENTATIONS = ("auto", "reference", "chunked")


class HeadArguments(NamedTuple):
    """Arrays with tokens flattened; `target` is labels [N, K], or probabilities [N, K, V]."""

    input: jax.Array
    weight: jax.Array
    bias: jax.Array | None
    target: Any
    kept: jax.Array
    sample_weight: jax.Array
    class_weight: jax.Array | None
    logit_scale: jax.Array | None
    shape: tuple[int, ...]

    @property
    def has_labels(self) -> bool:
        """Whether the target is labels, not probabilities."""
        return self.target is not None and self.target.ndim == 2


def head_arguments(
    input,
    linear_weight,
    linear_bias,
    target,
    weight=None,
    ignore_index=None,
    where=None,
    sample_weight=None,
    logit_scale=None,
    *,
    needs_target: bool = True,
) -> HeadArguments:
    """Check everything that has a shape, and flatten; small operands take the dtype of the computation."""
    input, linear_weight, bias = check_head(input, linear_weight, linear_bias)
    num_classes, heads = linear_weight.shape[0], linear_weight.shape[1:-1]
    shape = input.shape[:-1] + heads
    class_weight = _checks.as_class_weight(weight, num_classes)
    if target is None and not needs_target:
        kept = jnp.ones(shape, bool)
    else:
        target, kept = _target(target, shape, num_classes, ignore_index)
    where = _checks.as_mask("where", where, shape, "one value for each token")
    kept = kept if where is None else kept & where
    if sample_weight is not None:
        sample_weight = _checks.as_floats("sample_weight", sample_weight)
        _checks.check_shape("sample_weight", sample_weight, shape, "one number for each token")
    logit_scale = check_logit_scale("logit_scale", logit_scale)
    probabilities = target if target is not None and jnp.issubdtype(target.dtype, jnp.floating) else None
    scale = logit_scale if isinstance(logit_scale, jax.Array) else None
    dtype = compute_dtype(input, linear_weight, bias, class_weight, sample_weight, scale, probabilities)

    num_tokens, num_heads, width = math.prod(input.shape[:-1]), math.prod(heads), input.shape[-1]
    if sample_weight is None:
        sample_weight = jnp.ones(shape, dtype)
    sample_weight = select(kept, sample_weight.astype(dtype)).reshape(num_tokens, num_heads)
    return HeadArguments(
        input=input.reshape(num_tokens, width),
        weight=linear_weight.reshape(num_classes, num_heads, width),
        bias=None if bias is None else bias.astype(dtype).reshape(num_classes, num_heads),
        target=None if target is None else target.reshape(num_tokens, num_heads, *target.shape[len(shape) :]),
        kept=kept.reshape(num_tokens, num_heads),
        sample_weight=sample_weight,
        class_weight=None if class_weight is None else class_weight.astype(dtype),
        logit_scale=None if logit_scale is None else jnp.asarray(logit_scale, dtype),
        shape=shape,
    )


def check_head(input, linear_weight, linear_bias, prefix: str = ""):
    """`input` [*, D], `linear_weight` [V, *K, D] and `linear_bias` [V, *K] or None, as arrays that fit."""
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


def _target(target, shape: tuple[int, ...], num_classes: int, ignore_index):
    """Labels or probabilities, and the mask of the tokens that take part."""
    if isinstance(target, (jax.Array, np.ndarray)) and jnp.issubdtype(target.dtype, jnp.floating):
        target = _checks.as_floats("target", target)
        _checks.check_shape(
            "target", target, (*shape, num_classes), "that of the logits, to hold probabilities"
        )
        if ignore_index is not None:
            raise ValueError(f"ignore_index must be None with class probabilities; got {ignore_index!r}.")
        return target, jnp.ones(shape, bool)
    ignore_index = -100 if ignore_index is None else _checks.check_integer("ignore_index", ignore_index)
    labels = _checks.as_labels("target", target)
    _checks.check_shape("target", labels, shape, "one class index for each token")
    kept = not_ignored(target, ignore_index)
    return jnp.where(kept, labels, 0), kept


def check_logit_scale(name: str, logit_scale) -> float | jax.Array | None:
    """A scalar: a Python number, which has no dtype of its own, or an array, which may be learnt."""
    if logit_scale is None:
        return None
    if not hasattr(logit_scale, "dtype"):
        return _checks.check_number(name, logit_scale)
    scale = _checks.as_floats(name, logit_scale)
    _checks.check_shape(name, scale, (), "a scalar")
    return scale


def check_softcap(name: str, softcap) -> float | None:
    """A positive number, or None."""
    if softcap is None:
        return None
    softcap = _checks.check_number(name, softcap, low=0.0, open_low=True)
    if softcap == math.inf:
        raise ValueError(f"{name} must be finite, or None for no bound; got inf.")
    return softcap


def mean_denominator(arguments: HeadArguments, axis_name: str | None = None) -> jax.Array:
    """What "mean" divides by: the tokens' weights, times those of their labels' classes, summed."""
    weight = arguments.sample_weight
    class_weight = arguments.class_weight
    if arguments.has_labels and class_weight is not None:
        pick = jax.vmap(lambda labels: _vocabulary.pick(class_weight, labels, axis_name), 1, 1)
        weight = weight * select(arguments.kept, pick(arguments.target))
    return jnp.sum(weight)
