"""The two functions, and all that is asked of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxloss.interop import to_numpy
from jaxloss.testing._jax_side import JaxSide
from jaxloss.testing._params import make_converter
from jaxloss.testing._run import Arrays, Leaves, Result, differentiable
from jaxloss.testing._torch_side import check_reproducible, module_parameters, run_torch
from jaxloss.testing.inputs import cast


@dataclass(frozen=True)
class Problem:
    """Both sides of a comparison, to be run on any inputs of the same shapes.

    Args:
        inputs: as float64.
        params: the JAX function's parameters, as numpy.
        wrt: names of the inputs to differentiate.
        jax_side: the JAX function.
        torch_fn: the torch function or module.
        converter: from params to torch's names and layouts.
        device: torch's.
    """

    inputs: tuple[Any, ...]
    params: Any
    wrt: list[str]
    jax_side: JaxSide
    torch_fn: Callable[..., Any]
    converter: Callable[[Any], Arrays] | None
    device: str | None

    def torch(
        self, inputs: tuple[Any, ...], cotangents: Arrays | None, dtype: str, params: Any, **options: Any
    ) -> Result:
        """Torch's result on inputs that are already rounded, computed in `dtype`."""
        arrays = self.converter(params) if self.converter else None
        return run_torch(
            self.torch_fn,
            inputs,
            self.wrt,
            cotangents,
            params=arrays,
            dtype=dtype,
            device=self.device,
            **options,
        )

    def jax(self, inputs: tuple[Any, ...], cotangents: Arrays, dtype: str, params: Any) -> Result:
        """JAX's result, like torch's; inputs and params must have the dtype."""
        return self.jax_side.run(inputs, cotangents, params, dtype)

    def widened(self, inputs: tuple[Any, ...], params: Any) -> tuple[tuple[Any, ...], Any]:
        """The same numbers in float64."""
        return cast(inputs, "float64"), cast(params, "float64")


def make_problem(
    jax_fn: Callable[..., Any],
    torch_fn: Callable[..., Any],
    inputs: tuple[Any, ...],
    *,
    wrt: Any,
    params: Any,
    params_to_torch: Callable[[Any], Any] | None,
    jit: bool,
    device: str | None,
    matmul_precision: str,
) -> Problem:
    """Check that the two can be compared, and prepare it; the arguments are those of `assert_parity`.

    Raises:
        TypeError: a parameter, an output or `wrt` has a type that cannot be compared.
        ValueError: parameters do not correspond, or torch's results are random.
    """
    params = jax.tree.map(lambda leaf: np.array(to_numpy(leaf)), params)
    converter = None
    if params is not None:
        converter = make_converter(params, module_parameters(torch_fn), params_to_torch)
    names = differentiable(inputs, wrt, params is not None)
    outputs = check_reproducible(torch_fn, inputs, device).values
    jax_side = JaxSide(
        jax_fn, inputs, names, outputs, converter=converter, jit=jit, matmul_precision=matmul_precision
    )
    return Problem(inputs, params, names, jax_side, torch_fn, converter, device)


def describe_inputs(inputs: tuple[Any, ...]) -> str:
    """Dtypes and shapes, for messages."""
    return ", ".join(f"{a.dtype}{list(a.shape)}" for a in Leaves.of(inputs).arrays().values())
