"""Judge failed comparisons again, by how much rounding alone can do to the problem.

Three kinds of disagreement are no bug: of a problem that is ill-conditioned, so that no algorithm does
better; of a formula that is as unstable in torch; and of a gradient that is analytically zero, which is
rounding noise on both sides. What a bug does is none of the three: it stays when JAX computes in float64,
where rounding shrinks to nothing, and it does not change at random when the inputs move by a few eps.
"""

from dataclasses import replace
from functools import cached_property
from typing import Any

import jax
import numpy as np

from jaxloss.testing._judge import compare
from jaxloss.testing._problem import Problem
from jaxloss.testing._run import Arrays, Leaves, Result
from jaxloss.testing.diagnosis import Evidence
from jaxloss.testing.inputs import cast, is_floating
from jaxloss.testing.measure import EPS, difference
from jaxloss.testing.report import Comparison

# Where torch itself is further from the float64 truth than is allowed, JAX may be this much further.
TIMES_TORCH_ERROR = 3.0

# A stable algorithm errs by about what one eps on its inputs does; measured at most 1.1 times that.
TIMES_CONDITION = 4.0

# But never by more: 7e-12 of the largest entry in float64. Measured at most 23,000 in a correct pair.
MOST_EPS_ALLOWED = 2.0**15

# What was allowed for rounding must be this much less in float64, whose eps is 2^-29 of float32's.
_SHRINKS_BY = 2.0**10

# How many eps the inputs are moved by to see what rounding does; a single one can vanish on the way.
_STEP = 16.0

# And in how many random directions: in one, the effects of two inputs may cancel.
_NUM_MOVES = 4

# A float64 gradient below this many eps of what gradients of the problem are like is zero but for rounding.
_NOISE = 64.0

# Noise changes by at least this share of itself when the inputs move; a gradient that is only small does not.
_NOISE_CHANGES_BY = 1e-2


def look_again(problem: Problem, found: list[Comparison], evidence: Evidence) -> list[Comparison]:
    """The comparisons, those that failed judged again."""
    second = _SecondLook(problem, evidence)
    return [c if c.passed or c.allowed == 0.0 else second.judge(c) for c in found]


class _SecondLook:
    """Runs of both sides that tell rounding from a bug; each is made when it is first needed."""

    def __init__(self, problem: Problem, evidence: Evidence) -> None:
        assert evidence.jax_result is not None
        self.problem, self.evidence, self.ours = problem, evidence, evidence.jax_result
        self.dtype = evidence.dtype
        rng = np.random.default_rng(0)
        wide = problem.widened(evidence.inputs, evidence.params)
        self.moved = [_moved(wide, _STEP * EPS[self.dtype], rng) for _ in range(_NUM_MOVES)]

    def judge(self, comparison: Comparison) -> Comparison:
        """Pass it where rounding explains the whole of the error."""
        name = comparison.what
        truth = _array(self.evidence.truth, name)
        theirs = _array(self.evidence.torch_result, name)
        arrays = (_array(self.ours, name), theirs, truth)
        condition = max(_change(_array(near, name), truth, self.dtype) for near in self.torch_moved)
        condition /= _STEP
        comparison = replace(comparison, condition=condition)
        if self._is_noise(comparison, truth):
            return compare(name, arrays, self.dtype, comparison.allowed, self.natural)
        well_done = min(comparison.allowed + TIMES_CONDITION * condition, MOST_EPS_ALLOWED)
        as_torch = TIMES_TORCH_ERROR * (comparison.torch_error or 0.0)
        limit = max(well_done, as_torch if np.isfinite(as_torch) else 0.0)
        error = comparison.error if comparison.jax_error is None else comparison.jax_error
        passed = error <= limit and self._is_right_in_float64(comparison, truth, limit)
        note = None
        if passed:
            note = "ill-conditioned" if error <= well_done else "as unstable in torch"
        return replace(comparison, allowed=limit if passed else comparison.allowed, passed=passed, note=note)

    @cached_property
    def torch_moved(self) -> list[Result]:
        """Torch's float64 results near the inputs."""
        cotangents = self.evidence.cotangents
        return [self.problem.torch(inputs, cotangents, "float64", params) for inputs, params in self.moved]

    @cached_property
    def jax_moved(self) -> list[Result]:
        """JAX's results there, in the dtype of the comparison."""
        return [
            self.problem.jax(
                cast(inputs, self.dtype), self.evidence.cotangents, self.dtype, cast(params, self.dtype)
            )
            for inputs, params in self.moved
        ]

    @cached_property
    def jax_in_float64(self) -> Result | None:
        """JAX's result for the same numbers in float64; None where the function cannot take them."""
        inputs, params = self.problem.widened(self.evidence.inputs, self.evidence.params)
        try:
            return self.problem.jax(inputs, self.evidence.cotangents, "float64", params)
        # A function made for one dtype may refuse another in any way it likes.
        except Exception:
            return None

    @cached_property
    def natural(self) -> float:
        """How large gradients of the problem are: the largest, or value over input where all are noise."""
        truth, evidence = self.evidence.truth, self.evidence
        largest = max((_largest(gradient) for gradient in truth.gradients.values()), default=0.0)
        arrays = [*Leaves.of(evidence.inputs).arrays().values(), *jax.tree.leaves(evidence.params)]
        size = max((_largest(array) for array in arrays if array.dtype.kind not in "iub"), default=0.0)
        value = max(_largest(x) * _largest(evidence.cotangents[name]) for name, x in truth.values.items())
        per_input = value / size if size else 0.0
        return largest if largest > _NOISE * EPS["float64"] * per_input else per_input

    def _is_noise(self, comparison: Comparison, truth: np.ndarray) -> bool:
        """Whether the gradient is zero but for rounding, on both sides."""
        name = comparison.what
        is_tiny = _largest(truth) <= _NOISE * EPS["float64"] * self.natural
        if name in self.evidence.truth.values or not is_tiny or self.natural == 0.0:
            return False
        share = _NOISE_CHANGES_BY / EPS[self.dtype]
        condition = comparison.condition or 0.0
        if np.any(truth) and condition * _STEP <= share:
            return False
        ours = _array(self.ours, name)
        changes = (_change(_array(near, name), ours, self.dtype) for near in self.jax_moved)
        return not np.any(ours) or any(change > share for change in changes)

    def _is_right_in_float64(self, comparison: Comparison, truth: np.ndarray, limit: float) -> bool:
        if self.dtype == "float64" or self.jax_in_float64 is None:
            return True
        wide = _array(self.jax_in_float64, comparison.what)
        if np.any(wide) and _fits_float32(wide) and not _fits_float32(truth):
            # It computes in float32 whatever it is given, so that this tells nothing.
            return True
        error = difference(wide, truth, self.dtype).eps_of_max
        return error <= max(comparison.allowed, limit / _SHRINKS_BY)


def _array(result: Result, name: str) -> np.ndarray:
    arrays: Arrays = result.values if name in result.values else result.gradients
    return arrays[name]


def _moved(trees: Any, share: float, rng: np.random.Generator) -> Any:
    """Every number of the trees a little larger or smaller."""
    return jax.tree.map(
        lambda x: x * (1 + share * rng.choice([-1.0, 1.0], x.shape)) if is_floating(x) else x, trees
    )


def _change(near: np.ndarray, at: np.ndarray, dtype: str) -> float:
    """How far apart two results are where both are finite, in eps of the largest entry."""
    finite = np.isfinite(near) & np.isfinite(at)
    return difference(np.where(finite, near, 0.0), np.where(finite, at, 0.0), dtype).eps_of_max


def _fits_float32(array: np.ndarray) -> bool:
    with np.errstate(over="ignore"):
        return np.array_equal(array, array.astype(np.float32), equal_nan=True)


def _largest(array: np.ndarray) -> float:
    array = np.asarray(array, np.float64)
    return float(np.max(np.abs(array[np.isfinite(array)]), initial=0.0))
