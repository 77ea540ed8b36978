"""Run a torch module, or one of its layers, with a visit that follows along."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxloss.interop import check_dropout, is_module, to_numpy, to_torch
from jaxloss.testing._torch import cast_state, check_device, settings
from jaxloss.testing.inputs import is_array
from jaxloss.testing.layers._visits import Visit, in_order


class TorchModel:
    """A torch module in evaluation mode, computing in one dtype; it is left as it is.

    Args:
        module: the model.
        dtype: of its parameters, buffers and literals while it runs.
        kwargs: keyword arguments of every call.

    `keys` are those of the dict that it returns, which to put first.

    Raises:
        TypeError: it is no module.
        ValueError: it is in training mode where that matters, or its parameters lie on several devices.
    """

    def __init__(self, module: Any, dtype: str, kwargs: dict[str, Any]) -> None:
        if not is_module(module):
            raise TypeError(f"torch_module must be an nn.Module; got {type(module).__name__}")
        check_dropout(module)
        _check_evaluation(module)
        self.module, self.dtype, self._kwargs = module, dtype, kwargs
        self.name = type(module).__name__
        self.keys: tuple[Any, ...] = ()
        self.device = _only_device(module)
        check_device(self.device)
        self._state = cast_state(module, dtype, self.device, each_name=True)

    def run(self, visit: Visit, inputs: tuple[Any, ...], *, gradients: bool = False) -> Any:
        """Call the model with numpy arrays among the inputs."""
        with settings(self.dtype, self.device, 0), _gradients(gradients):
            return self._call("", visit, self.tensors(inputs), self._kwargs, {})

    def run_layer(self, name: str, visit: Visit, inputs: Any, params: dict[str, np.ndarray]) -> Any:
        """Call a layer with recorded inputs, and with other parameters than its own where any are given."""
        with settings(self.dtype, self.device, 0), _gradients(False):
            args, kwargs = self.tensors(inputs)
            return self._call(name, visit, args, kwargs, self.tensors(params))

    def stir(self, seed: int) -> None:
        """Other parameters at random, near the module's own; tied ones stay tied."""
        rng = np.random.default_rng(seed)
        names = [name for name, _ in self.module.named_parameters()]
        for x in (self._state[name] for name in names):
            if x.is_floating_point() and x.dim():
                x *= self.tensors(1 + 0.1 * rng.standard_normal(tuple(x.shape)))

    def dtypes(self, inputs: tuple[Any, ...]) -> set[str]:
        """Of the floating-point numbers that it computes on the way."""
        import torch
        from torch.utils._python_dispatch import TorchDispatchMode

        seen: list[Any] = []

        class See(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                output = func(*args, **(kwargs or {}))
                seen.extend(x.dtype for x in jax.tree.leaves(output) if isinstance(x, torch.Tensor))
                return output

        with See():
            self.run(Visit(), inputs)
        return {str(dtype).removeprefix("torch.") for dtype in seen if dtype.is_floating_point}

    def parameters(self, name: str) -> dict[str, np.ndarray]:
        """A layer's parameters, with those of the layers inside it; a tied one once."""
        found = self._layer(name).named_parameters()
        return {own: to_numpy(self._state[_joined(name, own)]) for own, _ in found}

    def tensors(self, tree: Any) -> Any:
        """Numpy arrays of a tree as tensors on the module's device."""

        def converted(leaf: Any) -> Any:
            return to_torch(leaf, self.device) if is_array(leaf) and isinstance(leaf, np.ndarray) else leaf

        return jax.tree.map(converted, tree)

    def _layer(self, name: str) -> Any:
        return self.module.get_submodule(name)

    def _call(self, name: str, visit: Visit, args: Any, kwargs: Any, params: dict[str, Any]) -> Any:
        import torch

        layer = self._layer(name)
        prefix = _joined(name, "")
        state = {n.removeprefix(prefix): x for n, x in self._state.items() if n.startswith(prefix)}
        # A tied parameter is replaced under all its names.
        replaced = {id(state[own]): x for own, x in params.items()}
        state = {own: replaced.get(id(x), x) for own, x in state.items()}
        with _followed(layer, name, visit):
            args, kwargs = visit.enter(name, (tuple(args), dict(kwargs)))
            call = torch.func.functional_call
            outputs = call(layer, state, args, kwargs, tie_weights=False)
            return visit.leave(outputs if name else in_order(outputs, self.keys))


@contextlib.contextmanager
def _followed(layer: Any, prefix: str, visit: Visit) -> Iterator[None]:
    """Announce the calls of all modules inside a layer."""
    with contextlib.ExitStack() as stack:
        for own, module in layer.named_modules():
            if not own:
                continue

            def before(module: Any, args: Any, kwargs: Any, name: str = _joined(prefix, own)) -> Any:
                return visit.enter(name, (args, kwargs))

            def after(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
                return visit.leave(output)

            stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(after, with_kwargs=True).remove)
        yield


def _gradients(wanted: bool) -> Any:
    import torch

    return torch.set_grad_enabled(wanted)


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _check_evaluation(module: Any) -> None:
    from torch.nn.modules.batchnorm import _NormBase

    training = [n for n, m in module.named_modules() if isinstance(m, _NormBase) and m.training]
    if training:
        raise ValueError(
            f"torch_module is in training mode, and {training[0]} would normalise by this batch: "
            "call .eval() on it"
        )


def _only_device(module: Any) -> str:
    tensors = [*module.named_parameters(), *module.named_buffers()]
    devices = {str(x.device): name for name, x in tensors}
    if len(devices) > 1:
        said = ", ".join(f"{name} on {device}" for device, name in devices.items())
        raise ValueError(f"torch_module must lie on one device; got {said}")
    return next(iter(devices), "cpu")
