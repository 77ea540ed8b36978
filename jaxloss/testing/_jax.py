"""Run the JAX function: outputs, and gradients by `jax.vjp` under given cotangents."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxloss.interop import to_numpy
from jaxloss.testing._result import (
    Arrays,
    Leaves,
    OutputMismatchError,
    Result,
    dotted,
    name_gradients,
    name_outputs,
    shape_text,
)
from jaxloss.testing.inputs import is_floating
from jaxloss.testing.measure import dtype_name

Converter = Callable[[Any], Arrays]

# Flax's names for what torch calls weight.
_LEAVES = {"kernel": "weight", "embedding": "weight", "scale": "weight"}


class JaxSide:
    """The JAX function with its gradients, compiled once for each dtype.

    Args:
        function: of params, where there are any, and inputs.
        inputs: of the kinds and shapes that it will be run on.
        wrt: names of the arrays to differentiate.
        outputs: what it must return, by name; the values do not matter.
        converter: from a tree like params to torch's names and layouts; None without params.
        jit: whether to compile; one that looks at values cannot be traced.
        matmul_precision: of its matrix products.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        inputs: tuple[Any, ...],
        wrt: list[str],
        outputs: Arrays,
        *,
        converter: Converter | None,
        jit: bool,
        matmul_precision: str,
    ) -> None:
        self._function, self._taken, self._wrt, self._outputs = function, Leaves.of(inputs), wrt, outputs
        self._converter, self._matmul_precision = converter, matmul_precision
        self._run = jax.jit(self._values_and_gradients) if jit else self._values_and_gradients

    def run(self, inputs: tuple[Any, ...], params: Any, dtype: str, cotangents: Arrays) -> Result:
        """Outputs, and the gradients that the cotangents are pulled back to."""
        with settings(dtype, self._matmul_precision):
            arrays = Leaves.of(inputs).arrays()
            fixed = {name: jnp.asarray(fitting(array)) for name, array in arrays.items()}
            moving = {name: fixed.pop(name) for name in self._wrt}
            # A list: the keys of a dict would come out of the compiled function's arguments sorted.
            incoming = [cotangents[name] for name in self._outputs]
            values, (gradients, of_params) = self._run(
                moving, jax.tree.map(jnp.asarray, params), fixed, incoming
            )
            named = name_gradients(gradients, self._converter(of_params) if self._converter else {})
            return Result(jax.tree.map(to_numpy, values), jax.tree.map(to_numpy, named))

    def _values_and_gradients(self, moving: Any, params: Any, fixed: Any, cotangents: list[Any]) -> Any:
        def outputs_of(moving: Any, params: Any) -> Any:
            leading = () if params is None else (params,)
            outputs = self._checked(self._function(*leading, *self._taken.rebuild({**fixed, **moving})))
            floating = {n: x for n, x in outputs.items() if jnp.issubdtype(x.dtype, jnp.floating)}
            return floating, {name: x for name, x in outputs.items() if name not in floating}

        values, pull_back, exact = jax.vjp(outputs_of, moving, params, has_aux=True)
        incoming = dict(zip(self._outputs, cotangents, strict=True))
        matched = {name: jnp.asarray(incoming[name]).astype(value.dtype) for name, value in values.items()}
        return {**values, **exact}, pull_back(matched)

    def _checked(self, outputs: Any) -> dict[str, jax.Array]:
        found = {name: jnp.asarray(leaf) for name, leaf in name_outputs(outputs).items()}

        def signature(arrays: dict[str, Any]) -> list[Any]:
            # float32 for a bfloat16 input is a choice; a count or a mask where torch has a number is not.
            return [(n, x.shape, jnp.issubdtype(dtype_name(x), jnp.floating)) for n, x in arrays.items()]

        if signature(found) != signature(self._outputs):
            ours, theirs = (
                ", ".join(f"{name}: {shape_text(array)}" for name, array in arrays.items()) or "nothing"
                for arrays in (found, self._outputs)
            )
            said = f"the JAX function returns {ours}; torch returns {theirs}"
            raise OutputMismatchError(said, [*found])
        return found


@contextlib.contextmanager
def settings(dtype: str, matmul_precision: str = "highest") -> Iterator[None]:
    """What JAX needs to compute in a dtype; afterwards the caller's own settings again."""
    # By default, accelerators multiply float32 matrices in TF32 or bfloat16. Moving arrays to the device
    # and back is what a comparison does, even where the caller forbids it.
    with (
        jax.enable_x64(dtype == "float64" or jax.config.read("jax_enable_x64")),
        jax.default_matmul_precision(matmul_precision),
        jax.transfer_guard("allow"),
    ):
        yield


def make_converter(
    params: Any, module: dict[str, list[int]], convert: Callable[[Any], Any] | None
) -> Converter:
    """Make the function from a parameter tree, or its gradient, to torch's names and layouts.

    Without `convert`, a leaf's path is its torch name, where `_` and `/` count as dots, and kernel, embedding
    and scale as weight; kernels are [in, out] in Flax and [out, in] in torch, and a convolution's are
    [*spatial, in, out] and [out, in, *spatial].

    Args:
        params: the tree.
        module: the shapes of the torch module's parameters.
        convert: the caller's own conversion.

    Raises:
        TypeError: a parameter is not floating point.
        ValueError: names or shapes do not correspond; all that are left over are named.
    """
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        if not is_floating(leaf):
            name = jax.tree_util.keystr(path)
            raise TypeError(f"params{name} must be floating point, to be differentiated; got {leaf.dtype}")
    names = {dotted(name): name for name in module}

    def by_name(tree: Any) -> Arrays:
        arrays = {}
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            *modules, kind = jax.tree_util.keystr(path, simple=True, separator=".").split(".")
            own = ".".join([*modules, _LEAVES.get(kind, kind)])
            array = to_numpy(leaf)
            if kind == "kernel":
                array = np.moveaxis(array, (-1, -2), (0, 1))
            arrays[names.get(dotted(own), own)] = array
        return arrays

    def by_convert(tree: Any) -> Arrays:
        assert convert is not None
        return {name: to_numpy(array) for name, array in convert(tree).items()}

    converter = by_name if convert is None else by_convert
    _check_shapes({name: list(array.shape) for name, array in converter(params).items()}, module)
    return converter


def _check_shapes(converted: dict[str, list[int]], module: dict[str, list[int]]) -> None:
    missing, extra = sorted(module.keys() - converted.keys()), sorted(converted.keys() - module.keys())
    said = [f"only in the torch module: {', '.join(missing)}"] if missing else []
    said += [f"only in params: {', '.join(extra)}"] if extra else []
    if said:
        raise ValueError(
            f"params must match the torch module's parameters; {'; '.join(said)}. params_to_torch can say "
            "how they map"
        )
    wrong = [
        f"{name}: {converted[name]} in params, {shape} in torch"
        for name, shape in module.items()
        if converted[name] != shape
    ]
    if wrong:
        raise ValueError(f"params must have the shapes of the torch module's parameters; {'; '.join(wrong)}")


def fitting(array: np.ndarray) -> np.ndarray:
    """64-bit labels in 32 bits, unless JAX is set to keep 64: it would narrow them itself, with a warning."""
    if array.dtype.kind not in "iu" or array.dtype.itemsize < 8 or jax.config.read("jax_enable_x64"):
        return array
    narrow = array.astype(np.int32 if array.dtype.kind == "i" else np.uint32)
    if not np.array_equal(narrow, array):
        raise ValueError(
            "an integer input does not fit into 32 bits, which is all that JAX has without jax_enable_x64"
        )
    return narrow
