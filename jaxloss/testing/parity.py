"""Check that JAX functions and torch functions compute the same values and the same gradients."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxloss.interop import is_module
from jaxloss.testing._judge import judge
from jaxloss.testing._problem import Problem, gather_evidence, make_problem
from jaxloss.testing.diagnosis import likely_cause
from jaxloss.testing.measure import EPS
from jaxloss.testing.report import Comparison, ParityReport, Table, table_of


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
    names = dtype_names(dtypes)
    check_options(jax_fn, torch_fn, params, value_eps, gradient_eps)
    problem = make_problem(
        jax_fn,
        torch_fn,
        inputs,
        wrt=wrt,
        params=params,
        params_to_torch=params_to_torch,
        jit=jit,
        device=device,
        matmul_precision=matmul_precision,
        allow_nan=allow_nonfinite,
        seed=seed,
    )

    title = str(name or getattr(jax_fn, "__name__", type(jax_fn).__name__))
    return report_on(problem, names, title, value_eps, gradient_eps, allow_nonfinite)


def report_on(
    problem: Problem,
    dtypes: Sequence[str],
    name: str,
    value_eps: float | None,
    gradient_eps: float | None,
    allow_nonfinite: bool,
) -> ParityReport:
    """Compare both sides of a problem in each dtype, the widest first."""
    comparisons: list[Comparison] = []
    cause: str | None = None
    l2: dict[str, tuple[float, float | None]] = {}
    for dtype in sorted(dtypes, key=lambda dtype: EPS[dtype]):
        evidence = gather_evidence(problem, dtype)
        found = judge(evidence, value_eps, gradient_eps, allow_nonfinite)
        if all(c.passed for c in comparisons) and not all(c.passed for c in found):
            cause = likely_cause(evidence, found, comparisons[-1].dtype if comparisons else None)
        comparisons += found
        if evidence.ours.gradients:
            l2[dtype] = evidence.gradient_l2()
    return ParityReport(name, tuple(comparisons), cause, l2)


def assert_parity(
    jax_fn: Callable[..., Any], torch_fn: Callable[..., Any], *inputs: Any, **options: Any
) -> ParityReport:
    """Fail unless a JAX function and a torch function or module agree, in values and in gradients.

    Each output is pulled back with a random cotangent that is not 1. In float64 the two must agree; in
    narrower dtypes JAX must agree with torch, or with torch's float64 result for the same numbers. Where they
    do not, three things are looked at before it counts as a disagreement: whether moving the inputs by a few
    eps changes the result as much (ill-conditioned), whether torch's own error is a third of it or more, and
    whether the gradient is zero but for rounding. In narrower dtypes the first two are accepted only if the
    error all but vanishes when JAX computes in float64. The report marks what was accepted so.

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


@dataclass(frozen=True)
class Pair:
    """A JAX function, its torch counterpart, and what to call them with.

    Args:
        name: the row's first cell.
        jax_fn: see `assert_parity`.
        torch_fn: see `assert_parity`.
        inputs: see `assert_parity`.
        options: the keyword arguments of `assert_parity`.
    """

    name: str
    jax_fn: Callable[..., Any]
    torch_fn: Callable[..., Any]
    inputs: Sequence[Any]
    options: dict[str, Any] = field(default_factory=dict)

    def check(self, **options: Any) -> ParityReport:
        """Compare the two; the pair's own options go before those given here."""
        return check_parity(
            self.jax_fn, self.torch_fn, *self.inputs, **{**options, **self.options, "name": self.name}
        )


def parity_table(pairs: Sequence[Pair], **options: Any) -> Table:
    """Compare each pair and give a table of the errors, for people or for a README.

    A pair that disagrees has NO in the last column; nothing is raised for it.

    Args:
        pairs: what to compare.
        **options: keyword arguments of `assert_parity` for all pairs.

    Returns:
        The table: `print` shows it as text, `.markdown()` is Markdown. Errors are in eps of the largest
        entry.

    Raises:
        ValueError: there is no pair, or two have one name.

    >>> import jax.numpy as jnp, torch
    >>> from jaxloss.testing import normal
    >>> pairs = [Pair("square", jnp.square, torch.square, [normal(8)])]
    >>> print(parity_table(pairs, dtypes="float64"))
    function  dtype    value  gradient  JAX's own  torch's own  agree
    square    float64  0      0         -          -            yes
    """
    names = [pair.name for pair in pairs]
    if not names:
        raise ValueError("pairs must hold at least one pair")
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"each pair needs a name of its own; used twice: {', '.join(twice)}")
    return table_of([pair.check(**options) for pair in pairs])


def dtype_names(dtypes: Any) -> tuple[str, ...]:
    """The names of one or several dtypes; ValueError where there is none, or an unknown one."""
    listed = [dtypes] if isinstance(dtypes, (str, type)) or not isinstance(dtypes, Iterable) else dtypes
    # Of numpy, JAX and torch as well as names.
    names = tuple(getattr(dtype, "__name__", str(dtype)).removeprefix("torch.") for dtype in listed)
    if not names or not set(names) <= EPS.keys():
        raise ValueError(f"dtypes must be some of {', '.join(EPS)}; got {', '.join(names) or 'none'}")
    return tuple(dict.fromkeys(names))


def check_options(
    jax_fn: Any, torch_fn: Any, params: Any, value_eps: float | None, gradient_eps: float | None
) -> None:
    """Raise unless the two are functions, or a function and a module, and the options make sense."""
    check_judged(jax_fn, value_eps, gradient_eps)
    if not callable(torch_fn):
        raise TypeError(f"torch_fn must be callable; got {type(torch_fn).__name__}")
    if isinstance(torch_fn, type) and hasattr(torch_fn, "named_parameters"):
        raise TypeError(f"torch_fn must be a module, not its class; got {torch_fn.__name__}")
    if params is not None and not is_module(torch_fn):
        raise TypeError(
            "params goes with an nn.Module on torch's side; pass arrays to two functions as inputs"
        )


def check_judged(jax_fn: Any, value_eps: float | None, gradient_eps: float | None) -> None:
    """Raise unless there is a JAX function, and what it is allowed makes sense."""
    if not callable(jax_fn):
        raise TypeError(f"jax_fn must be callable; got {type(jax_fn).__name__}")
    for argument, allowed in (("value_eps", value_eps), ("gradient_eps", gradient_eps)):
        if allowed is not None and not 0.0 <= allowed < np.inf:
            raise ValueError(f"{argument} must be finite and at least 0; got {allowed}")
