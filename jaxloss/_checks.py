"""Argument errors, worded once: each names the argument, what was expected and what came.

Everything looks at shapes, dtypes and Python values only, so it runs at trace time and costs a compiled
program nothing; `_checked.py` looks at the values in arrays.
"""

import difflib
import numbers
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Real

# The annotation of an option that `as_scalar` reads: it may change while training, or be learnt.
Scalar = float | Real[Array, ""]

_SEQUENCES = (list, tuple, str, bytes, dict, set)


def describe(array) -> str:
    """`float32[8, 10]`."""
    return f"{array.dtype.name}[{', '.join(map(str, array.shape))}]"


def has_dtype(value, kind) -> bool:
    """Whether `value` is an array of JAX's or numpy's with a dtype of this kind, such as `jnp.floating`."""
    dtype = getattr(value, "dtype", None)
    return isinstance(dtype, np.dtype) and bool(jnp.issubdtype(dtype, kind))


def check_is_array(name: str, value, expected: str) -> None:
    if value is None or isinstance(value, _SEQUENCES):
        raise TypeError(f"{name} must be {expected}; got {type(value).__name__}. Pass a jax or numpy array.")
    if type(value).__module__.partition(".")[0] == "torch":
        raise TypeError(
            f"{name} must be {expected}; got a torch tensor. Pass jnp.asarray({name}.detach().cpu().numpy())."
        )


def as_floats(name: str, value) -> jax.Array:
    """`value` as an array of real floating-point numbers; a single int counts as one, traced or not."""
    check_is_array(name, value, "an array of floating-point numbers")
    is_int = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    array = jnp.asarray(float(value) if is_int else value)
    if array.weak_type and jnp.issubdtype(array.dtype, jnp.integer):
        array = array * 1.0
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"{name} must be floating point; got {describe(array)}. Convert it with .astype(float)."
        )
    return array


def labels_as_given(labels) -> Any:
    """The labels in an array that can hold them: numpy's own in a numpy array, Python's too.

    Without 64 bits, JAX would turn 2**32 + 1 into the valid label 1.
    """
    is_numpys = isinstance(labels, (np.ndarray, np.generic, int))
    return np.asarray(labels) if is_numpys else jnp.asarray(labels)


def as_labels(name: str, value) -> jax.Array:
    """`value` as an array of class indices, int32 or, where JAX has 64 bits, int64.

    Indices beyond that dtype become its largest or smallest number, which is no class either.
    """
    check_is_array(name, value, "an array of class indices")
    array = labels_as_given(value)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{name} must hold class indices of an integer dtype; got {describe(array)}.")
    given = jnp.iinfo(array.dtype)
    dtype = jax.dtypes.canonicalize_dtype(jnp.int64) if given.max > 2**31 - 1 else jnp.dtype(jnp.int32)
    kept = jnp.iinfo(dtype)
    if array.dtype != dtype:
        # The bounds as numbers of the array's dtype: int64 and uint64 have no dtype in common.
        bounds = max(given.min, kept.min), min(given.max, kept.max)
        array = array.clip(*map(array.dtype.type, bounds)).astype(dtype)
    return jnp.asarray(array)


def as_wide_as_jax(integers: np.ndarray) -> np.ndarray:
    """numpy's integers in the dtype that JAX has for them; those beyond it become its largest or smallest.

    JAX itself would wrap them: without 64 bits, 2**32 + 1 becomes 1.
    """
    dtype = jax.dtypes.canonicalize_dtype(integers.dtype)
    if dtype == integers.dtype:
        return integers
    return integers.clip(jnp.iinfo(dtype).min, jnp.iinfo(dtype).max).astype(dtype)


def not_ignored(labels, ignore_index: int) -> jax.Array:
    """Where labels of any integer dtype differ from `ignore_index`.

    Unconverted labels: `as_labels` may clamp two different int64 labels to the same int32.
    """
    labels = labels_as_given(labels)
    info = jnp.iinfo(labels.dtype)
    # A Python int beyond the labels' dtype equals none of them, and converting it would overflow.
    if not info.min <= ignore_index <= info.max:
        return jnp.ones(labels.shape, bool)
    return jnp.asarray(labels != np.asarray(ignore_index, labels.dtype))


def as_mask(name: str, value, shape: Sequence[int], of: str) -> jax.Array | None:
    """`value` as a boolean array of exactly `shape`, or None."""
    if value is None:
        return None
    check_is_array(name, value, "a boolean array")
    array = jnp.asarray(value)
    if array.dtype != jnp.bool_:
        raise TypeError(f"{name} must be boolean; got {describe(array)}. Write e.g. {name}=mask > 0.")
    check_shape(name, array, shape, of)
    return array


def check_shape(name: str, array: jax.Array, shape: Sequence[int], of: str) -> None:
    """Raise unless `array` has `shape`, which is described by `of`: nothing broadcasts silently."""
    if array.shape != tuple(shape):
        raise ValueError(f"{name} must have shape {list(shape)}, {of}; got {describe(array)}.")


def as_class_weight(weight, num_classes: int) -> jax.Array | None:
    """`weight` as one floating-point number for each class, or None."""
    if weight is None:
        return None
    array = as_floats("weight", weight)
    check_shape("weight", array, (num_classes,), "one number for each class")
    return array


def as_sample_weight(
    sample_weight, shape: tuple[int, ...], of: str = "one number for each row"
) -> jax.Array | None:
    """`sample_weight` as an array of exactly `shape`, or None."""
    if sample_weight is None:
        return None
    array = as_floats("sample_weight", sample_weight)
    check_shape("sample_weight", array, shape, of)
    return array


def check_choice(name: str, value, choices: Sequence[str]) -> None:
    """Raise unless `value` is one of `choices`, suggesting the nearest."""
    if isinstance(value, str) and value in choices:
        return
    listed = ", ".join(repr(choice) for choice in choices)
    near = difflib.get_close_matches(str(value).lower(), choices, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{name} must be one of {listed}; got {value!r}.{hint}")


def check_flag(name: str, value) -> None:
    """Raise unless `value` is True or False, as a Python or numpy boolean."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False; got {value!r}.")


def check_integer(name: str, value, *, low: int | None = None, high: int | None = None) -> int:
    """`value` as an int, from `low` to `high`; booleans, floats and JAX's arrays are refused."""
    value = _as_pythons(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an int; got {_show(value)}.")
    integer = int(value)
    if (low is not None and integer < low) or (high is not None and integer > high):
        allowed = f"at least {low}" if high is None else f"in [{low}, {high}]"
        raise ValueError(f"{name} must be {allowed}; got {integer}.")
    return integer


def check_number(
    name: str,
    value,
    *,
    low: float = -np.inf,
    high: float = np.inf,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """`value` as a float in `[low, high]`, without an end that is open; JAX's arrays are refused."""
    value = _as_pythons(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number; got {_show(value)}.")
    number = float(value)
    if not (low <= number <= high) or (open_low and number == low) or (open_high and number == high):
        left = "(" if open_low or low == -np.inf else "["
        right = ")" if open_high or high == np.inf else "]"
        raise ValueError(f"{name} must be in {left}{low:g}, {high:g}{right}; got {value!r}.")
    return number


def as_scalar(
    name: str,
    value,
    *,
    low: float = -np.inf,
    high: float = np.inf,
    open_low: bool = False,
    open_high: bool = False,
) -> float | jax.Array:
    """An option that decides no shape: a number as `check_number` has it, or a JAX array without axes.

    The array stays one, with its gradient: it may be traced, and to read it would wait for the device. Out of
    range, it becomes NaN. It is cast with `in_dtype` where it is used, since an option does not promote.
    """
    is_wrapped = not isinstance(value, jax.Array) and hasattr(value, "__jax_array__")
    value = value.__jax_array__() if is_wrapped else value
    if isinstance(value, (jax.Array, np.ndarray)) and value.ndim > 0:
        raise ValueError(f"{name} must be a number or an array without axes; got {describe(value)}.")
    if not isinstance(value, jax.Array):
        return check_number(name, value, low=low, high=high, open_low=open_low, open_high=open_high)
    if jnp.issubdtype(value.dtype, jnp.integer):
        # A Python int that is traced has no dtype of its own, and is to get none.
        value = value * 1.0 if value.weak_type else value.astype(float)
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"{name} must be a real number; got {describe(value)}.")
    above = value > low if open_low else value >= low
    below = value < high if open_high else value <= high
    # A product, so that the NaN reaches the gradient as well.
    return value * jnp.where(above & below, 1.0, jnp.nan)


def in_dtype(scalar: float | jax.Array, dtype) -> float | jax.Array:
    """What `as_scalar` read, in the dtype of the computation; a number has none of its own."""
    return scalar.astype(dtype) if isinstance(scalar, jax.Array) else scalar


def is_number(scalar: float | jax.Array, number: float) -> bool:
    """Whether what `as_scalar` read is this number, for which a program may leave out a part; no array is."""
    return not isinstance(scalar, jax.Array) and scalar == number


def _as_pythons(value) -> Any:
    """The number in a numpy scalar, or in a numpy array without axes, as Python's own."""
    return value.item() if isinstance(value, (np.ndarray, np.generic)) and value.ndim == 0 else value


def _show(value) -> str:
    if not isinstance(value, jax.Array):
        return repr(value)
    return f"the array {describe(value)}. It decides how the function is traced, so pass Python's own number"


def class_axis(input: jax.Array, axis: int, name: str = "input") -> int:
    """The non-negative class axis of `input`; 1 on a single example `[C]` is its only axis, as in torch."""
    axis = check_integer("axis", axis)
    if input.ndim == 0:
        raise ValueError(f"{name} must have a class axis; got the scalar {describe(input)}.")
    if input.ndim == 1 and axis == 1:
        return 0
    if not -input.ndim <= axis < input.ndim:
        raise ValueError(
            f"axis must be in [{-input.ndim}, {input.ndim}) for {name} {describe(input)}; got {axis}."
        )
    return axis % input.ndim
