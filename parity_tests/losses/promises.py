"""What every loss promises beyond parity, as assertions: masks delete, precision, accuracy against mpmath."""

import functools
import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp
import mpmath
import numpy as np

from parity_tests.compare import assert_same, assert_within
from parity_tests.losses.harness import cast, run_jax, run_torch
from parity_tests.tolerances import EPS, GRADIENT_EPS_OF_MAX, VALUE_EPS_OF_MAX

# Compiling takes nearly all the time of these tests, and half of that is optimisation.
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def as_a_whole(loss: Callable) -> Callable:
    """The loss compiled in one, for tests that call it in few shapes: operation by operation takes longer."""
    parameters = inspect.signature(loss).parameters.values()
    return jax.jit(
        loss, static_argnames=[p.name for p in parameters if isinstance(p.default, str | int | float)]
    )


REDUCTIONS = ("mean", "sum", "none")
OUT_OF_RANGE = 10**6


def assert_masking_deletes(loss: Callable, arrays: dict, mask: np.ndarray, options=None, *, wrt=("input",)):
    """Masked rows hold NaN and labels out of range; the others' values and gradients are as if alone.

    Rows do not depend on each other, so what deletion leaves is known from the rows of an unmasked call; each
    has the weight given by `sample_weight`.
    """
    poisoned = {}
    for name, array in arrays.items():
        nothing = np.nan if array.dtype.kind == "f" else OUT_OF_RANGE
        keep = mask.reshape(mask.shape + (1,) * (array.ndim - mask.ndim))
        poisoned[name] = np.where(keep, array, nothing).astype(array.dtype)

    @compiled
    def run(arrays):
        given = options or {}
        return [run_jax(loss, arrays, given | {"reduction": each}, wrt) for each in ("none", "mean")]

    (rows, row_gradients), _ = run(_as_jax(arrays | {"where": np.ones_like(mask)}))
    (value, gradients), (mean, mean_gradients) = run(_as_jax(poisoned | {"where": mask}))
    assert_same(value, np.where(mask, rows, 0.0))
    total = np.sum(arrays.get("sample_weight", np.ones(mask.shape))[mask])
    assert_within(mean, np.sum(np.asarray(rows)[mask]) / total, VALUE_EPS_OF_MAX)
    for name, gradient, row_gradient, mean_gradient in zip(
        wrt, gradients, row_gradients, mean_gradients, strict=True
    ):
        keep = mask.reshape(mask.shape + (1,) * (gradient.ndim - mask.ndim))
        expected = np.where(keep, row_gradient, 0.0)
        assert_same(gradient, expected, what=name)
        if name == "sample_weight":
            expected = np.where(keep, expected - mean, 0.0)
        assert_within(mean_gradient, expected / total, GRADIENT_EPS_OF_MAX, what=name)


def _as_jax(arrays: dict) -> dict:
    return {name: jnp.asarray(array) for name, array in arrays.items()}


def assert_class_axis_is_free(loss: Callable, input: np.ndarray, *rest, **options):
    """The first axis as class axis gives the same as the last."""

    @compiled
    def both(x, *rest):
        rows = loss(x, *rest, reduction="none", **options)
        turned = [r.T if r.shape == x.shape else r for r in rest]
        return rows, loss(x.T, *turned, reduction="none", axis=0, **options)

    assert_within(*both(jnp.asarray(input), *map(jnp.asarray, rest)), VALUE_EPS_OF_MAX)


def assert_transforms(loss: Callable, input: np.ndarray, *rest, **options):
    """vmap, checkpoint, forward mode and second derivatives, under jit, give what differencing gives.

    `loss` maps `input` and `rest` to a scalar. All is compiled as one, since compiling is what takes time.
    """
    x, rest = jnp.asarray(input), tuple(map(jnp.asarray, rest))
    direction, step = jnp.asarray(np.random.default_rng(3).standard_normal(x.shape), x.dtype), 1e-5

    def scalar(x):
        return loss(x, *rest, **options)

    @compiled
    def everything(x):
        points = jnp.stack([x, x + step * direction, x - step * direction])
        batched = jax.vmap(jax.value_and_grad(jax.checkpoint(scalar)))(points)
        return batched, jax.jvp(jax.value_and_grad(scalar), (x,), (direction,))

    (values, gradients), ((value, gradient), (value_dot, gradient_dot)) = everything(x)
    assert_within(values[0], value, GRADIENT_EPS_OF_MAX)
    assert_within(gradients[0], gradient, GRADIENT_EPS_OF_MAX)
    scale = float(jnp.sum(jnp.abs(gradient * direction)))
    assert_within(value_dot, jnp.vdot(gradient, direction), GRADIENT_EPS_OF_MAX, scale=scale)
    np.testing.assert_allclose(value_dot, (values[1] - values[2]) / (2 * step), atol=1e-8, rtol=1e-6)
    np.testing.assert_allclose(gradient_dot, (gradients[1] - gradients[2]) / (2 * step), atol=1e-8, rtol=1e-6)


def assert_parity(
    jax_loss: Callable, torch_loss: Callable, arrays: dict, cases: list[dict], *, wrt=("input",)
):
    """Value and gradients are torch's in each case of options, in float64 and float32, at a random cotangent.

    The truth for both is torch's float64 on the same numbers, since torch's own float32 cancels.
    """
    for dtype in ("float64", "float32"):
        typed = cast(arrays, dtype)
        # One case says what float32 adds, which is rounding.
        chosen = cases if dtype == "float64" else cases[:1]
        truths = [_truth(torch_loss, cast(typed, "float64"), options, wrt) for options in chosen]

        @compiled
        def run_all(typed, chosen=chosen, truths=truths):
            pairs = zip(chosen, truths, strict=True)
            return [run_jax(jax_loss, typed, options, wrt, cotangent) for options, (cotangent, *_) in pairs]

        results = run_all(jax.tree.map(jnp.asarray, typed))
        for options, (value, gradients), (_, expected, expected_gradients) in zip(
            chosen, results, truths, strict=True
        ):
            what = f"{jax_loss.__name__} {options} {dtype}"
            assert value.dtype == dtype, what
            assert_within(value, expected, VALUE_EPS_OF_MAX, dtype, what=what)
            for name, ours, theirs in zip(wrt, gradients, expected_gradients, strict=True):
                assert ours.dtype == dtype, what
                assert_within(ours, theirs, GRADIENT_EPS_OF_MAX, dtype, what=f"{what}, d/d{name}")


def _truth(torch_loss: Callable, arrays: dict, options: dict, wrt):
    """A cotangent that float32 holds exactly, and torch's value and gradients."""
    shape = tuple(run_torch(torch_loss, arrays, options, wrt[:1], None)[0].shape)
    cotangent = np.random.default_rng(7).standard_normal(shape).astype("float32").astype("float64")
    return cotangent, *run_torch(torch_loss, arrays, options, wrt, cotangent)


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
