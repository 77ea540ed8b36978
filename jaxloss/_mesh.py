"""What JAX wants to know of arrays on a mesh: how they lie beside each other, where parts of loops differ.

On a mesh with explicit axes, which `jax.make_mesh` makes, JAX asks how a result is to lie rather than
choosing itself: for a gather along a split axis, and for a selection between arrays that lie differently.
"""

import functools
import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

# The axes of the mesh that models are trained on (jaxloss/training/placement.py), in automatic mode.
BATCH_AXES, TENSOR_AXIS = ("data", "fsdp"), "tensor"

# Model 5's parameters: the axis along which one device's part of the computing needs its part of the array.
_TENSOR_SPLITS = {"wte/embedding": 0, "c_fc/kernel": 1, "c_fc/bias": 0, "c_proj/kernel": 0}


def tensor_axis(path: tuple[Any, ...]) -> int | None:
    """The axis along which `tensor` shares the parameter at this path; None if it has no such rule."""
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return next((axis for end, axis in _TENSOR_SPLITS.items() if name.endswith(end)), None)


def num_devices(axis: str | None = None) -> int:
    """Devices along an axis of the training mesh that is set, or of all of it; 1 where none is."""
    mesh = jax.sharding.get_abstract_mesh()
    # Another mesh with one of these names is its maker's affair.
    is_ours = {*BATCH_AXES, TENSOR_AXIS} <= set(mesh.axis_names) and AxisType.Auto in mesh.axis_types
    if not is_ours:
        return 1
    return mesh.size if axis is None else mesh.shape[axis]


def laid(array: jax.Array, *over: str | tuple[str, ...] | None) -> jax.Array:
    """`array`, each axis split over these axes of the training mesh; as it is where no mesh is set.

    An axis that its devices do not divide stays whole.
    """
    if num_devices() == 1:
        return array
    names = [(axes,) if isinstance(axes, str) else axes or () for axes in over]
    sizes = [math.prod(map(num_devices, axes)) for axes in names]
    fitting = [axes if n % size == 0 else () for axes, size, n in zip(names, sizes, array.shape, strict=True)]
    return lax.with_sharding_constraint(array, PartitionSpec(*(axes or None for axes in fitting)))


def gathered(params: Any) -> Any:
    """Parameters of Model 5, whole on every device of the training mesh but for what `tensor` shares."""

    def lay(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        axis = tensor_axis(path)
        return laid(leaf, *(TENSOR_AXIS if i == axis else None for i in range(leaf.ndim)))

    return jax.tree.map_with_path(lay, params)


def take(table: jax.Array, index: jax.Array) -> jax.Array:
    """`table[index]`, lying on the mesh as the index does."""
    sharding = jax.typeof(index).sharding
    if AxisType.Explicit not in sharding.mesh.axis_types:
        return table[index]
    if index.ndim == 0:
        # Of one number JAX makes a slice, which under `vmap` over a split axis has no `out_sharding`.
        return take(table, index[None])[0]
    return whole_along(table, 0).at[index].get(out_sharding=sharding)


def split_axes(array: jax.Array) -> tuple:
    """The explicit mesh axes that each of the array's axes is split over; None where it is whole."""
    sharding = jax.typeof(array).sharding
    is_explicit = AxisType.Explicit in sharding.mesh.axis_types
    return tuple(sharding.spec) if is_explicit else (None,) * array.ndim


def whole_along(array: jax.Array, *axes: int) -> jax.Array:
    """`array`, these axes of it, or without any all of them, whole on every device."""
    made_whole = {axis % array.ndim for axis in axes or range(array.ndim)}
    over = [None if axis in made_whole else o for axis, o in enumerate(split_axes(array))]
    return _moved(array, array, over)


def lie_as(array: jax.Array, like: jax.Array, *, without: tuple[int, ...] = ()) -> jax.Array:
    """`array`, which broadcasts to `like`, moved to lie as that does; along axes of size 1, it is whole.

    With `without`, it has the shape of `like` without those axes, and may have more behind, which are whole.
    """
    left_out = {axis % like.ndim for axis in without}
    over = [o for axis, o in enumerate(split_axes(like)) if axis not in left_out]
    over = over if without else over[len(over) - array.ndim :]
    over += [None] * (array.ndim - len(over))
    return _moved(array, like, [None if size == 1 else o for size, o in zip(array.shape, over, strict=True)])


def _moved(array: jax.Array, on: jax.Array, over: list) -> jax.Array:
    mesh, other = jax.typeof(array).sharding.mesh, jax.typeof(on).sharding.mesh
    # JAX itself lays an array on no mesh beside others.
    if tuple(over) == split_axes(array) or mesh.empty:
        return array
    return jax.sharding.reshard(array, NamedSharding(mesh if other.empty else other, PartitionSpec(*over)))


def indices_along(array: jax.Array, axis: int, dtype) -> jax.Array:
    """Each element's index along `axis`, of the array's shape and lying as it does."""
    return lie_as(lax.broadcasted_iota(dtype, array.shape, axis % array.ndim), array)


def take_along(array: jax.Array, index: jax.Array, axis: int) -> jax.Array:
    """`jnp.take_along_axis` with indices that are in bounds, also along an axis that is split."""
    axis %= array.ndim
    if split_axes(array)[axis] is None:
        return jnp.take_along_axis(array, index, axis, mode="promise_in_bounds")
    # Not a gather: each device sums what it has, which is the entry or nothing.
    is_taken = jnp.expand_dims(indices_along(array, axis, index.dtype), axis + 1) == jnp.expand_dims(
        index, axis
    )
    array = jnp.expand_dims(array, axis + 1)
    return jnp.sum(jnp.where(is_taken, array, jnp.zeros((), array.dtype)), axis, dtype=array.dtype)


def are_among(array: jax.Array, index: jax.Array) -> jax.Array:
    """Whether each entry's place along the last axis is among the indices `[..., K]` of its row."""
    if not any(split_axes(array)):
        rows = math.prod(array.shape[:-1])
        nowhere = jnp.zeros((rows, array.shape[-1]), bool)
        listed = index.reshape(rows, index.shape[-1])
        return nowhere.at[jnp.arange(rows)[:, None], listed].set(True).reshape(array.shape)
    # Not a scatter, whose result would have to be told how to lie.
    places = jnp.expand_dims(indices_along(array, -1, index.dtype), -1)
    return jnp.any(places == jnp.expand_dims(index, -2), -1)


def last_along(array: jax.Array, axis: int) -> jax.Array:
    """The last entry along `axis`, which may be split, without that axis."""
    if split_axes(array)[axis] is None:
        return array[(slice(None),) * (axis % array.ndim) + (-1,)]
    is_last = indices_along(array, axis, jnp.int32) == array.shape[axis] - 1
    if array.dtype == jnp.bool_:
        return jnp.any(is_last & array, axis)
    return jnp.sum(jnp.where(is_last, array, jnp.zeros((), array.dtype)), axis, dtype=array.dtype)


def sum_by(array: jax.Array, index: jax.Array, size: int) -> jax.Array:
    """The sums of the elements that have each index in `[0, size)`; both may be split, alike."""
    if not any(split_axes(array)):
        return jax.ops.segment_sum(array.ravel(), index.ravel(), size)
    places = jnp.arange(size, dtype=index.dtype).reshape(-1, *[1] * index.ndim)
    return jnp.sum(jnp.where(index[None] == places, array[None], 0.0), range(1, index.ndim + 1))


def zeros_like_all(dtype, *arrays: jax.Array) -> jax.Array:
    """Zeros to carry through a loop over the arrays, of the shape that they broadcast to.

    A carry must keep its type, and with it its place on a mesh: so the zeros are computed from all arrays.
    """
    # False for every number, NaN included.
    nothing = [(array != array) & (array == array) for array in arrays]
    return functools.reduce(operator.or_, nothing).astype(dtype)


def varying_axes(*arrays) -> frozenset[str]:
    """The mesh axes, inside `shard_map`, along which any of the arrays is known to differ."""
    found: frozenset[str] = frozenset()
    for array in arrays:
        aval = array if isinstance(array, jax.ShapeDtypeStruct) else jax.typeof(array)
        kind = getattr(aval, "manual_axis_type", None)
        found |= frozenset(getattr(aval, "vma", ()) or ()) if kind is None else kind.varying
    return found


def differ_along(arrays, axes: frozenset[str]):
    """The same arrays, marked as differing along the axes: what a loop carries must not change its type."""

    def mark(array):
        missing = tuple(sorted(axes - varying_axes(array)))
        if not missing:
            return array
        # Before jax 0.8, `pcast` was called `pvary`.
        pvary = getattr(lax, "pvary", None)
        return pvary(array, missing) if pvary else lax.pcast(array, missing, to="varying")

    return jax.tree.map(mark, arrays)
