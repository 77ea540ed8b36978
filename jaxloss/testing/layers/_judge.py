"""Decide which layers have an error of their own, and which model as a whole."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from jaxloss.interop import to_numpy
from jaxloss.testing.inputs import is_floating
from jaxloss.testing.layers._jax_model import JaxModel
from jaxloss.testing.layers._match import Layout, Match, layout_of
from jaxloss.testing.layers._runs import (
    Arrays,
    Event,
    Forced,
    forced_values,
    run_jax_forced,
    run_torch_forced,
)
from jaxloss.testing.layers._torch_model import TorchModel
from jaxloss.testing.layers._visits import ROOT, Shift, first_array, others
from jaxloss.testing.measure import (
    EPS,
    GRADIENT_EPS_OF_MAX,
    MOST_EPS_ALLOWED,
    TIMES_CONDITION,
    VALUE_EPS_OF_MAX,
    difference,
)
from jaxloss.testing.report import Comparison

# How many eps forced arrays are moved by, to see what rounding does; a single one can vanish on the way.
_STEP = 16.0
_NUM_MOVES = 2

# A gradient below this many eps of the largest is zero but for rounding.
_NOISE = 64.0


@dataclass(frozen=True)
class Trial:
    """Both models, the layers that they share, and what the runs need.

    Args:
        ours: JAX's model.
        theirs: torch's.
        inputs: of both, as numpy.
        matches: the layers found in both.
        gradients: whether these are compared too.
        seed: of cotangents and of moves.
    """

    ours: JaxModel
    theirs: TorchModel
    inputs: tuple[Any, ...]
    matches: list[Match]
    gradients: bool
    seed: int

    @cached_property
    def forced(self) -> Arrays:
        """What every layer is handed, on both sides."""
        return forced_values(self.matches)

    @cached_property
    def cotangents(self) -> Arrays:
        """Random, of every array that a layer makes."""
        rng = np.random.default_rng([self.seed, 1])
        return {
            e: rng.choice([-1.0, 1.0], x.shape) * rng.integers(8, 25, x.shape) / 16
            for e, x in self.forced.items()
        }

    @cached_property
    def jax_forced(self) -> Forced:
        """JAX's layers on their own."""
        cotangents = self.cotangents if self.gradients else None
        return run_jax_forced(self.ours, self.inputs, self.forced, cotangents)

    @cached_property
    def torch_forced(self) -> Forced:
        """Torch's."""
        cotangents = self.cotangents if self.gradients else None
        return run_torch_forced(self.theirs, self.inputs, self.matches, self.forced, cotangents)

    @cached_property
    def is_narrow(self) -> bool:
        """Whether a model computes something in less than float64, so that no more can be asked for."""
        if self.ours.dtype != "float64":
            return True
        return any(
            {"float32", "bfloat16", "float16"} & m.dtypes(self.inputs) for m in (self.theirs, self.ours)
        )

    @cached_property
    def moved(self) -> list[Forced]:
        """Torch's layers on their own, with all that they are handed moved by a few eps."""
        return [self._moved(EPS[self.unit(False)], move) for move in range(_NUM_MOVES)]

    @cached_property
    def moved_in_float32(self) -> list[Forced]:
        """The same by a few eps of float32."""
        return [self._moved(EPS["float32"], move) for move in range(_NUM_MOVES)]

    def unit(self, is_narrow: bool) -> str:
        """The dtype whose eps errors are counted in."""
        return "float32" if is_narrow else self.ours.dtype

    def _moved(self, eps: float, move: int) -> Forced:
        rng = np.random.default_rng([self.seed, 2, move])
        moved = {
            e: x * (1 + _STEP * eps * rng.choice([-1.0, 1.0], x.shape)).astype(x.dtype)
            if is_floating(x)
            else x
            for e, x in self.forced.items()
        }
        cotangents = self.cotangents if self.gradients else None
        return run_torch_forced(self.theirs, self.inputs, self.matches, moved, cotangents)


def judge_values(trial: Trial) -> dict[Event, Comparison]:
    """Every input and output that a layer makes by itself, in the order of JAX's run.

    Raises:
        ValueError: one is NaN or infinite in both models.
    """
    ours, theirs = trial.jax_forced.values, trial.forced
    for kind, key in trial.jax_forced.order:
        a, b = ours[kind, key], theirs[kind, key]
        if is_floating(b) and (both := ~np.isfinite(a) & ~np.isfinite(b)).any():
            what = f"what {key[0] or 'the model'} {'is handed' if kind == 'input' else 'returns'}"
            at = tuple(int(i) for i in np.argwhere(both)[0])
            raise ValueError(
                f"{what} is {a[at]} in JAX and {b[at]} in torch at {at} ({int(both.sum())} of {both.size} "
                "entries are not finite in both): agreement there would mean nothing"
            )
    return {
        e: _compare(trial, e, ours[e], theirs[e], "values", VALUE_EPS_OF_MAX) for e in trial.jax_forced.order
    }


def judge_gradients(trial: Trial) -> dict[Event, Comparison]:
    """Every gradient that a layer passes back by itself; the event is what it is the gradient of."""
    ours, theirs = trial.jax_forced.gradients, trial.torch_forced.gradients
    return {
        e: _compare(trial, e, ours[e], theirs[e], "gradients", GRADIENT_EPS_OF_MAX)
        for e in trial.jax_forced.order
        if e in ours and e in theirs and e != ("output", ROOT)
    }


def judge_whole(trial: Trial) -> Comparison:
    """The models' own outputs, beside what one eps on every layer's output makes of torch's."""
    root = next(match for match in trial.matches if match.ours.key == ROOT)
    if root.outputs is None:
        said = f"JAX's output is {list(root.ours.output.shape)}, torch's {list(root.theirs.output.shape)}"
        return Comparison("output", trial.ours.dtype, np.inf, 0.0, mismatch=said)
    first = partial(_output_at, place=None, layout=root.outputs)
    found = [_compare_whole(trial, "output", root.ours.output, root.torch_output, first)]
    for place, ours in root.ours.other_outputs.items():
        theirs = root.theirs.other_outputs.get(place)
        if theirs is None:
            continue
        what, layout = f"output {place}", layout_of(ours, theirs)
        if layout is None:
            said = f"{what} is {list(ours.shape)} in JAX and {list(theirs.shape)} in torch"
            return Comparison(what, trial.ours.dtype, np.inf, 0.0, mismatch=said)
        at = partial(_output_at, place=place, layout=layout)
        found.append(_compare_whole(trial, what, ours, layout.to_jax(theirs), at))
    return next((comparison for comparison in found if not comparison.passed), found[0])


def _output_at(outputs: Any, place: str | None, layout: Layout) -> np.ndarray:
    return layout.to_jax(to_numpy(first_array(outputs) if place is None else others(outputs)[place]))


def _compare_whole(
    trial: Trial, what: str, a: np.ndarray, b: np.ndarray, at: Callable[[Any], Any]
) -> Comparison:
    for is_narrow in (False, True):
        unit = trial.unit(is_narrow)
        found = difference(a, b, unit)
        allowed = VALUE_EPS_OF_MAX[unit]
        if found.eps_of_max > allowed and not (is_narrow and not trial.is_narrow):
            allowed = max(allowed, TIMES_CONDITION * _change_of_whole(trial, b, at, unit))
        passed = found.eps_of_max <= min(allowed, MOST_EPS_ALLOWED)
        if passed or is_narrow or not trial.is_narrow:
            break
    return Comparison(what, unit, found.eps_of_max, allowed, passed, found)


def _change_of_whole(trial: Trial, theirs: np.ndarray, at: Callable[[Any], Any], unit: str) -> float:
    rng = np.random.default_rng([trial.seed, 3])

    def move(x: Any) -> Any:
        signs = trial.theirs.tensors(rng.choice([-1.0, 1.0], tuple(x.shape)))
        return x * (1 + EPS[unit] * signs).to(x.dtype) if is_floating(x) else x

    visit = Shift({match.theirs.key: move for match in trial.matches if match.ours.key != ROOT})
    return difference(at(trial.theirs.run(visit, trial.inputs)), theirs, unit).eps_of_max


def _compare(
    trial: Trial, event: Event, ours: np.ndarray, theirs: np.ndarray, kind: str, limits: dict[str, float]
) -> Comparison:
    what = f"{event[0]}"
    if not is_floating(theirs):
        found = difference(ours, theirs, "float64")
        return Comparison(what, trial.ours.dtype, found.eps_of_max, 0.0, np.array_equal(ours, theirs), found)
    for is_narrow in (False, True):
        unit = trial.unit(is_narrow)
        scale = _scale(trial, event, theirs, unit) if kind == "gradients" else None
        found = difference(ours, theirs, unit, scale=scale)
        allowed = limits[unit]
        passed = found.eps_of_max <= allowed
        if not passed and found.eps_of_max <= MOST_EPS_ALLOWED:
            moved = trial.moved_in_float32 if is_narrow else trial.moved
            changes = [
                difference(getattr(m, kind)[event], theirs, unit, scale=scale).eps_of_max for m in moved
            ]
            allowed = min(max(allowed, TIMES_CONDITION * max(changes) / _STEP), MOST_EPS_ALLOWED)
            passed = found.eps_of_max <= allowed
        too_far = difference(ours, theirs, "float32", scale=scale).eps_of_max > MOST_EPS_ALLOWED
        if passed or is_narrow or too_far or not trial.is_narrow:
            break
    return Comparison(what, unit, found.eps_of_max, allowed, passed, found)


def _scale(trial: Trial, event: Event, theirs: np.ndarray, unit: str) -> float | None:
    """What a gradient that is zero but for rounding is measured by: the largest there is."""
    gradients = trial.torch_forced.gradients
    largest = max(float(np.max(np.abs(g), initial=0.0)) for g in gradients.values())
    own = float(np.max(np.abs(theirs), initial=0.0))
    return largest if own <= _NOISE * EPS[unit] * largest else None
