"""How arrays lie inside a compiled step: split as the state is, gathered where they are computed with."""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding, PartitionSpec

from jaxloss._mesh import TENSOR_AXIS
from jaxloss.training._forward import module_of
from jaxloss.training.placement import mesh_of


def on_mesh_of(params: Any) -> contextlib.AbstractContextManager[Any]:
    """The context in which a program sees the mesh that holds the parameters, if that has several devices."""
    mesh = mesh_of(params)
    return contextlib.nullcontext() if mesh is None or mesh.size == 1 else jax.set_mesh(mesh)


class Layout(NamedTuple):
    """The shardings of a tree's leaves, known when a step is compiled; none where there is one device."""

    leaves: tuple[jax.sharding.Sharding, ...] = ()

    @classmethod
    def like(cls, tree: Any) -> "Layout":
        """That of these arrays."""
        leaves = tuple(leaf.sharding for leaf in jax.tree.leaves(tree))
        return cls(leaves if leaves and len(leaves[0].device_set) > 1 else ())

    def lay(self, tree: Any) -> Any:
        """The tree, lying so: of gradients, each device then sums only its own part."""
        return self._constrain(tree, self.leaves)

    def gather(self, params: Any, apply_fn: Callable[..., Any]) -> Any:
        """The parameters with their parts of `fsdp` together; what `tensor` shares by a rule stays split.

        So does what a Linen model names in `split_params`: it gathers that itself.
        """
        together = self._constrain(params, tuple(map(_gathered, self.leaves)))
        left = getattr(module_of(apply_fn), "split_params", ())
        return {**together, **{name: params[name] for name in left}} if left else together

    def _constrain(self, tree: Any, leaves: tuple[jax.sharding.Sharding, ...]) -> Any:
        if not leaves:
            return tree
        return jax.lax.with_sharding_constraint(tree, jax.tree.unflatten(jax.tree.structure(tree), leaves))


ONE_DEVICE = Layout()


def _gathered(sharding: jax.sharding.Sharding) -> jax.sharding.Sharding:
    if not isinstance(sharding, NamedSharding):
        return sharding
    axes = [TENSOR_AXIS if axis in (TENSOR_AXIS, (TENSOR_AXIS, "fsdp")) else None for axis in sharding.spec]
    return NamedSharding(sharding.mesh, PartitionSpec(*axes))
