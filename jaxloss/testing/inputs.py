"""Inputs for a comparison: the caller's own arrays, or random ones drawn from a spec.

A spec is any function from a numpy `Generator` to an array, or to anything with arrays in it.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import numpy as np

from jaxloss.interop import is_tensor, to_numpy
from jaxloss.testing.measure import dtype_name

Spec: TypeAlias = Callable[[np.random.Generator], Any]


def normal(*shape: int, mean: float = 0.0, scale: float = 1.0) -> Spec:
    """Draw from a normal distribution.

    >>> normal(2, 3)(np.random.default_rng(0)).shape
    (2, 3)
    """
    return lambda rng: mean + scale * rng.standard_normal(_shape(shape))


def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Spec:
    """Draw evenly from `[low, high)`."""
    return lambda rng: rng.uniform(low, high, _shape(shape))


def integers(*shape: int, high: int, low: int = 0) -> Spec:
    """Draw labels from `low` to `high - 1`: int32 for JAX, int64 for torch, as each is used to."""
    if high <= low:
        raise ValueError(f"high must be above low={low}; got {high}")
    return lambda rng: rng.integers(low, high, _shape(shape), dtype=np.int32)


def booleans(*shape: int, probability: float = 0.5) -> Spec:
    """Draw a mask, True with the given probability."""
    return lambda rng: rng.random(_shape(shape)) < probability


def signs(*shape: int) -> Spec:
    """Draw -1.0 and 1.0, the targets of margin losses."""
    return lambda rng: np.where(rng.random(_shape(shape)) < 0.5, -1.0, 1.0)


def probabilities(*shape: int) -> Spec:
    """Draw distributions along the last axis, all of them positive."""
    return lambda rng: np.exp(_log_softmax(rng.standard_normal(_shape(shape))))


def log_probabilities(*shape: int) -> Spec:
    """Draw the logarithms of distributions along the last axis."""
    return lambda rng: _log_softmax(rng.standard_normal(_shape(shape)))


def grid(*shape: int, high: int = 3) -> Spec:
    """Draw whole numbers from `-high` to `high` as floats, so that ties and kinks happen."""
    return lambda rng: rng.integers(-high, high + 1, _shape(shape)).astype(np.float64)


def draw_inputs(inputs: tuple[Any, ...], seed: int) -> tuple[Any, ...]:
    """Draw the specs among the inputs and turn every array into numpy; the rest is passed on as it is.

    Args:
        inputs: arrays of numpy, JAX or torch, specs, nested containers of them, or settings such as a string.
            A lone spec that returns a tuple stands for all inputs.
        seed: decides what is drawn.

    Raises:
        TypeError: an array is of complex numbers, or of objects.
    """
    rng = np.random.default_rng(seed)
    drawn = jax.tree.map(lambda leaf: leaf(rng) if callable(leaf) else leaf, inputs)
    if len(inputs) == 1 and callable(inputs[0]) and isinstance(drawn[0], tuple):
        drawn = drawn[0]
    return tuple(
        jax.tree_util.tree_map_with_path(lambda path, leaf, i=i: _as_numpy(leaf, label(i, path)), x)
        for i, x in enumerate(drawn)
    )


def label(position: int, path: Any = ()) -> str:
    """Name an input, or a leaf inside it, as messages do."""
    return f"input {position}{jax.tree_util.keystr(path)}"


def is_array(value: Any) -> bool:
    """Whether a value is an array of numpy, JAX or torch."""
    return isinstance(value, (np.ndarray, np.generic, jax.Array)) or is_tensor(value)


def is_floating(array: Any) -> bool:
    """Whether an array has a floating-point dtype, bfloat16 included."""
    if is_tensor(array):
        return bool(array.is_floating_point())
    return is_array(array) and jax.numpy.issubdtype(array.dtype, np.floating)


def check_finite(inputs: tuple[Any, ...]) -> None:
    """Raise ValueError where an input holds NaN: what comes of it is rarely what was meant to be compared."""
    for position, entry in enumerate(inputs):
        for path, leaf in jax.tree_util.tree_flatten_with_path(entry)[0]:
            if is_floating(leaf) and np.isnan(leaf).any():
                raise ValueError(
                    f"{label(position, path)} holds NaN; allow_nonfinite=True compares where NaN and "
                    "infinities appear"
                )


def cast(tree: Any, dtype: str) -> Any:
    """Round the floating-point arrays of a tree to a dtype."""
    return jax.tree.map(lambda leaf: leaf.astype(jax.numpy.dtype(dtype)) if is_floating(leaf) else leaf, tree)


def _as_numpy(leaf: Any, name: str) -> Any:
    if not is_array(leaf):
        return leaf
    if isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        raise TypeError(
            f"{name} is a JAX random key, which torch cannot take: fix it in the JAX function instead"
        )
    array = to_numpy(leaf)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers or booleans; got dtype {dtype_name(leaf)}")
    # A copy, so that nothing here can reach the caller's memory.
    return np.array(array)


def _shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    if not all(isinstance(size, (int, np.integer)) and size >= 0 for size in shape):
        raise ValueError(f"a spec's shape must be sizes, as in normal(8, 10); got {shape}")
    return shape


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))
