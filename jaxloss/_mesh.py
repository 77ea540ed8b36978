"""What JAX wants to know of arrays on a mesh: how gathers lie, where the parts of loops differ."""

import functools
import operator

import jax
from jax import lax
from jax.sharding import AxisType


def take(table: jax.Array, index: jax.Array) -> jax.Array:
    """`table[index]`, lying on the mesh as the index does.

    On a mesh with explicit axes, which `jax.make_mesh` makes, JAX asks for that rather than choosing itself.
    """
    sharding = jax.typeof(index).sharding
    if AxisType.Explicit not in sharding.mesh.axis_types:
        return table[index]
    if index.ndim == 0:
        # Of one number JAX makes a slice, which under `vmap` over a split axis has no `out_sharding`.
        return take(table, index[None])[0]
    return table.at[index].get(out_sharding=sharding)


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
