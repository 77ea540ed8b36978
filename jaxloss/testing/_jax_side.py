"""Run the JAX function: outputs, and gradients by `jax.vjp` under given cotangents."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxloss.interop import to_numpy
from jaxloss.testing._run import PARAMS, Arrays, Leaves, OutputMismatchError, Result, describe, name_outputs
from jaxloss.testing.inputs import is_array
from jaxloss.testing.measure import dtype_name


@contextlib.contextmanager
def jax_settings(dtype: str, matmul_precision: str = "highest") -> Iterator[None]:
    """float64 where it is compared, and a matmul precision; afterwards the caller's own again."""
    x64 = contextlib.nullcontext() if dtype != "float64" else jax.enable_x64(True)
    # By default, accelerators multiply float32 matrices in TF32 or bfloat16. Moving arrays to the device and
    # back is what a comparison does, even where the caller forbids it.
    with x64, jax.default_matmul_precision(matmul_precision), jax.transfer_guard("allow"):
        yield


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
        converter: Callable[[Any], Arrays] | None,
        jit: bool,
        matmul_precision: str,
    ) -> None:
        self._function, self._taken, self._wrt, self._outputs = function, Leaves.of(inputs), wrt, outputs
        self._converter, self._matmul_precision = converter, matmul_precision
        self._run = jax.jit(self._values_and_gradients) if jit else self._values_and_gradients

    def run(self, inputs: tuple[Any, ...], cotangents: Arrays, params: Any, dtype: str) -> Result:
        """Outputs, and the gradients that the cotangents are pulled back to."""
        with jax_settings(dtype, self._matmul_precision):
            taken = Leaves.of(inputs)
            fixed = {name: jnp.asarray(_fitting(array)) for name, array in taken.arrays().items()}
            moving = {name: fixed.pop(name) for name in self._wrt}
            params = jax.tree.map(jnp.asarray, params)
            # A list: the keys of a dict would come out of the compiled function's arguments sorted.
            incoming = [cotangents[name] for name in self._outputs]
            values, (gradients, of_params) = self._run(moving, params, fixed, incoming)
            named = {f"gradient of {name}": to_numpy(gradient) for name, gradient in gradients.items()}
            if params is not None:
                assert self._converter is not None
                converted = self._converter(of_params)
                named |= {f"gradient of {PARAMS} {name}": to_numpy(g) for name, g in converted.items()}
            return Result({name: to_numpy(value) for name, value in values.items()}, named)

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
            return [
                (name, x.shape, jnp.issubdtype(dtype_name(x), jnp.floating)) for name, x in arrays.items()
            ]

        if signature(found) != signature(self._outputs):
            raise OutputMismatchError(
                f"the JAX function returns {describe(found)}; torch returns {describe(self._outputs)}"
            )
        return found


def _fitting(array: np.ndarray) -> np.ndarray:
    """64-bit labels in 32 bits, unless JAX is set to keep 64: it would narrow them itself, with a warning."""
    if array.dtype.kind not in "iu" or array.dtype.itemsize < 8 or jax.config.read("jax_enable_x64"):
        return array
    narrow = array.astype(np.int32 if array.dtype.kind == "i" else np.uint32)
    if not np.array_equal(narrow, array):
        raise ValueError(
            "an integer input does not fit into 32 bits, which is all that JAX has without jax_enable_x64"
        )
    return narrow


def has_arrays(tree: Any) -> bool:
    """Whether a tree has any array in it."""
    return any(is_array(leaf) for leaf in jax.tree.leaves(tree))
