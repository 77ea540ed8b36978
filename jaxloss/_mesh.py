"""What `jax.shard_map` wants to know of a loop: along which mesh axes its arrays differ."""

import jax
from jax import lax


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
