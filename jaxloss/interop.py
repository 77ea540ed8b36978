"""Let the two frameworks call each other: a JAX loss in a PyTorch trainer, a torch module in a JAX program.

On the CPU, and between GPU libraries that see one device, arrays cross by DLPack without a copy. Importing
this imports no torch; its functions do, when they are called.
"""

from collections.abc import Callable, Hashable
from functools import partial
from itertools import compress
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


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
    calls: dict[Hashable, Callable[..., Any]] = {}

    def call(*args: Any, **kwargs: Any) -> Any:
        import torch

        leaves, treedef = jax.tree.flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if is_tensor(leaf)]
        if not tensors:
            raise TypeError("as_torch's function takes tensors; got none")
        # None is never a leaf, so it can mark the places of the tensors.
        settings = tuple(None if is_tensor(leaf) else leaf for leaf in leaves)
        moving = tuple(leaf.requires_grad and torch.is_grad_enabled() for leaf in tensors)

        def of_arrays(arrays: Any) -> Any:
            rest = iter(arrays)
            args, kwargs = jax.tree.unflatten(treedef, [next(rest) if s is None else s for s in settings])
            return jax_fn(*args, **kwargs)

        key = (treedef, settings, tuple(map(type, settings)), moving)
        try:
            is_new = key not in calls
        except TypeError as error:
            raise TypeError(f"settings of as_torch's function must be hashable; got {settings}") from error
        if is_new:
            calls[key] = _differentiable(of_arrays, moving)
        return calls[key](*tensors)

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
    on_host = partial(_run_on_host, torch_fn, parameters)

    def is_floating(x: Any) -> bool:
        return jnp.issubdtype(x.dtype, jnp.floating)

    @jax.custom_vjp
    def call(*args: Any) -> Any:
        like = on_host(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), args))
        return jax.pure_callback(on_host, like, args, vmap_method="sequential")

    def forward(*args: Any) -> Any:
        return call(*args), args

    def backward(args: Any, cotangents: Any) -> Any:
        like = list(filter(is_floating, jax.tree.leaves(args)))
        found = iter(jax.pure_callback(on_host, like, args, cotangents, vmap_method="sequential"))
        # Labels have the gradient type float0, which holds nothing.
        return jax.tree.map(
            lambda x: next(found) if is_floating(x) else np.zeros(x.shape, jax.dtypes.float0), args
        )

    call.defvjp(forward, backward)
    return lambda *args: call(*jax.tree.map(jnp.asarray, args))


def to_numpy(array: Any) -> np.ndarray:
    """A numpy array from a JAX array, a torch tensor or anything array-like; 16-bit floats become float64."""
    if is_tensor(array):
        array = array.detach().cpu()
        if str(array.dtype) in ("torch.bfloat16", "torch.float16"):
            array = array.double()
        return array.resolve_conj().resolve_neg().numpy()
    array = np.asarray(array)
    return array.astype(np.float64) if array.dtype.name in ("bfloat16", "float16") else array


def to_torch(array: Any, device: str = "cpu", dtype: str | None = None) -> Any:
    """A tensor with its own memory; labels become int64, which is what torch's losses take."""
    import torch

    array = np.asarray(array)
    if array.dtype.name in ("bfloat16", "float16"):
        dtype, array = dtype or array.dtype.name, array.astype(np.float32)
    if array.dtype.kind in "iu":
        array = array.astype(np.int64)
    tensor = torch.tensor(array, device=device)
    return tensor if dtype is None else tensor.to(getattr(torch, dtype))


def is_tensor(value: Any) -> bool:
    """Whether a value is a torch tensor, without importing torch to find out."""
    return any(cls.__module__ == "torch" and cls.__name__ == "Tensor" for cls in type(value).__mro__)


def is_module(function: Any) -> bool:
    """Whether a callable is an `nn.Module`."""
    import torch

    return isinstance(function, torch.nn.Module)


def check_dropout(function: Any) -> None:
    """Raise ValueError where a module is in training mode and has torch's own dropout."""
    import torch

    dropping = [
        name or "the module itself"
        for name, m in (function.named_modules() if is_module(function) else [])
        if isinstance(m, torch.nn.modules.dropout._DropoutNd) and m.training and m.p > 0
    ]
    if dropping:
        raise ValueError(
            f"the torch module is in training mode and drops at random in {', '.join(dropping)}: call "
            ".eval() on it, set p=0, or give masks (jaxloss.testing.inject_masks) to jaxloss's own Dropout"
        )


def pull_back(outputs: list[Any], inputs: list[Any], cotangents: list[np.ndarray]) -> list[Any]:
    """Gradients of tensors by autograd, zeros where an output does not depend on an input."""
    import torch

    if not inputs:
        return []
    pairs = [(x, c) for x, c in zip(outputs, cotangents, strict=True) if x.requires_grad]
    incoming = [to_torch(c, str(x.device)).to(x.dtype) for x, c in pairs]
    options = {"allow_unused": True, "materialize_grads": True}
    return list(torch.autograd.grad([x for x, _ in pairs], inputs, incoming, **options))


def _differentiable(function: Callable[..., Any], moving: tuple[bool, ...]) -> Callable[..., Any]:
    """The function of tensors for one of a list of arrays, with gradients for those that are `moving`."""
    import torch

    structure: Any = None

    def flat(arrays: Any) -> Any:
        nonlocal structure
        outputs, structure = jax.tree.flatten(function(arrays))
        return outputs

    def pulled_back(arrays: Any, cotangents: Any) -> Any:
        def of_moving(moved: Any) -> Any:
            rest = iter(moved)
            return flat([next(rest) if moves else x for x, moves in zip(arrays, moving, strict=True)])

        outputs, vjp = jax.vjp(of_moving, list(compress(arrays, moving)))
        return vjp([c.astype(output.dtype) for c, output in zip(cotangents, outputs, strict=True)])[0]

    @jax.jit
    def value_and_gradient(arrays: Any) -> Any:
        outputs = flat(arrays)
        is_loss = any(moving) and [output.shape for output in outputs] == [()]
        return outputs, pulled_back(arrays, [jnp.ones_like(outputs[0])]) if is_loss else []

    # A function of tensors itself, so that gradients can be differentiated again.
    pull_back_in_torch = as_torch(
        lambda *arrays: tuple(pulled_back(arrays[: len(moving)], arrays[len(moving) :]))
    )

    class JaxFunction(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *tensors: Any) -> Any:
            is_double = any(x.dtype == torch.float64 for x in tensors)
            # float64 has to be on for float64 tensors to stay what they are, and for nothing else.
            with jax.enable_x64(is_double or jax.config.read("jax_enable_x64")):
                results = value_and_gradient([_to_jax(x) for x in tensors])
                # torch does not wait for JAX, and may overwrite the inputs' memory as soon as this returns.
                jax.block_until_ready(results)
                inputs = {x.data_ptr() for x in tensors}
                outputs, ctx.gradients = jax.tree.map(lambda array: _from_jax(array, inputs), results)
            ctx.save_for_backward(*tensors)
            ctx.mark_non_differentiable(*(output for output in outputs if not output.is_floating_point()))
            return tuple(outputs)

        @staticmethod
        def backward(ctx: Any, *cotangents: Any) -> Any:
            if ctx.gradients and not torch.is_grad_enabled():
                gradients = [gradient * cotangents[0] for gradient in ctx.gradients]
            else:
                gradients = pull_back_in_torch(*ctx.saved_tensors, *cotangents)
            found = iter(gradients)
            return tuple(next(found) if moves else None for moves in moving)

    def call(*tensors: Any) -> Any:
        outputs = JaxFunction.apply(*tensors)
        return jax.tree.unflatten(structure, outputs)

    return call


def _to_jax(tensor: Any) -> jax.Array:
    import torch

    tensor = tensor.detach().resolve_conj().resolve_neg()
    if tensor.dtype == torch.int64 and not jax.config.read("jax_enable_x64"):
        # Clamped rather than wrapped: a label out of range must not come back into it.
        tensor = tensor.clamp(-(2**31), 2**31 - 1).to(torch.int32)
    platforms = {"cuda" if device.platform == "gpu" else device.platform for device in jax.devices()}
    if tensor.device.type not in platforms | {"cpu"}:
        raise TypeError(
            f"a tensor lies on {tensor.device}, which JAX does not have: move it to the CPU first"
        )
    return jnp.from_dlpack(tensor.contiguous())


def _from_jax(array: jax.Array, inputs: set[int]) -> Any:
    import torch

    tensor = torch.from_dlpack(array)
    # JAX forwards an input that it returns unchanged; autograd must not find it in two places.
    return tensor.clone() if tensor.data_ptr() in inputs else tensor


def _run_on_host(torch_fn: Any, parameters: bool, args: Any, cotangents: Any = None) -> Any:
    """The outputs, or, for cotangents, the gradients of the floating-point arguments."""
    import torch

    check_dropout(torch_fn)
    # In the caller's inference mode every gradient would be missing, and pass for zero.
    with torch.inference_mode(False), torch.set_grad_enabled(cotangents is not None):
        args = jax.tree.map(lambda x: to_torch(np.asarray(x)), args)
        moving = [x for x in jax.tree.leaves(args) if cotangents is not None and x.is_floating_point()]
        for x in moving:
            x.requires_grad_()
        outputs = torch.func.functional_call(torch_fn, args[0], args[1:]) if parameters else torch_fn(*args)
    for output in jax.tree.leaves(outputs):
        if not is_tensor(output):
            raise TypeError(f"as_jax's function must return tensors; got {type(output).__name__}")
    if cotangents is None:
        return jax.tree.map(_in_jax_dtype, outputs)
    gradients = pull_back(jax.tree.leaves(outputs), moving, jax.tree.leaves(cotangents))
    return [_in_jax_dtype(gradient) for gradient in gradients]


def _in_jax_dtype(tensor: Any) -> np.ndarray:
    """As numpy in the tensor's own dtype; 64-bit integers only where JAX is set to keep them."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype == "int64" and not jax.config.read("jax_enable_x64"):
        dtype = "int32"
    return to_numpy(tensor).astype(jnp.dtype(dtype), copy=False)
