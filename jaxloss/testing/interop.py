"""Let the two frameworks call each other: a JAX loss in a PyTorch trainer, a torch module in a JAX program.

On the CPU, and between GPU libraries that see one device, arrays cross by DLPack without a copy.
"""

import contextlib
import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxloss.testing._torch_side import check_dropout, is_module, to_torch
from jaxloss.testing.measure import is_tensor, to_numpy


def as_torch(jax_fn: Callable[..., Any]) -> Callable[..., Any]:
    """Make a JAX function of arrays callable with tensors, and differentiable by autograd.

    The function is compiled once for each combination of shapes, dtypes and settings. Floating-point tensors
    cross without a copy; labels become int32 unless float64 is in play. Second derivatives work as well.

    Args:
        jax_fn: a function of arrays, and of settings such as strings and numbers, that returns an array or a
            tuple of arrays, and that `jax.jit` can compile.

    Returns:
        A function of tensors in the places of arrays, with the same settings. Its outputs are tensors on the
        inputs' device.

    Raises:
        TypeError: when called without any tensor, with a setting that is not hashable, or if a tensor lies on
            a device that JAX does not have.

    >>> import torch
    >>> from jaxloss.losses import mse_loss
    >>> prediction = torch.tensor([2.0, 3.0], requires_grad=True)
    >>> loss = as_torch(mse_loss)(prediction, torch.tensor([5.0, 3.0]))
    >>> loss.backward()
    >>> loss.item(), prediction.grad.tolist()
    (4.5, [-3.0, 0.0])
    """
    calls: dict[Hashable, _Compiled] = {}

    def call(*args: Any, **kwargs: Any) -> Any:
        leaves, treedef = jax.tree.flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if is_tensor(leaf)]
        if not tensors:
            raise TypeError("as_torch's function takes tensors; got none")
        settings = tuple(None if is_tensor(leaf) else leaf for leaf in leaves)
        moving = tuple(leaf.requires_grad for leaf in tensors)
        try:
            key = (treedef, settings, tuple(map(type, settings)), moving)
            compiled = calls.get(key)
        except TypeError as error:
            raise TypeError(f"settings of as_torch's function must be hashable; got {settings}") from error
        if compiled is None:
            places = tuple(i for i, leaf in enumerate(leaves) if is_tensor(leaf))
            compiled = calls[key] = _Compiled(_of_leaves(jax_fn, treedef, settings, places), moving)
        outputs = _autograd_function().apply(compiled, *tensors)
        assert compiled.output is not None
        return jax.tree.unflatten(compiled.output, outputs)

    return call


def as_jax(torch_fn: Callable[..., Any], *, parameters: bool = False) -> Callable[..., Any]:
    """Make a torch function or module callable with JAX arrays, under `jit` and reverse-mode differentiation.

    It runs on the host in a callback, in the dtypes of its inputs. Shapes of outputs are found by one run on
    zeros when it is traced. `vmap` runs it once for each example; forward mode is not possible. The backward
    pass runs it again, so it must give the same result twice: nothing random.

    Args:
        torch_fn: a function or `nn.Module` of tensors that returns a tensor or a tuple of tensors.
        parameters: whether the result takes the module's parameters, a dict by name as from
            `named_parameters`, as its first argument, and is differentiable in them. Otherwise the module's
            own are used as they are.

    Returns:
        A function of arrays: `f(*inputs)`, or `f(parameters, *inputs)`.

    Raises:
        TypeError: `parameters` is asked for and `torch_fn` is no module, or, when called, something other
            than tensors is returned.
        ValueError: the module is in training mode and has dropout, when called.

    >>> import torch
    >>> loss = as_jax(torch.nn.MSELoss())
    >>> print(jax.jit(jax.grad(loss))(jnp.array([2.0, 3.0]), jnp.array([5.0, 3.0])))
    [-3.  0.]
    """
    if parameters and not is_module(torch_fn):
        raise TypeError(f"parameters=True needs an nn.Module; got {type(torch_fn).__name__}")

    def on_host(args: Any, cotangents: Any = None) -> Any:
        check_dropout(torch_fn)
        return _run_on_host(torch_fn, parameters, args, cotangents)

    @jax.custom_vjp
    def call(*args: Any) -> Any:
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), args)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), on_host(zeros))
        return jax.pure_callback(on_host, shapes, args, vmap_method="sequential")

    def forward(*args: Any) -> Any:
        return call(*args), args

    def backward(args: Any, cotangents: Any) -> Any:
        leaves, treedef = jax.tree.flatten(args)
        floating = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]
        shapes = [
            jax.ShapeDtypeStruct(x.shape, x.dtype) for x, moves in zip(leaves, floating, strict=True) if moves
        ]
        found = iter(jax.pure_callback(on_host, shapes, args, cotangents, vmap_method="sequential"))
        # Labels have the gradient type float0, which holds nothing.
        gradients = [
            next(found) if moves else np.zeros(leaf.shape, jax.dtypes.float0)
            for leaf, moves in zip(leaves, floating, strict=True)
        ]
        return jax.tree.unflatten(treedef, gradients)

    call.defvjp(forward, backward)
    return lambda *args: call(*jax.tree.map(jnp.asarray, args))


class _Compiled:
    """A JAX function of a list of arrays, and its pullback, compiled on first use."""

    def __init__(self, function: Callable[..., Any], moving: tuple[bool, ...]) -> None:
        self.output: Any = None
        self.moving = moving

        def flat(arrays: Any) -> Any:
            outputs, self.output = jax.tree.flatten(function(arrays))
            return outputs

        def pull_back(arrays: Any, cotangents: Any) -> Any:
            def of_moving(moved: Any) -> Any:
                rest = iter(moved)
                return flat([next(rest) if moves else x for x, moves in zip(arrays, moving, strict=True)])

            outputs, vjp = jax.vjp(of_moving, [x for x, moves in zip(arrays, moving, strict=True) if moves])
            matched = [c.astype(output.dtype) for c, output in zip(cotangents, outputs, strict=True)]
            return vjp(matched)[0]

        def value_and_gradient(arrays: Any) -> Any:
            outputs = flat(arrays)
            ones = [jnp.ones_like(output) for output in outputs]
            return outputs, pull_back(arrays, ones) if _is_scalar(outputs) else []

        def pull_back_of(*arrays: Any) -> Any:
            return tuple(pull_back(list(arrays[: len(moving)]), list(arrays[len(moving) :])))

        self.value = jax.jit(flat)
        self.value_and_gradient = jax.jit(value_and_gradient)
        # A function of tensors itself, so that gradients can be differentiated again.
        self.pull_back_in_torch = as_torch(pull_back_of)


def _is_scalar(outputs: Any) -> bool:
    return len(outputs) == 1 and outputs[0].shape == ()


def _of_leaves(function: Any, treedef: Any, settings: tuple[Any, ...], places: tuple[int, ...]) -> Any:
    def of_leaves(arrays: Any) -> Any:
        leaves = list(settings)
        for place, array in zip(places, arrays, strict=True):
            leaves[place] = array
        args, kwargs = jax.tree.unflatten(treedef, leaves)
        return function(*args, **kwargs)

    return of_leaves


def _run_compiled(compiled: Callable[..., Any], *tensors: Any) -> Any:
    """Call a compiled function on lists of tensors and give tensors back."""
    import torch

    flat = [tensor for group in tensors for tensor in group]
    is_double = any(tensor.dtype == torch.float64 for tensor in flat)
    # float64 has to be on for float64 tensors to stay what they are, and for nothing else.
    with jax.enable_x64(True) if is_double else contextlib.nullcontext():
        results = compiled(*([_to_jax(tensor) for tensor in group] for group in tensors))
        # torch does not wait for JAX, and may overwrite the inputs' memory as soon as this returns.
        jax.block_until_ready(results)
        inputs = {tensor.data_ptr() for tensor in flat}
        return jax.tree.map(lambda array: _from_jax(array, inputs), results)


def _to_jax(tensor: Any) -> jax.Array:
    import torch

    tensor = tensor.detach().resolve_conj().resolve_neg()
    if tensor.dtype == torch.int64 and not jax.config.read("jax_enable_x64"):
        # Clamped rather than wrapped: a label out of range must not come back into it.
        tensor = tensor.clamp(-(2**31), 2**31 - 1).to(torch.int32)
    platforms = {"cuda" if device.platform == "gpu" else device.platform for device in jax.devices()} | {
        "cpu"
    }
    if tensor.device.type not in platforms:
        raise TypeError(
            f"a tensor lies on {tensor.device}, which JAX does not have here: move it to the CPU first"
        )
    return jnp.from_dlpack(tensor.contiguous())


def _from_jax(array: jax.Array, inputs: set[int]) -> Any:
    import torch

    tensor = torch.from_dlpack(array)
    # JAX forwards an input that it returns unchanged; autograd must not find it in two places.
    return tensor.clone() if tensor.data_ptr() in inputs else tensor


@functools.cache
def _autograd_function() -> Any:
    """The `autograd.Function`, made on first use because its base class is torch's."""
    import torch

    class JaxFunction(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, compiled: _Compiled, *tensors: Any) -> Any:
            ctx.compiled, ctx.gradients = compiled, []
            if any(ctx.needs_input_grad[1:]):
                outputs, ctx.gradients = _run_compiled(compiled.value_and_gradient, tensors)
            else:
                outputs = _run_compiled(compiled.value, tensors)
            ctx.save_for_backward(*tensors)
            ctx.mark_non_differentiable(*(output for output in outputs if not output.is_floating_point()))
            return tuple(outputs)

        @staticmethod
        def backward(ctx: Any, *cotangents: Any) -> Any:
            tensors, compiled = ctx.saved_tensors, ctx.compiled
            if ctx.gradients and not torch.is_grad_enabled():
                gradients = [gradient * cotangents[0] for gradient in ctx.gradients]
            else:
                gradients = compiled.pull_back_in_torch(*tensors, *cotangents)
            found = iter(gradients)
            return (None, *(next(found) if moves else None for moves in compiled.moving))

    return JaxFunction


def _run_on_host(torch_fn: Any, parameters: bool, args: Any, cotangents: Any) -> Any:
    import torch

    # In the caller's inference mode every gradient would be missing, and pass for zero.
    with torch.inference_mode(False), torch.set_grad_enabled(cotangents is not None):
        args = jax.tree.map(lambda x: to_torch(np.asarray(x)), args)
        leaves = [x for x in jax.tree.leaves(args) if cotangents is not None and x.is_floating_point()]
        for leaf in leaves:
            leaf.requires_grad_()
        outputs = torch.func.functional_call(torch_fn, args[0], args[1:]) if parameters else torch_fn(*args)
    for output in jax.tree.leaves(outputs):
        if not is_tensor(output):
            raise TypeError(f"as_jax's function must return tensors; got {type(output).__name__}")
    if cotangents is None:
        return jax.tree.map(_array, outputs)
    pulled = [
        (output, to_torch(np.asarray(c)).to(output.dtype))
        for output, c in zip(jax.tree.leaves(outputs), jax.tree.leaves(cotangents), strict=True)
        if output.requires_grad
    ]
    if not pulled:
        return [_array(torch.zeros_like(leaf)) for leaf in leaves]
    connected, incoming = zip(*pulled, strict=True)
    gradients = torch.autograd.grad(connected, leaves, incoming, allow_unused=True)
    return [_array(torch.zeros_like(x) if g is None else g) for x, g in zip(leaves, gradients, strict=True)]


def _array(tensor: Any) -> np.ndarray:
    array = to_numpy(tensor)
    if str(tensor.dtype) == "torch.bfloat16":
        return array.astype(jnp.bfloat16)
    if str(tensor.dtype) == "torch.float16":
        return array.astype(np.float16)
    # 64-bit integers only where JAX is set to keep them.
    narrow = array.dtype == np.int64 and not jax.config.read("jax_enable_x64")
    return array.astype(np.int32) if narrow else array
