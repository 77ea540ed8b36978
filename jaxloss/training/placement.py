"""Which devices hold what: parameters on all that share the work, a batch split between them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


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
    devices = jax.local_devices()
    if batch_size % len(devices):
        devices = devices[:1]
    everywhere = NamedSharding(Mesh(np.array(devices), ("batch",)), PartitionSpec())
    # Copied first: device_put alone, even with may_alias=False, can hand back the caller's own buffer.
    return jax.tree.map(lambda leaf: jax.device_put(jnp.array(leaf, copy=True), everywhere), params)


def place_batch(batch: Any, params: Any) -> Any:
    """Move a batch to where the parameters are, split along its first axis if their devices divide it.

    Args:
        batch: tree of arrays, of NumPy or on any device.
        params: tree of arrays, all on the same devices.

    Returns:
        The batch, on the parameters' devices.

    Raises:
        ValueError: if some parameters are on other devices than the rest.
    """
    devices = _devices(params)
    mesh = Mesh(np.array(devices), ("batch",))

    def sharding(leaf: Any) -> NamedSharding:
        splits = np.ndim(leaf) > 0 and np.shape(leaf)[0] % len(devices) == 0
        return NamedSharding(mesh, PartitionSpec("batch") if splits else PartitionSpec())

    return jax.tree.map(lambda leaf: jax.device_put(leaf, sharding(leaf)), batch)


def _devices(params: Any) -> list[jax.Device]:
    leaves = jax.tree.leaves_with_path(params)
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
