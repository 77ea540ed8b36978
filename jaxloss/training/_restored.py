"""Training states that were read from a file, whose arrays are numpy's."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxloss.training.placement import place_params
from jaxloss.training.state import TrainState


def on_devices(state: TrainState, *, batch_size: int) -> TrainState:
    """The state, with what is no JAX array where its JAX arrays are; else where `place_params` puts it.

    It is copied, since a train step writes over what it is given.
    """
    leaves = jax.tree.leaves(state)
    placed = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]
    if len(placed) == len(leaves):
        return state
    if not placed:
        return place_params(state, batch_size=batch_size)
    devices: set[jax.Device] = max((leaf.sharding.device_set for leaf in placed), key=len)
    mesh = Mesh(np.array(sorted(devices, key=lambda device: device.id)), ("batch",))
    everywhere = NamedSharding(mesh, PartitionSpec())

    def place(leaf: object) -> jax.Array:
        if isinstance(leaf, jax.Array):
            return leaf
        return jax.device_put(jnp.array(leaf, copy=True), everywhere)

    return jax.tree.map(place, state)
