"""Which devices hold what: parameters on all that share the work, a batch split between them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxloss._checks import as_wide_as_jax


def place_params(params: Any, *, batch_size: int) -> Any:
    """Copy a tree of arrays to the devices that will train it.

    All local devices take part when they divide the batch, each holding the whole tree; otherwise the first
    works alone. The caller's arrays are left as they are: a train step consumes only the copy.

    Args:
        params: tree of arrays.
        batch_size: crops in a training batch.

    Returns:
        The tree, on those devices.
    """
    devices = _sharing(batch_size)
    everywhere = NamedSharding(Mesh(np.array(devices), ("batch",)), PartitionSpec())
    # Copied first: device_put alone, even with may_alias=False, can hand back the caller's own buffer.
    return jax.tree.map(lambda leaf: jax.device_put(jnp.array(leaf, copy=True), everywhere), params)


def place_batch(batch: Any, params: Any) -> Any:
    """Move a batch to where the parameters are, split along its first axis if their devices divide it.

    A token id beyond JAX's integers becomes their largest or smallest, which is no token either.

    Args:
        batch: tree of arrays, of NumPy or on any device.
        params: tree of arrays, all on the same devices; NumPy's, as read from a file, count as on those
            where `place_params` would put them.

    Returns:
        The batch, on the parameters' devices.

    Raises:
        ValueError: if some parameters are on other devices than the rest.
    """
    devices = _devices(params) or _sharing(len(jax.tree.leaves(batch)[0]))
    mesh = Mesh(np.array(devices), ("batch",))

    def place(leaf: Any) -> jax.Array:
        if isinstance(leaf, np.ndarray) and np.issubdtype(leaf.dtype, np.integer):
            leaf = as_wide_as_jax(leaf)
        splits = np.ndim(leaf) > 0 and np.shape(leaf)[0] % len(devices) == 0
        parts = PartitionSpec("batch") if splits else PartitionSpec()
        return jax.device_put(leaf, NamedSharding(mesh, parts))

    return jax.tree.map(place, batch)


def _sharing(batch_size: int) -> list[jax.Device]:
    """The devices that share a batch of this size."""
    devices = jax.local_devices()
    return devices[:1] if batch_size % len(devices) else devices


def _devices(params: Any) -> list[jax.Device]:
    """The devices of JAX's arrays among the parameters; none if there are none."""
    leaves = [item for item in jax.tree.leaves_with_path(params) if isinstance(item[1], jax.Array)]
    if not leaves:
        return []
    first_path, first = leaves[0]
    for path, leaf in leaves:
        if leaf.sharding.device_set != first.sharding.device_set:
            raise ValueError(
                "all parameters must be on the same devices, but "
                f"{_name(first_path)} is on {_listed(first)} and {_name(path)} is on {_listed(leaf)}: "
                "move the whole tree with place_params(params, batch_size=...)"
            )
    return sorted(first.sharding.device_set, key=lambda device: device.id)


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _listed(leaf: jax.Array) -> str:
    return ", ".join(sorted(str(device) for device in leaf.sharding.device_set))
