"""What a run of either side gives: its inputs, outputs and gradients under the names that messages use."""

import re
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxloss.testing.inputs import is_array, label
from jaxloss.testing.measure import dtype_name

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Result:
    """The outputs and gradients of one side; their names differ, so that either is found by its name."""

    values: Arrays
    gradients: Arrays

    @property
    def arrays(self) -> Arrays:
        """Both together."""
        return {**self.values, **self.gradients}


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
    """The two sides return different things, so that there is nothing to compare.

    Args:
        message: what they return.
        names: of JAX's outputs.
    """

    def __init__(self, message: str, names: list[str]) -> None:
        super().__init__(message)
        self.names = names


class NotRecordedError(Exception):
    """What torch would give is not in the file that stands in for it."""


def name_outputs(outputs: Any) -> dict[str, Any]:
    """Outputs by name, the same for equal structures of either framework: "value ['loss']", "value [0]".

    Lists, tuples and named tuples count as the same; a lone output without a key is "value".
    """
    paths = jax.tree_util.tree_flatten_with_path(_plain(outputs))[0]
    if len(paths) == 1 and not any(hasattr(entry, "key") for entry in paths[0][0]):
        return {"value": paths[0][1]}
    return {f"value {jax.tree_util.keystr(path)}": leaf for path, leaf in paths}


def name_gradients(inputs: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """Gradients by name: "gradient of input 0", "gradient of params weight"."""
    return {f"gradient of {name}": gradient for name, gradient in inputs.items()} | {
        f"gradient of params {name}": gradient for name, gradient in params.items()
    }


def _plain(tree: Any) -> Any:
    """Named tuples as tuples; those of torch are not even known to JAX as containers."""
    if isinstance(tree, tuple):
        return tuple(map(_plain, tree))
    if isinstance(tree, list):
        return list(map(_plain, tree))
    return {key: _plain(value) for key, value in tree.items()} if isinstance(tree, dict) else tree


def shape_text(array: Any) -> str:
    """Dtype and shape, for messages: "float32[8, 10]"."""
    return f"{dtype_name(array)}{list(array.shape)}"


def dotted(name: str) -> str:
    """The name of a parameter or a submodule as both frameworks can spell it: `_` and `/` count as dots."""
    return re.sub(r"[._/]+", ".", name)
