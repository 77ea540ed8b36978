"""A head's loss of arrays whose types say how they lie on a mesh: each device with its tokens and classes.

On a mesh with explicit axes, which `jax.make_mesh` makes, this is known when the loss is traced. One
`shard_map` around the loss then sums the weight's gradient over the devices once. With automatic axes the
compiler places that sum where it arises, at every chunk; XLA moves it out of the loop on GPU, not on CPU.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from jaxloss import _checks
from jaxloss._reduction import select
from jaxloss.fused._head_arguments import HeadArguments, mean_denominator

# Arguments with one row for each class; the others have one for each token, but for scalars.
_OF_CLASSES = ("linear_weight", "linear_bias", "weight", "teacher_linear_weight", "teacher_linear_bias")


class Layout(NamedTuple):
    """The mesh axes that each axis of the tokens is split over, and the one that the classes are, if any."""

    mesh: AbstractMesh
    tokens: tuple[tuple[str, ...], ...]
    classes: str | None

    def of_tokens(self) -> PartitionSpec:
        """How an array with one value for each token lies."""
        return PartitionSpec(*(axes or None for axes in self.tokens))

    def of_argument(self, name: str, array: jax.Array) -> PartitionSpec:
        """How the argument of this name lies."""
        if array.ndim == 0:
            return PartitionSpec()
        if name in _OF_CLASSES:
            return PartitionSpec(self.classes)
        axes = [*self.of_tokens(), *[None] * (array.ndim - len(self.tokens))]
        if name == "target" and jnp.issubdtype(array.dtype, jnp.floating):
            axes[-1] = self.classes
        return PartitionSpec(*axes)


def find_layout(arguments: dict[str, Any], splits_classes: bool) -> Layout | None:
    """How tokens and, if `splits_classes`, classes are split; None where no array's type splits anything."""
    found = {k: _mesh_and_axes(a) for k, a in arguments.items() if isinstance(a, (jax.Array, np.ndarray))}
    meshes = [mesh for mesh, axes in found.values() if any(axes)]
    if not meshes or not {"input", "linear_weight"} <= found.keys():
        return None
    tokens, of_weight = found["input"][1][:-1], found["linear_weight"][1][:1]
    of_tokens = [name for axes in tokens for name in axes]
    of_classes = [name for axes in of_weight for name in axes if name not in of_tokens]
    return Layout(meshes[0], tokens, of_classes[0] if splits_classes and len(of_classes) == 1 else None)


def loss_over_layout(
    loss: Callable[..., Any],
    check: Callable[..., HeadArguments],
    layout: Layout,
    arguments: dict[str, Any],
    *,
    reduction: str,
    axis_name: str | None = None,
    with_statistics: bool = False,
) -> Any:
    """`loss(reduction=..., axis_name=..., **arguments)`, every device with its part of the arrays.

    `check(**arguments)` raises what is wrong with them, by name.
    """
    given = {k: a for k, a in arguments.items() if isinstance(a, (jax.Array, np.ndarray))}
    # Labels by themselves, lest those of numpy that JAX cannot hold are wrapped round.
    arrays = {
        k: _checks.as_labels(k, a) if k == "target" and _checks.has_dtype(a, jnp.integer) else jnp.asarray(a)
        for k, a in given.items()
    }
    others = {k: a for k, a in arguments.items() if k not in arrays}
    # Without the shardings, which would not let the checks flatten the tokens.
    plain = {k: jax.ShapeDtypeStruct(a.shape, a.dtype) for k, a in arrays.items()}
    jax.eval_shape(lambda plain: check(**plain, **others).kept, plain)

    specs = {name: layout.of_argument(name, array) for name, array in arrays.items()}
    placed = {k: jax.sharding.reshard(a, NamedSharding(layout.mesh, specs[k])) for k, a in arrays.items()}
    token_axes = tuple(name for axes in layout.tokens for name in axes)
    axis_name = layout.classes or axis_name
    if not token_axes and layout.classes is None:
        return loss(**others, **placed, reduction=reduction, axis_name=axis_name)

    def on_device(arrays):
        local = others | arrays
        if reduction == "none":
            return loss(**local, reduction="none", axis_name=axis_name)
        if reduction == "mean":
            head = check(**local)
            denominator = lax.psum(mean_denominator(head, axis_name), token_axes)
            local["sample_weight"] = select(head.kept, head.sample_weight / denominator).reshape(head.shape)
        result = loss(**local, reduction="sum", axis_name=axis_name)
        total, *statistics = result if with_statistics else (result,)
        total = lax.psum(total, token_axes)
        if reduction == "mean":
            total += jnp.where(denominator == 0.0, jnp.nan, 0.0).astype(total.dtype)
        return (total, *statistics) if with_statistics else total

    of_loss: Any = layout.of_tokens() if reduction == "none" else PartitionSpec()
    explicit = zip(layout.mesh.axis_names, layout.mesh.axis_types, strict=True)
    return jax.shard_map(
        on_device,
        mesh=layout.mesh,
        in_specs=(specs,),
        out_specs=(of_loss, layout.of_tokens()) if with_statistics else of_loss,
        axis_names={name for name, kind in explicit if kind == AxisType.Explicit},
    )(placed)


def _mesh_and_axes(array: jax.Array | np.ndarray) -> tuple[AbstractMesh, tuple[tuple[str, ...], ...]]:
    """The mesh in an array's type, and the mesh axes that each of its axes is split over."""
    sharding = jax.typeof(array).sharding
    axes = [() if a is None else (a,) if isinstance(a, str) else tuple(a) for a in sharding.spec]
    return sharding.mesh, tuple(axes + [()] * (array.ndim - len(axes)))
