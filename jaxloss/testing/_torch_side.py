"""Run the torch function or module: outputs, and gradients by autograd under given cotangents.

Torch is imported when a function here is called, not before: `import jaxloss.testing` works without it.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxloss.interop import check_dropout, is_module, is_tensor, pull_back, to_numpy, to_torch
from jaxloss.testing._run import PARAMS, Arrays, Leaves, Result, name_outputs
from jaxloss.testing.measure import dtype_name


@contextlib.contextmanager
def torch_settings(dtype: str, device: str, seed: int = 0) -> Iterator[None]:
    """The dtype of literals, full matmul precision and a fixed seed; afterwards the caller's own again.

    Autocast and inference mode are off inside: one would change the dtype, the other forbids gradients.
    """
    import torch

    default, precision = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        # So that torch.tensor(0.1) inside a function is not a float32 rounding of 0.1 in a float64
        # computation.
        torch.set_default_dtype(torch.float64 if dtype == "float64" else torch.float32)
        torch.set_float32_matmul_precision("highest")
        kind = torch.device(device).type
        with (
            torch.random.fork_rng(devices),
            torch.inference_mode(False),
            torch.autocast(kind, enabled=False),
            _convolutions_in_full_precision(),
        ):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_default_dtype(default)
        torch.set_float32_matmul_precision(precision)


def _convolutions_in_full_precision() -> Any:
    """The context; on CUDA they multiply in TF32 unless told otherwise, whatever the matmul precision."""
    from torch.backends import cudnn

    kept = {
        name: getattr(cudnn, name) for name in ("enabled", "benchmark", "benchmark_limit", "deterministic")
    }
    return cudnn.flags(**kept, allow_tf32=False)


def run_torch(
    function: Callable[..., Any],
    inputs: tuple[Any, ...],
    wrt: list[str] | None,
    cotangents: Arrays | None = None,
    *,
    params: Arrays | None = None,
    dtype: str,
    device: str | None = None,
    seed: int = 0,
    around: Any = None,
) -> Result:
    """Outputs of the torch function, and their gradients where there are cotangents.

    Args:
        function: anything callable, or an `nn.Module`, which is left as it is: its parameters and buffers are
            cast to `dtype` for this call alone, and `params` stands in for parameters.
        inputs: numpy arrays, in containers, and settings.
        wrt: names of the arrays to differentiate.
        cotangents: by output name.
        params: values of the module's parameters by name.
        dtype: of module parameters and buffers.
        device: where to run; by default where the module's parameters are, or the CPU.
        seed: of torch's random numbers.
        around: a context in which to call the function.
    """
    import torch

    device = device or _device_of(function)
    check_device(device)
    taken = Leaves.of(inputs)
    with torch_settings(dtype, device, seed), torch.set_grad_enabled(cotangents is not None):
        arrays = {name: to_torch(array, device) for name, array in taken.arrays().items()}
        moving = {name: arrays[name].requires_grad_() for name in wrt or []} if cotangents is not None else {}
        given = {
            name: to_torch(value.astype(np.float64), device, dtype) for name, value in (params or {}).items()
        }
        if cotangents is not None:
            moving |= {f"{PARAMS} {name}": value.requires_grad_() for name, value in given.items()}
        with around or contextlib.nullcontext():
            try:
                outputs = _call(function, given, taken.rebuild(arrays), dtype, device)
            except Exception as error:
                got = ", ".join(
                    f"{str(x.dtype).removeprefix('torch.')}{list(x.shape)}" for x in arrays.values()
                )
                error.add_note(f"raised by the torch function, given {got} on {device}; device= moves them")
                raise
        named = _named(outputs)
        values = {name: to_numpy(output) for name, output in named.items()}
        if cotangents is None or not moving:
            return Result(values, {})
        incoming = [cotangents[name] for name in named]
        gradients = pull_back(list(named.values()), list(moving.values()), incoming)
        return Result(
            values, {f"gradient of {n}": to_numpy(g) for n, g in zip(moving, gradients, strict=True)}
        )


def module_parameters(module: Any) -> Arrays:
    """The parameters of a torch module by name, as numpy; a shared one once."""
    return {name: to_numpy(value).copy() for name, value in module.named_parameters()}


def check_device(device: str) -> None:
    """Raise ValueError where torch has no such device."""
    import torch

    try:
        torch.empty(0, device=device)
    # What torch raises depends on the device: RuntimeError, AssertionError and others.
    except Exception as error:
        raise ValueError(f"device must be one that torch has here; got {device!r}: {error}") from error


def check_reproducible(function: Any, inputs: tuple[Any, ...], device: str | None) -> Result:
    """Raise where torch would draw random numbers: two runs could not be compared.

    Returns:
        The outputs in float64.

    Raises:
        ValueError: a dropout module is in training mode, or two seeds give two results.
    """
    check_dropout(function)
    first, second = (
        run_torch(function, inputs, [], dtype="float64", device=device, seed=seed) for seed in (0, 1)
    )
    for name, value in first.values.items():
        if not np.array_equal(value, second.values[name], equal_nan=value.dtype.kind == "f"):
            raise ValueError(
                "the torch function gives two results for the same inputs, so it draws random numbers "
                "(dropout in training mode?): nothing can be compared with it"
            )
    return first


def _device_of(function: Any) -> str:
    parameters = [*function.parameters(), *function.buffers()] if is_module(function) else []
    return str(parameters[0].device) if parameters else "cpu"


def _call(function: Any, params: dict[str, Any], inputs: tuple[Any, ...], dtype: str, device: str) -> Any:
    import torch

    if not is_module(function):
        return function(*inputs)
    target = getattr(torch, dtype)
    state = {
        name: value.detach().clone().to(device, target if value.is_floating_point() else value.dtype)
        for name, value in [*function.named_parameters(), *function.named_buffers()]
    }
    return torch.func.functional_call(function, {**state, **params}, inputs)


def _named(outputs: Any) -> dict[str, Any]:
    named = name_outputs(outputs)
    if not named:
        raise ValueError("the torch function returns nothing")
    for leaf in named.values():
        if not is_tensor(leaf):
            raise TypeError(f"the torch function must return tensors; got {type(leaf).__name__}")
        if leaf.is_complex():
            raise TypeError(f"the torch function must return real numbers; got {dtype_name(leaf)}")
    return named
