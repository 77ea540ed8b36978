"""Check that training runs of both frameworks go the same way, and tell a fault from chaos.

Shapes: S steps.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from jaxloss._checks import check_choice, check_number
from jaxloss.interop import check_dropout, is_module, to_numpy
from jaxloss.testing._jax import make_converter
from jaxloss.testing.inputs import cast, check_finite, draw_inputs
from jaxloss.testing.measure import EPS, GRADIENT_EPS_OF_MAX, Difference, difference
from jaxloss.testing.report import Comparison, ParityReport
from jaxloss.testing.steps import as_factory, check_optax, check_step_parity
from jaxloss.testing.trainers import Run, load, move_by_one_eps, numerics_of, train_jax, train_torch

# Two frameworks round differently in every operation, a moved run in one place.
_TIMES_MOVED = 50.0

# Where more than this part of an array would be allowed, nothing can be told from it.
_CHAOS = 1e-3

_NUM_MOVED = 2


def assert_run_parity(
    jax_loss: Callable[..., Any],
    torch_loss: Callable[..., Any],
    batches: Iterable[Sequence[Any]],
    *,
    params: Any,
    torch_module: Any,
    optax_optimizer: Any,
    torch_optimizer: Any,
    params_to_torch: Callable[[Any], Any] | None = None,
    max_norm: float | None = None,
    clip_eps: float = 1e-6,
    dtype: str = "float64",
) -> ParityReport:
    """Fail unless both frameworks train the same: losses of all steps, the first gradients, the last weights.

    What counts as the same is measured: JAX's run is repeated from weights moved by one eps, and the two may
    be 50 times as far apart as that. Where that is more than a thousandth, it is chaos, and what comes after
    is not judged. If the runs part after the first gradients, the optimizers are compared as by
    `assert_step_parity`, which names the cause.

    Args:
        jax_loss: called as `jax_loss(params, *batch)`, with a scalar as its result.
        torch_loss: called as `torch_loss(module, *batch)`, with a copy of the module.
        batches: one tuple of arrays or specs for each step. Both losses get all of it: dropout masks (see
            `inject_masks`), or the number of the step, which JAX folds into its key.
        params: JAX's initial parameters, a tree; torch starts from the same.
        torch_module: in the mode in which it trains. It is left as it is.
        optax_optimizer: see `assert_step_parity`.
        torch_optimizer: see `assert_step_parity`.
        params_to_torch: see `assert_parity`.
        max_norm: see `assert_step_parity`.
        clip_eps: see `assert_step_parity`.
        dtype: "float64", which tells a fault from rounding best, or "float32".

    Returns:
        The report, in the order in which a run meets what it compares.

    Raises:
        AssertionError: the runs differ.
        TypeError: an argument is of another kind, or a loss is no scalar.
        ValueError: parameters do not correspond, the module drops at random, a number is out of range, a
            batch holds NaN, a loss becomes NaN or infinite in torch, or one eps grows too much in a step.

    >>> import jax.numpy as jnp, optax, torch
    >>> from jaxloss.testing import normal
    >>> report = assert_run_parity(
    ...     lambda params, x, y: jnp.mean((x @ params["kernel"] + params["bias"] - y) ** 2),
    ...     lambda module, x, y: ((module(x) - y) ** 2).mean(),
    ...     [(normal(8, 3), normal(8, 1))] * 4,
    ...     params={"kernel": jnp.ones((3, 1)), "bias": jnp.zeros(1)},
    ...     torch_module=torch.nn.Linear(3, 1),
    ...     optax_optimizer=optax.adam(1e-2),
    ...     torch_optimizer=lambda p: torch.optim.Adam(p, lr=1e-2),
    ... )
    >>> report.passed
    True
    """
    report = check_run_parity(
        jax_loss,
        torch_loss,
        batches,
        params=params,
        torch_module=torch_module,
        optax_optimizer=optax_optimizer,
        torch_optimizer=torch_optimizer,
        params_to_torch=params_to_torch,
        max_norm=max_norm,
        clip_eps=clip_eps,
        dtype=dtype,
    )
    if not report.passed:
        raise AssertionError(report.text())
    return report


def check_run_parity(
    jax_loss: Callable[..., Any],
    torch_loss: Callable[..., Any],
    batches: Iterable[Sequence[Any]],
    *,
    params: Any,
    torch_module: Any,
    optax_optimizer: Any,
    torch_optimizer: Any,
    params_to_torch: Callable[[Any], Any] | None = None,
    max_norm: float | None = None,
    clip_eps: float = 1e-6,
    dtype: str = "float64",
) -> ParityReport:
    """Compare two runs without raising when they differ; the arguments are those of `assert_run_parity`."""
    check_choice("dtype", dtype, ("float64", "float32"))
    if max_norm is not None:
        max_norm = check_number("max_norm", max_norm, low=0.0, open_low=True)
    check_optax("optax_optimizer", optax_optimizer)
    make = as_factory(torch_optimizer)
    if not is_module(torch_module):
        raise TypeError(f"torch_module must be an nn.Module; got {type(torch_module).__name__}")
    check_dropout(torch_module)
    drawn = [cast(draw_inputs(tuple(batch), step), dtype) for step, batch in enumerate(batches)]
    if not drawn:
        raise ValueError("batches must hold one tuple of arrays for each step; got none")
    for batch in drawn:
        check_finite(batch)
    # As the dtype holds them, so that both start from the same numbers.
    params = cast(jax.tree.map(lambda leaf: np.array(to_numpy(leaf)), params), dtype)
    shapes = {name: list(parameter.shape) for name, parameter in torch_module.named_parameters()}
    converter = make_converter(params, shapes, params_to_torch)

    with numerics_of(dtype):
        shape = getattr(jax.eval_shape(jax_loss, params, *drawn[0]), "shape", None)
    if shape != ():
        got = "no array" if shape is None else f"shape {list(shape)}"
        raise TypeError(f"jax_loss must return a scalar; got {got}")
    module = copy.deepcopy(torch_module).to("cpu")
    load(module, converter(params), dtype)
    expected = train_torch(torch_loss, module, make, drawn, dtype, max_norm=max_norm, clip_eps=clip_eps)
    loss_and_gradients = jax.jit(jax.value_and_grad(jax_loss))
    starts = [params, *(move_by_one_eps(params, dtype, seed) for seed in range(_NUM_MOVED))]
    run, *moved = train_jax(loss_and_gradients, optax_optimizer, starts, drawn, dtype, converter)
    report = compare_runs(run, expected, moved, dtype)
    is_first = any(not c.passed for c in report.comparisons[: 1 + len(expected.gradients)])
    if report.passed or is_first:
        return report
    # Arrays of a few numbers each: what an optimizer does to a weight does not depend on how many there are.
    few = jax.tree.map(lambda leaf: leaf[(slice(3),) * leaf.ndim], params)
    steps = check_step_parity(
        optax_optimizer, torch_optimizer, params=few, max_norm=max_norm, clip_eps=clip_eps
    )
    return ParityReport(report.name, report.comparisons, steps.cause)


def compare_runs(run: Run, expected: Run, moved: Sequence[Run], dtype: str) -> ParityReport:
    """Judge a run by another one, and by what moving its own start by one eps makes of it.

    Args:
        run: JAX's.
        expected: torch's.
        moved: JAX's, from `move_by_one_eps`.
        dtype: of all.

    Raises:
        ValueError: a loss of `expected` is NaN or infinite, or one eps grows too much in the first step.
    """
    if not np.isfinite(expected.losses_S).all():
        step = int(np.argmin(np.isfinite(expected.losses_S))) + 1
        raise ValueError(
            f"torch's loss must stay finite; that of step {step} is not: lower the learning rate"
        )
    scale = _largest(run.losses_S, expected.losses_S)
    own_S = np.max([_errors(m.losses_S, run.losses_S, dtype, scale) for m in moved], axis=0)
    own_S = np.maximum.accumulate(own_S)
    limit = _CHAOS / EPS[dtype]
    judged = int(np.argmax(own_S > limit / _TIMES_MOVED)) if own_S[-1] > limit / _TIMES_MOVED else len(own_S)
    if judged == 0:
        raise ValueError(
            f"the loss must not change by more than {_CHAOS / _TIMES_MOVED:g} of it when the weights move by "
            f"one eps of {dtype}; it does in step 1, so that no comparison means anything"
        )
    errors_S = _errors(run.losses_S, expected.losses_S, dtype, scale)
    allowed_S = np.maximum(GRADIENT_EPS_OF_MAX[dtype], _TIMES_MOVED * own_S)

    def of_losses(name: str, steps: range) -> Comparison:
        """The first of the steps whose loss is off, or the one where it is furthest off."""
        step = next((s for s in steps if errors_S[s] > allowed_S[s]), max(steps, key=lambda s: errors_S[s]))
        error, allowed = float(errors_S[step]), float(allowed_S[step])
        found = Difference(error, error, (step,), float(run.losses_S[step]), float(expected.losses_S[step]))
        what = name if error <= allowed else f"loss of step {step + 1}"
        return Comparison(what, dtype, error, allowed, error <= allowed, found, condition=float(own_S[step]))

    def of_arrays(what: str, which: str) -> list[Comparison]:
        ours, theirs = getattr(run, which), getattr(expected, which)
        others = [getattr(m, which) for m in moved]
        return [
            _compare(f"{what} {name}", ours[name], theirs[name], [other[name] for other in others], dtype)
            for name in theirs
        ]

    rows = [of_losses("loss of step 1", range(1)), *of_arrays("gradient of step 1 of", "gradients")]
    num_steps = len(own_S)
    if judged > 1:
        rows.append(of_losses(f"losses of steps 2 to {judged}", range(1, judged)))
    title = f"{num_steps} steps of training"
    if judged == num_steps:
        rows += of_arrays(f"after step {num_steps}:", "weights")
    else:
        title += f" (from step {judged + 1} on not judged, since one eps has grown to chaos there)"
    return ParityReport(title, tuple(rows))


def _errors(losses_S: np.ndarray, expected_S: np.ndarray, dtype: str, scale: float) -> np.ndarray:
    pairs = zip(losses_S, expected_S, strict=True)
    return np.array([difference(a, b, dtype, scale=scale).eps_of_max for a, b in pairs])


def _compare(
    what: str, ours: np.ndarray, theirs: np.ndarray, moved: list[np.ndarray], dtype: str
) -> Comparison:
    """An array of the run, which may move 50 times as far as one eps moves it."""
    # Of both sides: the noise that one has for a zero must not measure the other's gradient.
    scale = _largest(ours, theirs)
    found = difference(ours, theirs, dtype, scale=scale)
    own = max(difference(other, ours, dtype, scale=scale).eps_of_max for other in moved)
    error, allowed = found.eps_of_max, max(GRADIENT_EPS_OF_MAX[dtype], _TIMES_MOVED * own)
    is_chaos = own > _CHAOS / EPS[dtype] / _TIMES_MOVED
    note = "not judged: one eps becomes chaos here" if is_chaos else None
    passed = is_chaos or error <= allowed
    return Comparison(what, dtype, error, allowed, passed, found, condition=own, note=note)


def _largest(*arrays: np.ndarray) -> float:
    """The largest finite entry of all."""
    return max(float(np.max(np.abs(x[np.isfinite(x)]), initial=0.0)) for x in arrays)
