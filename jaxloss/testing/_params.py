"""Which parameter of a torch module each leaf of a JAX parameter tree is."""

import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxloss.interop import to_numpy
from jaxloss.testing._run import Arrays
from jaxloss.testing.inputs import is_floating

# Flax's names for what torch calls weight.
_LEAVES = {"kernel": "weight", "embedding": "weight", "scale": "weight"}


def make_converter(
    params: Any, module: Arrays, convert: Callable[[Any], Any] | None
) -> Callable[[Any], Arrays]:
    """Make the function from a parameter tree, or its gradient, to torch's names and layouts.

    Without `convert`, a leaf's path is its torch name, where `_` and `/` count as dots, and kernel, embedding
    and scale as weight; kernels are [in, out] in Flax and [out, in] in torch, and a convolution's are
    [*spatial, in, out] and [out, in, *spatial].

    Args:
        params: the tree.
        module: the torch module's parameters.
        convert: the caller's own conversion.

    Raises:
        TypeError: a parameter is not floating point.
        ValueError: names or shapes do not correspond; all that are left over are named.
    """
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        if not is_floating(leaf):
            name = jax.tree_util.keystr(path)
            raise TypeError(f"params{name} must be floating point, to be differentiated; got {leaf.dtype}")
    converter = _by_convert(convert) if convert is not None else _by_name(module)
    _check(converter(params), module)
    return converter


def _by_convert(convert: Callable[[Any], Any]) -> Callable[[Any], Arrays]:
    def converter(tree: Any) -> Arrays:
        return {name: to_numpy(array) for name, array in convert(tree).items()}

    return converter


def _by_name(module: Arrays) -> Callable[[Any], Arrays]:
    names = {_normal(name): name for name in module}

    def converter(tree: Any) -> Arrays:
        arrays = {}
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            *modules, kind = (str(getattr(entry, "key", getattr(entry, "idx", entry))) for entry in path)
            own = ".".join([*modules, _LEAVES.get(kind, kind)])
            array = to_numpy(leaf)
            if kind == "kernel":
                array = np.moveaxis(array, (-1, -2), (0, 1))
            arrays[names.get(_normal(own), own)] = array
        return arrays

    return converter


def _normal(name: str) -> str:
    return re.sub(r"[._/]+", ".", name)


def _check(converted: Arrays, module: Arrays) -> None:
    missing, extra = sorted(module.keys() - converted.keys()), sorted(converted.keys() - module.keys())
    if missing or extra:
        said = [
            f"{what}: {', '.join(names)}"
            for what, names in (("only in the torch module", missing), ("only in params", extra))
            if names
        ]
        raise ValueError(
            f"params must match the torch module's parameters; {'; '.join(said)}. params_to_torch can say "
            "how they map"
        )
    wrong = [
        f"{name}: {list(converted[name].shape)} in params, {list(module[name].shape)} in torch"
        for name in module
        if converted[name].shape != module[name].shape
    ]
    if wrong:
        raise ValueError(f"params must have the shapes of the torch module's parameters; {'; '.join(wrong)}")
