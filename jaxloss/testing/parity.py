"""Check that a JAX function and a torch function compute the same values and the same gradients."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxloss.testing._jax_side import has_arrays, run_jax
from jaxloss.testing._judge import (
    check_meaning,
    compare_arrays,
    draw_cotangents,
    gradient_scale,
    reconsider,
    relative_l2,
)
from jaxloss.testing._params import make_converter
from jaxloss.testing._run import Arrays, Leaves, OutputMismatchError, differentiable
from jaxloss.testing._torch_side import check_reproducible, is_module, module_parameters, run_torch
from jaxloss.testing.diagnosis import Evidence, likely_cause
from jaxloss.testing.inputs import cast, check_finite, draw_inputs, is_floating
from jaxloss.testing.measure import EPS, to_numpy
from jaxloss.testing.report import Comparison, ParityReport

# Two correct implementations that sum in another order differ by a few roundings of the largest term; a
# gradient passes through more sums than its value does. In 16 bits, torch rounds after every operation.
VALUE_EPS_OF_MAX = {"float64": 16.0, "float32": 16.0, "float16": 4.0, "bfloat16": 4.0}
GRADIENT_EPS_OF_MAX = {"float64": 64.0, "float32": 64.0, "float16": 8.0, "bfloat16": 8.0}

# How many eps the inputs are moved by to measure that; a single one can vanish in a rounding on the way.
_STEP = 16.0


@dataclass(frozen=True)
class _Problem:
    """The two functions and all that is asked of them."""

    jax_fn: Callable[..., Any]
    torch_fn: Callable[..., Any]
    inputs: tuple[Any, ...]
    wrt: list[str]
    params: Any
    converter: Callable[[Any], Arrays] | None
    jit: bool
    device: str | None
    matmul_precision: str

    def torch(
        self, inputs: tuple[Any, ...], cotangents: Arrays | None, dtype: str, params: Any, **options: Any
    ):
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


def check_parity(
    jax_fn: Callable[..., Any],
    torch_fn: Callable[..., Any],
    *inputs: Any,
    wrt: Iterable[int] | None = None,
    dtypes: Iterable[str] = ("float64", "float32"),
    params: Any = None,
    params_to_torch: Callable[[Any], Any] | None = None,
    value_eps: float | None = None,
    gradient_eps: float | None = None,
    allow_nonfinite: bool = False,
    jit: bool = True,
    device: str | None = None,
    matmul_precision: str = "highest",
    seed: int = 0,
    name: str | None = None,
) -> ParityReport:
    """Compare a JAX function with a torch function, values and gradients, without raising when they differ.

    The arguments are those of `assert_parity`.

    Returns:
        The report: every comparison made, and when one fails, where, by how much, and the likely cause.

    Raises:
        TypeError: an input, output or `wrt` has a type that cannot be compared.
        ValueError: there is nothing to compare, or the comparison would mean nothing; the message says why.
    """
    dtypes = (dtypes,) if isinstance(dtypes, str) else tuple(dtypes)
    if not dtypes or not set(dtypes) <= EPS.keys():
        raise ValueError(f"dtypes must be some of {', '.join(EPS)}; got {dtypes}")
    drawn = cast(draw_inputs(inputs, seed), "float64")
    if params is not None and not is_module(torch_fn):
        raise TypeError(
            "params goes with an nn.Module on torch's side; pass arrays to two functions as inputs"
        )
    if not Leaves.of(drawn).arrays() and not has_arrays(params):
        raise ValueError("inputs must hold at least one array or spec: there is nothing to compare")
    if not allow_nonfinite:
        check_finite(drawn)
    params = jax.tree.map(lambda leaf: np.array(to_numpy(leaf)), params)
    converter = (
        make_converter(params, module_parameters(torch_fn), params_to_torch) if params is not None else None
    )
    wrt_names = differentiable(drawn, wrt, params is not None)
    check_reproducible(torch_fn, drawn, device)
    problem = _Problem(jax_fn, torch_fn, drawn, wrt_names, params, converter, jit, device, matmul_precision)
    title = str(name or getattr(jax_fn, "__name__", type(jax_fn).__name__))

    comparisons: list[Comparison] = []
    cause: str | None = None
    l2: dict[str, tuple[float, float | None]] = {}
    for dtype in sorted(dtypes, key=lambda dtype: EPS[dtype]):
        allowed = (
            VALUE_EPS_OF_MAX[dtype] if value_eps is None else value_eps,
            GRADIENT_EPS_OF_MAX[dtype] if gradient_eps is None else gradient_eps,
        )
        found, evidence = _compare(problem, dtype, allowed, seed, allow_nonfinite)
        if all(c.passed for c in comparisons) and not all(c.passed for c in found):
            evidence.agreed_in_float64 = bool(comparisons)
            cause = likely_cause(evidence, found)
        comparisons += found
        if evidence.jax_result is not None and evidence.truth.gradients:
            l2[dtype] = relative_l2(evidence.jax_result, evidence.torch_result, evidence.truth, dtype)
    return ParityReport(title, tuple(comparisons), cause, l2)


def assert_parity(
    jax_fn: Callable[..., Any], torch_fn: Callable[..., Any], *inputs: Any, **options: Any
) -> ParityReport:
    """Fail unless a JAX function and a torch function or module agree, in values and in gradients.

    Each output is pulled back with a random cotangent that is not 1. In float64 the two must agree; in
    narrower dtypes JAX must agree with torch, or be about as near as torch is to torch's own float64 result.

    Args:
        jax_fn: called as `jax_fn(*inputs)`, or `jax_fn(params, *inputs)`.
        torch_fn: a function or `nn.Module`, called as `torch_fn(*inputs)`. It is left as it is: no `.grad`,
            no dtype, no random state and no buffer changes.
        *inputs: arrays of numpy, JAX or torch; specs of random ones such as `normal(8, 10)`, or any function
            of a numpy `Generator`; containers of these; and settings, which reach both sides as they are.
        wrt: positions of the inputs to differentiate; by default every floating-point one. `()` compares
            values.
        dtypes: to compare in; floating-point inputs are rounded to each.
        params: the JAX function's parameters, a tree; the torch module gets the same values, and their
            gradients are compared too.
        params_to_torch: from that tree to arrays named and laid out as torch has them; applied to gradients
            as well. By default Flax's names and layouts are translated.
        value_eps: allowed error of values, in eps of the largest entry; by default 16 (4 in 16 bits).
        gradient_eps: the same for gradients; by default 64 (8 in 16 bits).
        allow_nonfinite: NaN and infinities may appear, and must appear in the same places.
        jit: compile the JAX function; False for one that looks at its values.
        device: of torch, such as "cuda"; by default where the module is, or the CPU.
        matmul_precision: of JAX's matrix products; "default" is coarser on accelerators (TF32 or bfloat16),
            and wants a `value_eps` and `gradient_eps` to match. Torch always multiplies in full precision.
        seed: of the random inputs and cotangents.
        name: to use in the report.

    Returns:
        The report, with the measured errors.

    Raises:
        AssertionError: they differ. The message shows each comparison, which array and index is worst, both
            values, the error in eps of max and in ULP, and the likely cause.
        TypeError: an input, output or `wrt` has a type that cannot be compared.
        ValueError: there is nothing to compare, or the comparison would mean nothing; the message says why.

    >>> import jax.numpy as jnp, torch
    >>> from jaxloss.testing import normal
    >>> report = assert_parity(lambda x: jnp.mean(x**2), lambda x: (x**2).mean(), normal(8, 10))
    >>> report.passed
    True
    """
    report = check_parity(jax_fn, torch_fn, *inputs, **options)
    if not report.passed:
        raise AssertionError(report.text())
    return report


def _compare(
    problem: _Problem, dtype: str, allowed: tuple[float, float], seed: int, allow_nonfinite: bool
) -> tuple[list[Comparison], Evidence]:
    inputs, params = cast(problem.inputs, dtype), cast(problem.params, dtype)
    forward = problem.torch(inputs, None, dtype, params)
    cotangents = draw_cotangents(forward.values, seed)
    torch_result = problem.torch(inputs, cotangents, dtype, params)
    truth = (
        torch_result
        if dtype == "float64"
        else problem.torch(cast(inputs, "float64"), cotangents, "float64", cast(params, "float64"))
    )
    evidence = Evidence(dtype, inputs, torch_result, truth, problem.torch, cotangents, params)
    try:
        jax_result = run_jax(
            problem.jax_fn,
            inputs,
            problem.wrt,
            cotangents,
            params=params,
            params_to_torch=problem.converter,
            dtype=dtype,
            jit=problem.jit,
            matmul_precision=problem.matmul_precision,
        )
    except OutputMismatchError as error:
        return [Comparison("value", dtype, np.inf, allowed[0], mismatch=str(error))], evidence
    except Exception as error:
        arrays = ", ".join(f"{a.dtype}{list(a.shape)}" for a in Leaves.of(inputs).arrays().values())
        hint = (
            "; jit=False runs it without tracing"
            if isinstance(error, jax.errors.ConcretizationTypeError)
            else ""
        )
        error.add_note(f"raised by the JAX function, given {arrays}{hint}")
        raise
    evidence.jax_result = jax_result
    check_meaning(jax_result, torch_result, allow_nonfinite)
    found = compare_arrays(jax_result.values, torch_result.values, truth.values, dtype, allowed[0])
    found += compare_arrays(jax_result.gradients, torch_result.gradients, truth.gradients, dtype, allowed[1])
    if not all(comparison.passed for comparison in found):
        found = _reconsider_all(problem, found, evidence)
    return found, evidence


def _reconsider_all(problem: _Problem, found: list[Comparison], evidence: Evidence) -> list[Comparison]:
    assert evidence.jax_result is not None
    rng, dtype = np.random.default_rng(0), evidence.dtype

    def moved(tree: Any) -> Any:
        return jax.tree.map(
            lambda x: (
                x * (1 + _STEP * EPS[dtype] * rng.choice([-1.0, 1.0], x.shape)) if is_floating(x) else x
            ),
            cast(tree, "float64"),
        )

    inputs, params, cotangents = evidence.inputs, evidence.params, evidence.cotangents
    near = problem.torch(moved(inputs), cotangents, "float64", moved(params))
    natural = gradient_scale(evidence.torch_result, cotangents, inputs, params)
    results = (evidence.jax_result, evidence.torch_result, evidence.truth, near)
    reconsidered = []
    for comparison in found:
        if not comparison.passed:
            name = comparison.what
            ours, theirs, truth, changed = (
                (r.values if name in r.values else r.gradients)[name] for r in results
            )
            comparison = reconsider(comparison, (ours, theirs, truth), changed, _STEP, natural)
        reconsidered.append(comparison)
    return reconsidered
