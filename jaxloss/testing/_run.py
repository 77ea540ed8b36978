"""What a run of either side gives, and what both sides are asked for."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxloss.testing.inputs import is_array, is_floating, label
from jaxloss.testing.measure import dtype_name

Arrays = dict[str, np.ndarray]
PARAMS = "params"


@dataclass(frozen=True)
class Result:
    """The outputs and gradients of one side, under the names that messages use."""

    values: Arrays
    gradients: Arrays


@dataclass(frozen=True)
class Leaves:
    """A tree of inputs taken apart: its arrays by name, and how to put it together again."""

    names: list[str]
    leaves: list[Any]
    treedef: Any

    @classmethod
    def of(cls, inputs: tuple[Any, ...]) -> "Leaves":
        """Take the inputs apart."""
        paths, treedef = jax.tree_util.tree_flatten_with_path(inputs)
        return cls([label(path[0].idx, path[1:]) for path, _ in paths], [leaf for _, leaf in paths], treedef)

    def rebuild(self, replaced: dict[str, Any]) -> tuple[Any, ...]:
        """The inputs again, with the named arrays replaced."""
        leaves = [replaced.get(name, leaf) for name, leaf in zip(self.names, self.leaves, strict=True)]
        return jax.tree.unflatten(self.treedef, leaves)

    def arrays(self) -> Arrays:
        """The arrays by name, without settings such as a number or a string."""
        return {n: x for n, x in zip(self.names, self.leaves, strict=True) if is_array(x)}


class OutputMismatchError(Exception):
    """The two sides return different things, so that there is nothing to compare."""


def name_outputs(outputs: Any) -> dict[str, Any]:
    """Outputs by name, the same for equal structures of either framework: "value ['loss']", "value [0]".

    Lists, tuples and named tuples count as the same; a lone output is "value".
    """
    paths = jax.tree_util.tree_flatten_with_path(_plain(outputs))[0]
    if len(paths) == 1:
        return {"value": paths[0][1]}
    return {f"value {jax.tree_util.keystr(path)}": leaf for path, leaf in paths}


def _plain(tree: Any) -> Any:
    """Named tuples as tuples; those of torch are not even known to JAX as containers."""
    if isinstance(tree, tuple):
        return tuple(map(_plain, tree))
    if isinstance(tree, list):
        return list(map(_plain, tree))
    return {key: _plain(value) for key, value in tree.items()} if isinstance(tree, dict) else tree


def differentiable(inputs: tuple[Any, ...], wrt: Any, has_params: bool) -> list[str]:
    """Names of the input arrays to differentiate.

    Raises:
        TypeError: `wrt` names an input that has no floating-point array in it, or is no sequence of
            positions.
        ValueError: a position is out of range or given twice, or there is nothing to differentiate.
    """
    arrays = Leaves.of(inputs).arrays()
    floating = [name for name, array in arrays.items() if is_floating(array)]
    if wrt is None:
        if not floating and not has_params:
            raise ValueError(
                "no input is floating point, so there is no gradient to compare; wrt=() compares values"
            )
        return floating
    chosen: list[str] = []
    for position in _positions(wrt, len(inputs)):
        own = [name for name in arrays if name.split("[")[0] == label(position)]
        if not any(name in floating for name in own):
            what = dtype_name(arrays[own[0]]) if own else repr(inputs[position])
            raise TypeError(f"wrt names input {position}, which is not differentiable: it is {what}")
        chosen += [name for name in own if name in floating]
    return chosen


def _positions(wrt: Any, num_inputs: int) -> list[int]:
    entries = [wrt] if isinstance(wrt, (int, float, str)) or not hasattr(wrt, "__iter__") else list(wrt)
    for position in entries:
        if isinstance(position, bool) or not isinstance(position, (int, np.integer)):
            raise TypeError(f"wrt must hold positions of inputs, such as (0, 1); got {position!r}")
        if not 0 <= position < num_inputs:
            raise ValueError(f"wrt names input {position}, but there are {num_inputs} inputs, counted from 0")
        if entries.count(position) > 1:
            raise ValueError(f"wrt names input {position} twice")
    return [int(position) for position in entries]


def describe(arrays: dict[str, Any]) -> str:
    """Dtype and shape of each array, for messages."""
    return ", ".join(f"{name}: {dtype_name(a)}{list(a.shape)}" for name, a in arrays.items()) or "nothing"
