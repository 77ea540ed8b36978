"""Run the torch function or module: outputs, and gradients by autograd under given cotangents.

Torch is imported when a function here is called, not before: `import jaxloss.testing` works without it.
"""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxloss.interop import check_dropout, is_module, is_tensor, pull_back, to_numpy, to_torch
from jaxloss.testing._jax import Converter
from jaxloss.testing._result import Arrays, Leaves, Result, name_gradients, name_outputs, shape_text
from jaxloss.testing.measure import dtype_name


class TorchSide:
    """The torch function or module with its gradients.

    Args:
        function: anything callable, or an `nn.Module`, which is left as it is: its parameters and buffers are
            cast for each run alone, and params stand in for its parameters.
        wrt: names of the arrays to differentiate.
        converter: from params to torch's names and layouts; None without params.
        device: where to run; by default where the module's parameters are, or the CPU.

    Raises:
        ValueError: torch has no such device.
    """

    is_recorded = False

    def __init__(
        self, function: Any, wrt: list[str], converter: Converter | None, device: str | None
    ) -> None:
        self._function, self.wrt, self._converter = function, wrt, converter
        self._device = device or _device_of(function)
        check_device(self._device)

    def run(
        self,
        inputs: tuple[Any, ...],
        params: Any,
        dtype: str,
        cotangents: Arrays | None = None,
        *,
        seed: int = 0,
        around: Any = None,
    ) -> Result:
        """Outputs, and their gradients where there are cotangents.

        Args:
            inputs: numpy arrays, in containers, and settings; already rounded to the dtype.
            params: the JAX function's; None leaves a module its own.
            dtype: of parameters, buffers and literals.
            cotangents: by output name.
            seed: of torch's random numbers.
            around: a context in which to call the function.
        """
        import torch

        taken = Leaves.of(inputs)
        converted = {} if self._converter is None or params is None else self._converter(params)
        with settings(dtype, self._device, seed), torch.set_grad_enabled(cotangents is not None):
            arrays = {name: to_torch(array, self._device) for name, array in taken.arrays().items()}
            given = {
                name: to_torch(value.astype(np.float64), self._device, dtype)
                for name, value in converted.items()
            }
            moving = name_gradients({name: arrays[name] for name in self.wrt}, given)
            if cotangents is None:
                moving, cotangents = {}, {}
            for tensor in moving.values():
                tensor.requires_grad_()
            with around or contextlib.nullcontext():
                try:
                    outputs = self._call(given, taken.rebuild(arrays), dtype)
                except Exception as error:
                    got = ", ".join(map(shape_text, arrays.values()))
                    error.add_note(
                        f"raised by the torch function, given {got} on {self._device}; device= moves them"
                    )
                    raise
            named = _checked(outputs)
            incoming = [cotangents[name] for name in named if moving]
            gradients = pull_back([*named.values()], [*moving.values()], incoming)
            return Result(
                {name: to_numpy(output) for name, output in named.items()},
                {name: to_numpy(gradient) for name, gradient in zip(moving, gradients, strict=True)},
            )

    def check_reproducible(self, inputs: tuple[Any, ...]) -> Arrays:
        """Raise where torch would draw random numbers: two runs could not be compared.

        Returns:
            The outputs in float64.

        Raises:
            ValueError: a dropout module is in training mode, or two seeds give two results.
        """
        check_dropout(self._function)
        first, second = (self.run(inputs, None, "float64", seed=seed).values for seed in (0, 1))
        for name, value in first.items():
            if not np.array_equal(value, second[name], equal_nan=value.dtype.kind == "f"):
                raise ValueError(
                    "the torch function gives two results for the same inputs, so it draws random numbers "
                    "(dropout in training mode?): nothing can be compared with it"
                )
        return first

    def _call(self, params: dict[str, Any], inputs: tuple[Any, ...], dtype: str) -> Any:
        import torch

        function = self._function
        if not is_module(function):
            return function(*inputs)
        state = cast_state(function, dtype, self._device)
        return torch.func.functional_call(function, {**state, **params}, inputs)


def cast_state(module: Any, dtype: str, device: str, *, each_name: bool = False) -> dict[str, Any]:
    """Copies of a module's parameters and buffers in a dtype; `each_name` repeats tied ones by name."""
    import torch

    copies: dict[int, Any] = {}
    state = {}
    once = not each_name
    named = (module.named_parameters(remove_duplicate=once), module.named_buffers(remove_duplicate=once))
    for name, x in itertools.chain(*named):
        target = getattr(torch, dtype) if x.is_floating_point() else x.dtype
        if id(x) not in copies:
            copies[id(x)] = x.detach().clone().to(device, target)
        state[name] = copies[id(x)]
    return state


@contextlib.contextmanager
def settings(dtype: str, device: str, seed: int) -> Iterator[None]:
    """The dtype of literals, full precision and a fixed seed; afterwards the caller's own again.

    Autocast and inference mode are off inside: one would change the dtype, the other forbids gradients.
    """
    import torch
    from torch.backends import cudnn

    default, precision = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    kept = {
        name: getattr(cudnn, name) for name in ("enabled", "benchmark", "benchmark_limit", "deterministic")
    }
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        # So that torch.tensor(0.1) inside a function is not a float32 rounding of 0.1 in a float64
        # computation.
        torch.set_default_dtype(torch.float64 if dtype == "float64" else torch.float32)
        torch.set_float32_matmul_precision("highest")
        with (
            # On CUDA convolutions multiply in TF32 unless told otherwise, whatever the matmul precision. By
            # torch's own context, since `torch.testing` forbids to set a flag outside of one.
            cudnn.flags(**kept, allow_tf32=False),
            torch.random.fork_rng(devices),
            torch.inference_mode(False),
            torch.autocast(torch.device(device).type, enabled=False),
        ):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_default_dtype(default)
        torch.set_float32_matmul_precision(precision)


def check_device(device: str) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    # What torch raises depends on the device: RuntimeError, AssertionError and others.
    except Exception as error:
        raise ValueError(f"device must be one that torch has here; got {device!r}: {error}") from error


def _device_of(function: Any) -> str:
    parameters = [*function.parameters(), *function.buffers()] if is_module(function) else []
    return str(parameters[0].device) if parameters else "cpu"


def _checked(outputs: Any) -> dict[str, Any]:
    named = name_outputs(outputs)
    if not named:
        raise ValueError("the torch function returns nothing")
    for leaf in named.values():
        if not is_tensor(leaf):
            raise TypeError(f"the torch function must return tensors; got {type(leaf).__name__}")
        if leaf.is_complex():
            raise TypeError(f"the torch function must return real numbers; got {dtype_name(leaf)}")
    return named
