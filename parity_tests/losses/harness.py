"""Run a loss in both frameworks on the same numbers, and compare values and gradients."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from parity_tests.compare import assert_within
from parity_tests.tolerances import GRADIENT_EPS_OF_MAX, VALUE_EPS_OF_MAX

Arrays = dict[str, Any]


def cast(arrays: Arrays, dtype: str) -> Arrays:
    """Floating-point arrays in `dtype`; the others as they are."""
    return {
        name: value.astype(dtype) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value
        for name, value in arrays.items()
    }


def run_jax(loss: Callable, arrays: Arrays, options: Arrays, wrt: Sequence[str], cotangent=None):
    """The value, and the gradients with respect to the arrays named in `wrt`."""
    arrays = {name: jnp.asarray(a) if isinstance(a, np.ndarray) else a for name, a in arrays.items()}

    def of_wrt(*chosen):
        return loss(**(arrays | dict(zip(wrt, chosen, strict=True))), **options)

    value, pullback = jax.vjp(of_wrt, *(arrays[name] for name in wrt))
    cotangent = np.ones(value.shape) if cotangent is None else cotangent
    return value, pullback(jnp.asarray(cotangent, value.dtype))


def run_torch(loss: Callable, arrays: Arrays, options: Arrays, wrt: Sequence[str], cotangent=None):
    """The same, in torch."""
    tensors = {name: torch.tensor(a) if isinstance(a, np.ndarray) else a for name, a in arrays.items()}
    for name in wrt:
        tensors[name].requires_grad_()
    value = loss(**tensors, **options)
    cotangent = np.ones(tuple(value.shape)) if cotangent is None else cotangent
    gradients = torch.autograd.grad(
        value,
        [tensors[name] for name in wrt],
        torch.tensor(cotangent, dtype=value.dtype),
        materialize_grads=True,
    )
    return value, gradients


def assert_parity(
    jax_loss: Callable,
    torch_loss: Callable,
    arrays: Arrays,
    options: Arrays | None = None,
    *,
    wrt: Sequence[str] = ("input",),
    dtype: str = "float64",
):
    """Fail unless value and gradients agree, in `dtype`, with a random cotangent."""
    options, arrays = options or {}, cast(arrays, dtype)
    value = torch_loss(
        **{name: torch.tensor(a) if isinstance(a, np.ndarray) else a for name, a in arrays.items()}, **options
    )
    cotangent = np.random.default_rng(7).standard_normal(tuple(value.shape))
    value, gradients = run_jax(jax_loss, arrays, options, wrt, cotangent)
    expected, expected_gradients = run_torch(torch_loss, arrays, options, wrt, cotangent)
    what = f"{jax_loss.__name__} {options} {dtype}"
    assert value.dtype == dtype, f"{what}: value has dtype {value.dtype}"
    assert_within(value, expected, VALUE_EPS_OF_MAX, dtype, what=what)
    for name, gradient, expected_gradient in zip(wrt, gradients, expected_gradients, strict=True):
        assert gradient.dtype == dtype
        assert_within(gradient, expected_gradient, GRADIENT_EPS_OF_MAX, dtype, what=f"{what}, d/d{name}")


def assert_transforms(loss: Callable, input: np.ndarray, *rest, **options):
    """Forward = reverse mode, vmap and checkpoint = one by one, a Hessian that is the gradient's derivative.

    `loss` maps `input` and `rest` to a scalar. Everything runs under `jit`, which the value tests do without.
    """
    x = jnp.asarray(input)
    rest = tuple(jnp.asarray(r) for r in rest)

    def scalar(x, *rest):
        return loss(x, *rest, **options)

    value_and_gradient = jax.jit(jax.value_and_grad(scalar))
    value, gradient = value_and_gradient(x, *rest)
    assert_within(value, scalar(x, *rest), VALUE_EPS_OF_MAX)

    direction = jnp.asarray(np.random.default_rng(3).standard_normal(x.shape), x.dtype)
    forward = jax.jit(lambda x: jax.jvp(lambda y: scalar(y, *rest), (x,), (direction,))[1])(x)
    scale = float(jnp.sum(jnp.abs(gradient * direction)))
    assert_within(forward, jnp.vdot(gradient, direction), GRADIENT_EPS_OF_MAX, scale=scale)

    stacked = tuple(jnp.stack([a, a[..., ::-1] if a.ndim else a]) for a in (x, *rest))
    batched = jax.jit(jax.vmap(jax.value_and_grad(jax.checkpoint(scalar))))(*stacked)
    for index in range(2):
        one = value_and_gradient(*(a[index] for a in stacked))
        for a, b in zip(batched, one, strict=True):
            assert_within(a[index], b, GRADIENT_EPS_OF_MAX)

    hessian = jax.jit(jax.hessian(scalar))(x, *rest)
    step = 1e-5
    ahead, behind = (value_and_gradient(x + sign * step * direction, *rest)[1] for sign in (1, -1))
    product = jnp.tensordot(hessian, direction, x.ndim)
    np.testing.assert_allclose(product, (ahead - behind) / (2 * step), atol=1e-8, rtol=1e-5)


def assert_where_deletes(
    jax_loss: Callable,
    torch_loss: Callable,
    arrays: Arrays,
    mask: np.ndarray,
    options: Arrays | None = None,
    wrt: Sequence[str] = ("input",),
):
    """Fail unless masking equals deletion in torch, for every reduction, with NaN in all that is masked."""
    poisoned = {name: poison(value, mask) for name, value in arrays.items()}
    for reduction in ("mean", "sum", "none"):
        chosen = (options or {}) | {"reduction": reduction}
        value, gradients = run_torch(torch_loss, arrays, chosen | {"where": torch.tensor(mask)}, wrt)
        ours, our_gradients = run_jax(jax_loss, poisoned, chosen | {"where": jnp.asarray(mask)}, wrt)
        assert_within(ours, value, VALUE_EPS_OF_MAX, what=reduction)
        for name, a, b in zip(wrt, our_gradients, gradients, strict=True):
            assert_within(a, b, GRADIENT_EPS_OF_MAX, what=f"{reduction}, d/d{name}")


def poison(value, mask: np.ndarray):
    """`value` with NaN in the masked elements or rows; labels and arrays of other shapes as they are."""
    is_poisonable = isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.ndim >= mask.ndim
    if not is_poisonable or value.shape[: mask.ndim] != mask.shape:
        return value
    return np.where(mask.reshape(mask.shape + (1,) * (value.ndim - mask.ndim)), value, np.nan)
