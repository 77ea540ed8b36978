"""The two functions, and what they gave when they were asked."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxloss.interop import to_numpy
from jaxloss.testing._jax import JaxSide, make_converter
from jaxloss.testing._result import Arrays, Leaves, OutputMismatchError, Result, shape_text
from jaxloss.testing._torch import TorchSide
from jaxloss.testing.inputs import cast, check_finite, draw_inputs, is_array, is_floating, label
from jaxloss.testing.measure import dtype_name


@dataclass(frozen=True)
class Problem:
    """Both sides of a comparison, to be run on any inputs of the same shapes.

    Args:
        jax_side: the JAX function.
        torch_side: a `TorchSide`, or what was recorded of one.
        inputs: as float64.
        params: the JAX function's parameters, as numpy.
        cotangents: of the outputs, by name.
    """

    jax_side: JaxSide
    torch_side: Any
    inputs: tuple[Any, ...]
    params: Any
    cotangents: Arrays

    def jax(self, inputs: tuple[Any, ...], params: Any, dtype: str) -> Result:
        """JAX's result, for the numbers rounded to the dtype and in it."""
        return self.jax_side.run(cast(inputs, dtype), cast(params, dtype), dtype, self.cotangents)

    def torch(self, inputs: tuple[Any, ...], params: Any, dtype: str) -> Result:
        """Torch's."""
        return self.torch_side.run(cast(inputs, dtype), cast(params, dtype), dtype, self.cotangents)


@dataclass(frozen=True)
class Evidence:
    """What both sides gave for the same numbers in one dtype, and the means to ask them again.

    Args:
        problem: the two sides.
        dtype: in which both computed.
        inputs: rounded to it.
        params: rounded to it.
        ours: JAX's result.
        theirs: torch's.
        truth: torch's in float64, for the rounded numbers.
        mismatch: why the outputs cannot be compared; `ours` is empty then.
        mismatch_names: what JAX's outputs are called then.
    """

    problem: Problem
    dtype: str
    inputs: tuple[Any, ...]
    params: Any
    ours: Result
    theirs: Result
    truth: Result
    mismatch: str | None = None
    mismatch_names: list[str] | None = None

    def gradient_l2(self) -> tuple[float, float | None]:
        """How far all gradients together are from the truth, relative to its length: JAX's, and torch's."""

        def flat(result: Result) -> np.ndarray:
            gradients = [np.ravel(result.gradients[name]) for name in self.truth.gradients]
            return np.concatenate(gradients).astype(np.float64)

        expected = flat(self.truth)
        # An infinity in both makes this NaN: there is no distance then.
        with np.errstate(invalid="ignore", divide="ignore"):
            length = np.linalg.norm(expected)
            ours, theirs = (
                float(np.linalg.norm(flat(x) - expected) / length) for x in (self.ours, self.theirs)
            )
        return ours, None if self.dtype == "float64" else theirs


def gather_evidence(problem: Problem, dtype: str) -> Evidence:
    """Run both sides in a dtype; an error of the JAX function is raised with a note on what it was given."""
    inputs, params = cast((problem.inputs, problem.params), dtype)
    theirs = truth = problem.torch(inputs, params, dtype)
    if dtype != "float64":
        truth = problem.torch(inputs, params, "float64")
    ours, mismatch, names = Result({}, {}), None, None
    try:
        ours = problem.jax(inputs, params, dtype)
    except OutputMismatchError as error:
        mismatch, names = str(error), error.names
    except Exception as error:
        is_untraceable = isinstance(error, jax.errors.ConcretizationTypeError)
        hint = "; jit=False runs it without tracing" if is_untraceable else ""
        given = ", ".join(map(shape_text, Leaves.of(inputs).arrays().values()))
        error.add_note(f"raised by the JAX function, given {given}{hint}")
        raise
    return Evidence(problem, dtype, inputs, params, ours, theirs, truth, mismatch, names)


def make_problem(
    jax_fn: Callable[..., Any],
    torch_fn: Any,
    inputs: tuple[Any, ...],
    *,
    wrt: Any,
    params: Any,
    params_to_torch: Callable[[Any], Any] | None,
    jit: bool,
    device: str | None,
    matmul_precision: str,
    allow_nan: bool,
    seed: int,
) -> Problem:
    """Check that the two can be compared, and prepare it; the arguments are those of `assert_parity`.

    Raises:
        TypeError: an input, a parameter, an output or `wrt` has a type that cannot be compared.
        ValueError: there is no array, or a NaN, among the inputs; parameters do not correspond; or torch's
            results are random.
    """
    inputs = cast(draw_inputs(inputs, seed), "float64")
    if not any(map(is_array, jax.tree.leaves((inputs, params)))):
        raise ValueError("inputs must hold at least one array or spec: there is nothing to compare")
    if not allow_nan:
        check_finite(inputs)
    params = jax.tree.map(lambda leaf: np.array(to_numpy(leaf)), params)
    converter = None
    if params is not None:
        shapes = {name: list(parameter.shape) for name, parameter in torch_fn.named_parameters()}
        converter = make_converter(params, shapes, params_to_torch)
    names = _differentiable(inputs, wrt, params is not None)
    torch_side = TorchSide(torch_fn, names, converter, device)
    outputs = torch_side.check_reproducible(inputs)
    jax_side = JaxSide(
        jax_fn, inputs, names, outputs, converter=converter, jit=jit, matmul_precision=matmul_precision
    )
    return Problem(jax_side, torch_side, inputs, params, _draw_cotangents(outputs, seed))


def _draw_cotangents(outputs: Arrays, seed: int) -> Arrays:
    """Random, away from 0 and 1, and exact in every dtype: multiples of 1/16 between 1/2 and 3/2."""
    rng = np.random.default_rng([seed, 1])
    return {
        name: rng.choice([-1.0, 1.0], output.shape)
        * (1 + rng.choice([-1, 1], output.shape) * rng.integers(1, 9, output.shape) / 16)
        for name, output in outputs.items()
    }


def _differentiable(inputs: tuple[Any, ...], wrt: Any, has_params: bool) -> list[str]:
    """Names of the input arrays to differentiate.

    Raises:
        TypeError: `wrt` names an input that has no floating-point array in it, or is no sequence of
            positions.
        ValueError: a position is out of range or given twice, or there is nothing to differentiate.
    """
    arrays = Leaves.of(inputs).arrays()
    floating = [name for name, array in arrays.items() if is_floating(array)]
    if wrt is None:
        if not floating and not has_params:
            raise ValueError(
                "no input is floating point, so there is no gradient to compare; wrt=() compares values"
            )
        return floating
    chosen: list[str] = []
    for position in _positions(wrt, len(inputs)):
        own = [name for name in arrays if name.split("[")[0] == label(position)]
        if not any(name in floating for name in own):
            what = dtype_name(arrays[own[0]]) if own else repr(inputs[position])
            raise TypeError(f"wrt names input {position}, which is not differentiable: it is {what}")
        chosen += [name for name in own if name in floating]
    return chosen


def _positions(wrt: Any, num_inputs: int) -> list[int]:
    entries = [wrt] if isinstance(wrt, (int, float, str)) or not hasattr(wrt, "__iter__") else list(wrt)
    for position in entries:
        if isinstance(position, bool) or not isinstance(position, (int, np.integer)):
            raise TypeError(f"wrt must hold positions of inputs, such as (0, 1); got {position!r}")
        if not 0 <= position < num_inputs:
            raise ValueError(f"wrt names input {position}, but there are {num_inputs} inputs, counted from 0")
        if entries.count(position) > 1:
            raise ValueError(f"wrt names input {position} twice")
    return [int(position) for position in entries]
