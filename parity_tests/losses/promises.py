"""What every loss promises, as assertions: torch's numbers, transforms, masks, precision, accuracy."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import torch

from parity_tests import quick_compilation
from parity_tests.compare import assert_within, to_numpy
from parity_tests.tolerances import EPS, GRADIENT_EPS_OF_MAX, VALUE_EPS_OF_MAX

Arrays = dict[str, Any]
Cases = Sequence[dict[str, Any]]

# Compiling takes nearly all the time of these tests, and half of that is optimisation.
compiled = quick_compilation.jit

REDUCTIONS = ("mean", "sum", "none")
EACH_REDUCTION = [{"reduction": reduction} for reduction in REDUCTIONS]
OUT_OF_RANGE = 10**6


def as_a_whole(loss: Callable) -> Callable:
    """The loss compiled in one, for tests that call it in few shapes: operation by operation takes longer."""
    parameters = inspect.signature(loss).parameters.values()
    return jax.jit(
        loss, static_argnames=[p.name for p in parameters if isinstance(p.default, str | int | float)]
    )


def run_jax(loss: Callable, arrays: Arrays, options: dict, wrt: Sequence[str], cotangent=None):
    """The value, and the gradients with respect to the arrays named in `wrt`."""
    arrays = {name: jnp.asarray(a) if isinstance(a, np.ndarray) else a for name, a in arrays.items()}

    def of_wrt(*chosen):
        return loss(**(arrays | dict(zip(wrt, chosen, strict=True))), **options)

    value, pullback = jax.vjp(of_wrt, *(arrays[name] for name in wrt))
    cotangent = np.ones(value.shape) if cotangent is None else cotangent
    return value, pullback(jnp.asarray(cotangent, value.dtype))


def run_torch(loss: Callable, arrays: Arrays, options: dict, wrt: Sequence[str], cotangent=None):
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


def assert_matches_torch(
    loss: Callable, torch_loss: Callable, arrays: Arrays, cases: Cases = ({},), *, wrt=("input",)
):
    """Value and gradients are torch's in each case of options, in float64 and float32, at a random cotangent.

    The truth for both is torch's float64 on the same numbers, since torch's own float32 cancels.
    """
    wrt = tuple(wrt)
    for dtype in ("float64", "float32"):
        typed = _cast(arrays, dtype)
        truths = [_truth(torch_loss, _cast(typed, "float64"), options, wrt) for options in cases]
        results = _run_cases(
            loss, tuple(tuple(c.items()) for c in cases), wrt, typed, [truth[0] for truth in truths]
        )
        for options, (value, gradients), (_, expected, expected_gradients) in zip(
            cases, results, truths, strict=True
        ):
            what = f"{options} {dtype}"
            assert value.dtype == dtype, what
            assert_within(value, expected, VALUE_EPS_OF_MAX, dtype, what=what)
            for name, ours, theirs in zip(wrt, gradients, expected_gradients, strict=True):
                assert ours.dtype == dtype, what
                assert_within(ours, theirs, GRADIENT_EPS_OF_MAX, dtype, what=f"{what}, d/d{name}")


@functools.partial(compiled, static_argnums=(0, 1, 2))
def _run_cases(loss, cases, wrt, arrays, cotangents):
    pairs = zip(cases, cotangents, strict=True)
    return [run_jax(loss, arrays, dict(options), wrt, cotangent) for options, cotangent in pairs]


def _truth(torch_loss: Callable, arrays: Arrays, options: dict, wrt):
    """A cotangent that float32 holds exactly, and torch's value and gradients."""
    shape = tuple(run_torch(torch_loss, arrays, options, wrt[:1])[0].shape)
    cotangent = np.random.default_rng(7).standard_normal(shape).astype("float32").astype("float64")
    return cotangent, *run_torch(torch_loss, arrays, options, wrt, cotangent)


def _cast(arrays: Arrays, dtype: str) -> Arrays:
    """Floating-point arrays in `dtype`; the others as they are."""
    return {name: a.astype(dtype) if a.dtype.kind == "f" else a for name, a in arrays.items()}


def assert_masking_deletes(
    loss: Callable, torch_loss: Callable, arrays: Arrays, mask: np.ndarray, options=None, *, wrt=("input",)
):
    """Masking is deletion: value and gradients are torch's of the rows or elements left, and 0 at the others.

    Masked places hold NaN and labels out of range. Torch's twin with `where`, given no NaN, must agree.
    """
    of_rows = {name for name, a in arrays.items() if a.shape[: mask.ndim] == mask.shape}
    deleted = {name: a[mask] if name in of_rows else a for name, a in arrays.items()}
    poisoned = {name: _poison(a, mask) if name in of_rows else a for name, a in arrays.items()}
    cases = [(options or {}) | case for case in EACH_REDUCTION]
    hashable = tuple(tuple(case.items()) for case in cases)
    results = _run_cases(loss, hashable, tuple(wrt), poisoned | {"where": mask}, [None] * len(cases))
    for case, ours in zip(cases, results, strict=True):
        expected, expected_gradients = run_torch(torch_loss, deleted, case, wrt)
        if expected.ndim:
            expected = _put_back(expected, mask)
        for value, gradients in (ours, run_torch(torch_loss, arrays | {"where": mask}, case, wrt)):
            assert_within(value, expected, VALUE_EPS_OF_MAX, what=f"{case}")
            for name, gradient, wanted in zip(wrt, gradients, expected_gradients, strict=True):
                if name in of_rows:
                    assert not np.any(to_numpy(gradient)[~mask]), name
                    wanted = _put_back(wanted, mask)
                assert_within(gradient, wanted, GRADIENT_EPS_OF_MAX, what=f"{case}, d/d{name}")


def _poison(array: np.ndarray, mask: np.ndarray) -> np.ndarray:
    keep = mask.reshape(mask.shape + (1,) * (array.ndim - mask.ndim))
    return np.where(keep, array, np.nan if array.dtype.kind == "f" else OUT_OF_RANGE).astype(array.dtype)


def _put_back(rows: torch.Tensor, mask: np.ndarray) -> np.ndarray:
    whole = np.zeros(mask.shape + tuple(rows.shape[1:]))
    whole[mask] = rows.detach().numpy()
    return whole


def assert_class_axis_is_free(loss: Callable, input: np.ndarray, *rest, **options):
    """The first axis as class axis gives the same as the last."""

    @compiled
    def both(x, *rest):
        rows = loss(x, *rest, reduction="none", **options)
        turned = [r.T if r.shape == x.shape else r for r in rest]
        return rows, loss(x.T, *turned, reduction="none", axis=0, **options)

    assert_within(*both(jnp.asarray(input), *map(jnp.asarray, rest)), VALUE_EPS_OF_MAX)


def assert_transforms(loss: Callable, input: np.ndarray, *rest, **options):
    """vmap and checkpoint = one by one, forward = reverse mode, a Hessian that is the gradient's derivative.

    `loss` maps `input` and `rest` to a scalar. Everything runs under `jit`.
    """
    direction, step = np.random.default_rng(3).standard_normal(input.shape), 1e-5
    turned = [a[..., ::-1] if np.ndim(a) else a for a in (input, *rest)]
    points = [[input + sign * step * direction, *rest] for sign in (0, 1, -1)] + [turned]

    def scalar(x, *rest):
        return loss(x, *rest, **options)

    @compiled
    def everything(x, *stacked):
        batched = jax.vmap(jax.value_and_grad(jax.checkpoint(scalar)))(*stacked)
        return (
            batched,
            jax.jvp(lambda x: scalar(x, *rest), (x,), (direction,))[1],
            jax.hessian(scalar)(x, *rest),
        )

    (values, gradients), forward, hessian = everything(input, *map(np.stack, zip(*points, strict=True)))
    one_by_one = compiled(jax.value_and_grad(scalar))
    for point, value, gradient in zip(points, values, gradients, strict=True):
        alone, alone_gradient = one_by_one(*point)
        assert_within(value, alone, GRADIENT_EPS_OF_MAX)
        assert_within(gradient, alone_gradient, GRADIENT_EPS_OF_MAX)
    product = gradients[0] * direction
    assert_within(forward, jnp.sum(product), GRADIENT_EPS_OF_MAX, scale=float(jnp.sum(jnp.abs(product))))
    np.testing.assert_allclose(forward, (values[1] - values[2]) / (2 * step), atol=1e-8, rtol=1e-6)
    along = jnp.tensordot(hessian, direction, input.ndim)
    np.testing.assert_allclose(along, (gradients[1] - gradients[2]) / (2 * step), atol=1e-8, rtol=1e-6)


def assert_half_precision_is_rounded_once(loss: Callable, *arrays, num_floats: int = 1):
    """bfloat16 inputs give the loss of the same numbers in float64 up to float32's rounding, and its gradient
    up to one rounding to bfloat16."""
    half = [jnp.asarray(a, jnp.bfloat16) for a in arrays[:num_floats]]
    rest = [jnp.asarray(a) for a in arrays[num_floats:]]
    differentiate = jax.value_and_grad(loss, tuple(range(num_floats)))

    @compiled
    def both(half, rest):
        return differentiate(*half, *rest), differentiate(*(a.astype(jnp.float64) for a in half), *rest)

    (value, gradients), (expected, expected_gradients) = both(half, rest)
    assert value.dtype == jnp.float32
    assert_within(value, expected, VALUE_EPS_OF_MAX)
    # Half a unit for the rounding, and what float32 may be off by.
    allowed = 0.5 + GRADIENT_EPS_OF_MAX * EPS["float32"] / EPS["bfloat16"]
    for gradient, wide in zip(gradients, expected_gradients, strict=True):
        assert gradient.dtype == jnp.bfloat16
        assert_within(gradient, wide, allowed, "bfloat16")


def exact_softmax(logits) -> list:
    """Softmax in mpmath's precision."""
    peak = max(logits)
    powers = [mpmath.exp(z - peak) for z in logits]
    total = mpmath.fsum(powers)
    return [power / total for power in powers]


def assert_accurate(
    loss: Callable,
    exact: Callable,
    arrays: list[np.ndarray],
    *,
    value_ulp: float,
    gradient_eps_of_max: float,
):
    """Float32 values and gradients are close to those of `exact`, in mpmath from the same numbers.

    `loss` maps vectors, rows of `arrays`, to a scalar; `exact` does the same with lists of mpmath numbers.
    The exact gradient is a central difference at a precision that makes it so.
    """
    argnums = tuple(range(len(arrays)))
    values, gradients = compiled(jax.vmap(jax.value_and_grad(loss, argnums)))(*map(jnp.asarray, arrays))
    # Wide enough for exp(-1000) beside 1, and for differences over a step of 1e-200.
    with mpmath.workdps(1100):
        for row in range(len(values)):
            lists = [[mpmath.mpf(float(v)) for v in array[row]] for array in arrays]
            truth = exact(*lists)
            error = abs(mpmath.mpf(float(values[row])) - truth) / ulp(float(truth))
            what = f"row {row}, {[a[row] for a in arrays]}"
            assert error <= value_ulp, f"{what}: {values[row]} for {float(truth)}, {float(error)} ULP"
            for which, gradient in enumerate(gradients):
                expected = _exact_gradient(exact, lists, which)
                # Below the smallest normal number float32 has no relative precision to lose.
                smallest = float(np.finfo(np.float32).tiny) / EPS["float32"]
                scale = max(float(np.max(np.abs(expected))), smallest)
                assert_within(gradient[row], expected, gradient_eps_of_max, "float32", scale, what)


def _exact_gradient(exact: Callable, lists: list[list], which: int) -> np.ndarray:
    step, gradient = mpmath.mpf(10) ** -200, []
    for i in range(len(lists[which])):
        values = []
        for sign in (1, -1):
            moved = [v + sign * step if k == i else v for k, v in enumerate(lists[which])]
            values.append(exact(*(moved if k == which else a for k, a in enumerate(lists))))
        gradient.append(float((values[0] - values[1]) / (2 * step)))
    return np.array(gradient)


def ulp(value: float) -> float:
    """The gap between float32 numbers at `value`; below the normal numbers, that at the smallest of them."""
    return float(np.spacing(np.float32(max(abs(value), np.finfo(np.float32).tiny))))
