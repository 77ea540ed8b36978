"""Decide whether the arrays of two results agree, and whether their agreement would mean anything.

Three kinds of disagreement are excused, since rounding makes them and no bug does: that of an ill-conditioned
problem, on which no algorithm does better; that of a formula that is as unstable in torch; and that of a
gradient that is analytically zero, which is noise on both sides. A bug stays when JAX computes in float64,
where rounding shrinks to nothing, and does not change at random when the inputs move by a few eps.
"""

from dataclasses import replace
from functools import cached_property
from typing import Any

import jax
import numpy as np

from jaxloss.testing._problem import Evidence
from jaxloss.testing._result import Leaves, Result
from jaxloss.testing.inputs import cast, is_floating
from jaxloss.testing.measure import (
    EPS,
    GRADIENT_EPS_OF_MAX,
    MOST_EPS_ALLOWED,
    TIMES_CONDITION,
    TIMES_TORCH_ERROR,
    VALUE_EPS_OF_MAX,
    difference,
)
from jaxloss.testing.report import Comparison

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


def judge(
    evidence: Evidence, value_eps: float | None, gradient_eps: float | None, allow_nonfinite: bool
) -> list[Comparison]:
    """Compare each output and each gradient.

    Args:
        evidence: both results.
        value_eps: what is allowed for outputs, in eps of max; None for the usual.
        gradient_eps: what is allowed for gradients; None for the usual.
        allow_nonfinite: whether NaN and infinities may appear on both sides.

    Raises:
        ValueError: the results would agree about nothing.
    """
    value_eps = VALUE_EPS_OF_MAX[evidence.dtype] if value_eps is None else value_eps
    gradient_eps = GRADIENT_EPS_OF_MAX[evidence.dtype] if gradient_eps is None else gradient_eps
    if evidence.mismatch is not None:
        return [Comparison("value", evidence.dtype, np.inf, value_eps, mismatch=evidence.mismatch)]
    _check_meaning(evidence.ours, evidence.theirs, allow_nonfinite)
    found = [_compare(evidence, name, value_eps) for name in evidence.theirs.values]
    found += [_compare(evidence, name, gradient_eps) for name in evidence.theirs.gradients]
    excuses = _RoundingExcuses(evidence)
    return [c if c.passed or c.allowed == 0.0 else excuses.apply(c) for c in found]


def _check_meaning(ours: Result, theirs: Result, allow_nonfinite: bool) -> None:
    for name, b in theirs.arrays.items():
        a = ours.arrays[name]
        if allow_nonfinite or a.dtype.kind != "f" or b.dtype.kind != "f":
            continue
        both = ~np.isfinite(a) & ~np.isfinite(b)
        if both.any():
            at = tuple(int(i) for i in np.argwhere(both)[0])
            raise ValueError(
                f"{name} is {a[at]} in JAX and {b[at]} in torch at {at} ({int(both.sum())} of {both.size} "
                "entries are not finite in both): agreement there would mean nothing. allow_nonfinite=True "
                "compares where they are"
            )
    if all(array.size == 0 for array in theirs.arrays.values()):
        raise ValueError("every output and gradient is empty: there is nothing to compare")
    gradients = [*ours.gradients.values(), *theirs.gradients.values()]
    if gradients and not any(np.any(gradient != 0.0) for gradient in gradients):
        raise ValueError(
            "every gradient is exactly 0 in both frameworks, so none was compared: choose inputs at which "
            "the output changes, or compare values alone with wrt=()"
        )


def _compare(evidence: Evidence, name: str, allowed: float, scale: float | None = None) -> Comparison:
    """Compare JAX's array with torch's; in narrower dtypes, near the float64 truth will do as well.

    Args:
        evidence: with the arrays.
        name: of the array.
        allowed: error in eps of max; whole numbers and booleans must be equal.
        scale: replaces `max|expected|`, for a gradient that is zero but for rounding.
    """
    dtype, ours, theirs = evidence.dtype, evidence.ours.arrays[name], evidence.theirs.arrays[name]
    direct = difference(ours, theirs, dtype, scale=scale)
    if theirs.dtype.kind in "iub":
        return Comparison(name, dtype, direct.eps_of_max, 0.0, np.array_equal(ours, theirs), direct)
    jax_error = torch_error = None
    passed = direct.eps_of_max <= allowed
    if dtype != "float64":
        jax_error, torch_error = (
            difference(array, evidence.truth.arrays[name], dtype, scale=scale).eps_of_max
            for array in (ours, theirs)
        )
        passed = passed or jax_error <= allowed
    return Comparison(
        name, dtype, direct.eps_of_max, allowed, passed, direct, jax_error, torch_error, scale is not None
    )


class _RoundingExcuses:
    """What rounding alone can do to the problem; each run that tells is made when it is first needed."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence, self.problem, self.dtype = evidence, evidence.problem, evidence.dtype

    def apply(self, comparison: Comparison) -> Comparison:
        """Pass a failed comparison where rounding explains the whole of its error."""
        name = comparison.what
        truth = self.evidence.truth.arrays[name]
        condition = max(_change(near.arrays[name], truth, self.dtype) for near in self.torch_nearby) / _STEP
        comparison = replace(comparison, condition=condition)
        if self._is_noise(name, truth, condition):
            return _compare(self.evidence, name, comparison.allowed, self.gradient_scale)
        well_done = min(comparison.allowed + TIMES_CONDITION * condition, MOST_EPS_ALLOWED)
        as_torch = TIMES_TORCH_ERROR * (comparison.torch_error or 0.0)
        limit = max(well_done, as_torch if np.isfinite(as_torch) else 0.0)
        error = comparison.error if comparison.jax_error is None else comparison.jax_error
        if not (error <= limit and self._is_right_in_float64(comparison, truth, limit)):
            return comparison
        note = "ill-conditioned" if error <= well_done else "as unstable in torch"
        return replace(comparison, allowed=limit, passed=True, note=note)

    @cached_property
    def nearby(self) -> list[Any]:
        """Inputs and params in float64, every number a little larger or smaller."""
        return nearby((self.evidence.inputs, self.evidence.params), self.dtype)

    @cached_property
    def torch_nearby(self) -> list[Result]:
        """Torch's float64 results there."""
        return [self.problem.torch(inputs, params, "float64") for inputs, params in self.nearby]

    @cached_property
    def jax_nearby(self) -> list[Result]:
        """JAX's results there, in the dtype of the comparison."""
        return [self.problem.jax(inputs, params, self.dtype) for inputs, params in self.nearby]

    @cached_property
    def jax_in_float64(self) -> Result | None:
        """JAX's result for the same numbers in float64; None where the function cannot take them."""
        try:
            return self.problem.jax(self.evidence.inputs, self.evidence.params, "float64")
        # A function made for one dtype may refuse another in any way it likes.
        except Exception:
            return None

    @cached_property
    def gradient_scale(self) -> float:
        """How large gradients of the problem are: the largest, or value over input where all are noise."""
        truth, evidence = self.evidence.truth, self.evidence
        largest = max(map(_largest, truth.gradients.values()), default=0.0)
        arrays = [*Leaves.of(evidence.inputs).arrays().values(), *jax.tree.leaves(evidence.params)]
        size = max((_largest(array) for array in arrays if array.dtype.kind not in "iub"), default=0.0)
        cotangents = self.problem.cotangents
        value = max(_largest(x) * _largest(cotangents[name]) for name, x in truth.values.items())
        per_input = value / size if size else 0.0
        return largest if largest > _NOISE * EPS["float64"] * per_input else per_input

    def _is_noise(self, name: str, truth: np.ndarray, condition: float) -> bool:
        """Whether the gradient is zero but for rounding, on both sides."""
        is_tiny = _largest(truth) <= _NOISE * EPS["float64"] * self.gradient_scale
        if name in self.evidence.truth.values or not is_tiny or self.gradient_scale == 0.0:
            return False
        share = _NOISE_CHANGES_BY / EPS[self.dtype]
        if np.any(truth) and condition * _STEP <= share:
            return False
        ours = self.evidence.ours.arrays[name]
        changes = (_change(near.arrays[name], ours, self.dtype) for near in self.jax_nearby)
        return not np.any(ours) or any(change > share for change in changes)

    def _is_right_in_float64(self, comparison: Comparison, truth: np.ndarray, limit: float) -> bool:
        if self.dtype == "float64" or self.jax_in_float64 is None:
            return True
        wide = self.jax_in_float64.arrays[comparison.what]
        if np.any(wide) and _fits_float32(wide) and not _fits_float32(truth):
            # It computes in float32 whatever it is given, so that this tells nothing.
            return True
        error = difference(wide, truth, self.dtype).eps_of_max
        return error <= max(comparison.allowed, limit / _SHRINKS_BY)


def nearby(given: Any, dtype: str) -> list[Any]:
    """A tree in float64, every number a little larger or smaller, as rounding in the dtype makes it."""
    rng, share = np.random.default_rng(0), _STEP * EPS[dtype]
    given = cast(given, "float64")

    def move(x: Any) -> Any:
        return x * (1 + share * rng.choice([-1.0, 1.0], x.shape)) if is_floating(x) else x

    return [jax.tree.map(move, given) for _ in range(_NUM_MOVES)]


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
