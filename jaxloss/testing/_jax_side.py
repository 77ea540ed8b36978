"""Run the JAX function: outputs, and gradients by `jax.vjp` under given cotangents."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxloss.testing._run import PARAMS, Arrays, Leaves, OutputMismatchError, Result, describe
from jaxloss.testing.inputs import is_array
from jaxloss.testing.measure import to_numpy


@contextlib.contextmanager
def jax_settings(dtype: str, matmul_precision: str = "highest") -> Iterator[None]:
    """float64 where it is compared, and a matmul precision; afterwards the caller's own again."""
    x64 = contextlib.nullcontext() if dtype != "float64" else jax.enable_x64(True)
    # By default, accelerators multiply float32 matrices in TF32 or bfloat16.
    with x64, jax.default_matmul_precision(matmul_precision):
        yield


def run_jax(
    function: Callable[..., Any],
    inputs: tuple[Any, ...],
    wrt: list[str],
    cotangents: Arrays,
    *,
    params: Any = None,
    params_to_torch: Callable[[Any], Arrays] | None = None,
    dtype: str,
    jit: bool,
    matmul_precision: str = "highest",
) -> Result:
    """Outputs and gradients of the JAX function, whose outputs must have the cotangents' shapes."""
    taken = Leaves.of(inputs)
    with jax_settings(dtype, matmul_precision):
        arrays = {name: jnp.asarray(_fitting(array)) for name, array in taken.arrays().items()}
        moving = {name: arrays.pop(name) for name in wrt}
        params = jax.tree.map(jnp.asarray, params)

        def evaluate(moving: Any, params: Any, fixed: Any, cotangents: Any) -> Any:
            def outputs_of(moving: Any, params: Any) -> Any:
                leading = () if params is None else (params,)
                outputs = function(*leading, *taken.rebuild({**fixed, **moving}))
                return _named(outputs, cotangents)

            values, pull_back, exact = jax.vjp(outputs_of, moving, params, has_aux=True)
            matched = {name: cotangents[name].astype(value.dtype) for name, value in values.items()}
            return {**values, **exact}, pull_back(matched)

        # Eager functions are run as they are: one that looks at values cannot be traced.
        compiled = jax.jit(evaluate) if jit else evaluate
        values, (gradients, params_gradient) = compiled(moving, params, arrays, cotangents)
        named = {f"gradient of {name}": to_numpy(gradient) for name, gradient in gradients.items()}
        if params is not None:
            assert params_to_torch is not None
            converted = params_to_torch(params_gradient)
            named |= {f"gradient of {PARAMS} {name}": to_numpy(g) for name, g in converted.items()}
        return Result({name: to_numpy(value) for name, value in values.items()}, named)


def _named(outputs: Any, expected: Arrays) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Outputs under the names of torch's; those that have no gradient apart."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(outputs)]
    shapes = [leaf.shape for leaf in leaves]
    if shapes != [array.shape for array in expected.values()]:
        got = ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in leaves) or "nothing"
        raise OutputMismatchError(f"the JAX function returns {got}; torch returns {describe(expected)}")
    named = dict(zip(expected, leaves, strict=True))
    floating = {name: leaf for name, leaf in named.items() if jnp.issubdtype(leaf.dtype, jnp.floating)}
    return floating, {name: leaf for name, leaf in named.items() if name not in floating}


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
