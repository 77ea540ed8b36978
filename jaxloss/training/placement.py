"""What lies where: a mesh of devices, parameters split over it, a batch shared by it.

The mesh has three axes. `data` and `fsdp` share the batch; `fsdp` splits parameters and the optimizer's
averages as well, which are gathered where they are used; `tensor` splits the computing of each crop:
attention heads, the MLP's hidden width and the vocabulary.
"""

import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxloss._checks import as_wide_as_jax, check_integer
from jaxloss._mesh import BATCH_AXES, TENSOR_AXIS, tensor_axis

_AXES = (*BATCH_AXES, TENSOR_AXIS)


def make_mesh(*, batch_size: int, data: int | None = None, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """Arrange the devices for training: this process's, or with `jax.distributed` those of all processes.

    Args:
        batch_size: crops in a training batch, of all processes together.
        data: devices, times `fsdp`, that share the batch; None means as many as there are and divide it,
            with a warning where that leaves some idle.
        fsdp: devices that share the batch, and over which parameters and the optimizer's averages are split.
        tensor: devices over which heads, MLP and vocabulary are split.

    Returns:
        A mesh with the axes "data", "fsdp" and "tensor".

    Raises:
        ValueError: there are too few devices, or they do not divide the batch.
    """
    for name, size in (("fsdp", fsdp), ("tensor", tensor)):
        check_integer(name, size, low=1)
    devices = jax.devices() if jax.process_count() > 1 else jax.local_devices()
    if data is None:
        most = len(devices) // (fsdp * tensor)
        data = next((n for n in range(most, 0, -1) if batch_size % (n * fsdp) == 0), 1)
        if data < most:
            warnings.warn(
                f"batch_size {batch_size} is shared by {data * fsdp * tensor} of {len(devices)} devices: "
                f"a multiple of {most * fsdp} would use all",
                stacklevel=2,
            )
    check_integer("data", data, low=1)
    shape, used = (data, fsdp, tensor), data * fsdp * tensor
    described = " x ".join(f"{name} {size}" for name, size in zip(_AXES, shape, strict=True))
    if used > len(devices):
        raise ValueError(f"the mesh {described} needs {used} devices; there are {len(devices)}.")
    if batch_size % (data * fsdp):
        raise ValueError(
            f"batch_size must be a multiple of data x fsdp = {data * fsdp}, which share it; got {batch_size}."
        )
    if jax.process_count() > 1 and used < len(devices):
        raise ValueError(
            f"the mesh {described} must take all {len(devices)} devices of {jax.process_count()} processes."
        )
    return Mesh(np.array(devices[:used]).reshape(shape), _AXES, axis_types=(AxisType.Auto,) * 3)


def place_params(params: Any, *, batch_size: int, mesh: Mesh | None = None) -> Any:
    """Copy a tree of arrays to the devices that will train it.

    The caller's arrays are left as they are: a train step consumes only the copy.

    Args:
        params: tree of arrays; parameters, or the optimizer's averages of them under the same names.
        batch_size: crops in a training batch.
        mesh: from `make_mesh`; None means what that makes of `batch_size`.

    Returns:
        The tree on the mesh: each array split over `fsdp` and `tensor` along an axis that they divide.

    Raises:
        ValueError: `tensor` does not divide what it is to split.
    """
    mesh = make_mesh(batch_size=batch_size) if mesh is None else mesh
    return jax.tree.map_with_path(partial(_placed, mesh), params)


def restored_on_devices(state: Any, *, batch_size: int) -> Any:
    """The state with its arrays of NumPy, which were read from a file, where its JAX arrays are.

    If it has none, they are where `place_params` puts them. A train step writes over what it is given, so
    they are copied.
    """
    leaves = jax.tree.leaves(state)
    on_device = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]
    if len(on_device) == len(leaves):
        return state
    mesh = mesh_of(max(on_device, key=lambda leaf: len(leaf.sharding.device_set), default=None))
    if mesh is None:
        return place_params(state, batch_size=batch_size)
    return jax.tree.map_with_path(
        lambda path, leaf: leaf if isinstance(leaf, jax.Array) else _placed(mesh, path, leaf), state
    )


def place_batch(batch: Any, params: Any) -> Any:
    """Move a batch to where the parameters are, split along its first axis if their devices divide it.

    A token id beyond JAX's integers becomes their largest or smallest, which is no token either.

    Args:
        batch: tree of arrays, of NumPy or on any device; of several processes, each gives its own crops
            (`own_crops`), and what is no batch, such as a key, whole.
        params: tree of arrays, all on the same devices; NumPy's, as read from a file, count as on those
            where `place_params` would put them.

    Returns:
        The batch, on the parameters' devices.

    Raises:
        ValueError: if some parameters are on other devices than the rest.
    """
    mesh = mesh_of(params) or make_mesh(batch_size=len(jax.tree.leaves(batch)[0]))
    over = tuple(axis for axis in BATCH_AXES if axis in mesh.shape) or mesh.axis_names
    num_shares = int(np.prod([mesh.shape[axis] for axis in over]))

    def place(leaf: Any) -> jax.Array:
        if isinstance(leaf, np.ndarray) and np.issubdtype(leaf.dtype, np.integer):
            leaf = as_wide_as_jax(leaf)
        if jax.process_count() > 1:
            if np.ndim(leaf) == 0:
                return _from_whole(leaf, NamedSharding(mesh, PartitionSpec()))
            sharding = NamedSharding(mesh, PartitionSpec(over))
            return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))
        splits = np.ndim(leaf) > 0 and np.shape(leaf)[0] % num_shares == 0
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(over) if splits else PartitionSpec()))

    return jax.tree.map(place, batch)


def own_crops(batch: Any, mesh: Mesh | None) -> Any:
    """This process's share of a batch, along the first axis; all of it if there is one process only.

    Args:
        batch: tree of arrays that every process has whole.
        mesh: from `make_mesh`.
    """
    if mesh is None or jax.process_count() == 1:
        return batch
    sharding = NamedSharding(mesh, PartitionSpec(BATCH_AXES))

    def own(leaf: np.ndarray) -> np.ndarray:
        places = sharding.addressable_devices_indices_map(leaf.shape).values()
        parts = sorted({place[0].indices(len(leaf))[:2] for place in places if place})
        return np.concatenate([leaf[start:stop] for start, stop in parts])

    return jax.tree.map(own, batch)


def whole(params: Any) -> Any:
    """The tree with every array whole on this process, which all processes must ask for together."""
    if jax.process_count() == 1:
        return params
    from jax.experimental.multihost_utils import process_allgather

    return process_allgather(params, tiled=True)


def mesh_of(params: Any) -> Mesh | None:
    """The mesh that holds JAX's arrays among the parameters; None if there are none."""
    leaves = [item for item in jax.tree.leaves_with_path(params) if isinstance(item[1], jax.Array)]
    if not leaves:
        return None
    first_path, first = leaves[0]
    for path, leaf in leaves:
        if leaf.sharding.device_set != first.sharding.device_set:
            raise ValueError(
                "all parameters must be on the same devices, but "
                f"{_name(first_path)} is on {_listed(first)} and {_name(path)} is on {_listed(leaf)}: "
                "move the whole tree with place_params(params, batch_size=...)"
            )
    if isinstance(first.sharding, NamedSharding) and isinstance(first.sharding.mesh, Mesh):
        return first.sharding.mesh
    return Mesh(np.array(sorted(first.sharding.device_set, key=lambda device: device.id)), ("data",))


def _placed(mesh: Mesh, path: tuple[Any, ...], leaf: Any) -> jax.Array:
    """A copy of a parameter, or of an average of it, on the mesh."""
    sharding = NamedSharding(mesh, _split(path, np.shape(leaf), mesh))
    if jax.process_count() > 1:
        return _from_whole(leaf, sharding)
    # Copied first: device_put alone, even with may_alias=False, can hand back the caller's own buffer.
    return jax.device_put(jnp.array(leaf, copy=True), sharding)


def _split(path: tuple[Any, ...], shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """How a parameter is split: over `tensor` by its rule, and along the first axis that the rest divides."""
    axes: list[Any] = [None] * len(shape)
    sizes = dict.fromkeys(("fsdp", TENSOR_AXIS), 1) | dict(mesh.shape)
    tensor = sizes[TENSOR_AXIS]
    rule = tensor_axis(path)
    if tensor > 1 and rule is not None:
        if shape[rule] % tensor:
            raise ValueError(
                f"tensor must divide axis {rule} of {_name(path)} {list(shape)}, which it splits; "
                f"got {tensor}."
            )
        axes[rule], tensor = TENSOR_AXIS, 1
    size = sizes["fsdp"] * tensor
    free = [axis for axis in range(len(shape)) if axes[axis] is None and shape[axis] % size == 0]
    if size > 1 and free:
        # Both names, also where one has one device: what is split by no rule is gathered to be computed with.
        axes[free[0]] = "fsdp" if tensor == 1 else ("fsdp", TENSOR_AXIS)
    elif size > 1 and len(shape) == 1 and axes[0] and shape[0] % (size * sizes[TENSOR_AXIS]) == 0:
        axes[0] = (TENSOR_AXIS, "fsdp")
    while axes and axes[-1] is None:  # as JAX writes what a program returns
        axes.pop()
    return PartitionSpec(*axes)


def _from_whole(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """An array of several processes, each of which has it whole."""
    if jnp.issubdtype(getattr(leaf, "dtype", np.dtype(float)), jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_from_whole(jax.random.key_data(leaf), sharding))
    whole = np.asarray(leaf)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _listed(leaf: jax.Array) -> str:
    return ", ".join(sorted(str(device) for device in leaf.sharding.device_set))
