"""Numbers: value and gradient in each dtype against float64, from 0 to the dtype's largest number."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxloss.doctor.report import Finding, Result, Severity
from jaxloss.doctor.subject import Subject, rounded, together

# A correct sum of a few terms errs by a few roundings; in 16 bits, 16 of them would be 12 % of the value.
ULP = {"float32": 16.0, "bfloat16": 4.0, "float16": 4.0}

# Logits, scores and standardised targets stay below this in training that goes well.
MODERATE = 100.0

# Unnormalised targets and untamed activations get here; beyond, training has failed already.
LARGE = 1e4

# Predictions nearer to each other than this have no meaning left in float32.
SMALL = 1e-6

# A gradient wrong by this part of a typical one is another direction of descent.
GROSS = 0.1

# Below this part of a typical gradient, an example is lost among the roundings of a batch in float32.
LOST = 2.0**-23

_SIZES = (0.0, 1e-6, 1e-3, 0.1, 1.0, 3.0, 10.0, 20.0, 50.0, 100.0, 1e3, 1e4, 1e6, 1e10, 1e20)


ADVICE = {
    "not finite": "compute in logarithms (log_softmax, logsumexp, softplus), in float32 whatever the input",
    "exactly 0": "examples stop learning there: avoid 1 - p and log(p) of a rounded p, and overflow",
    "wrong": "avoid differences of nearly equal numbers, and compute in float32 whatever the input",
}


class _Fault(NamedTuple):
    name: str
    what: str
    dtype: str
    severity: Severity
    size: float
    truth: float
    shown_by: str


class _Grid(NamedTuple):
    """Units with the size of each, what they give in a dtype, and the truth; what float64 lacks is NaN."""

    size: np.ndarray
    prediction: np.ndarray
    target: Any
    value: np.ndarray
    gradient: np.ndarray
    true_value: np.ndarray
    true_gradient: np.ndarray


def check(subject: Subject) -> Result:
    """Where value and gradient stop being those of float64."""
    values, gradients = subject.evaluate(*subject.draw_units(64))
    usual = {"value": _typical(np.abs(values)), "gradient": _typical(_largest(gradients))}
    figures: dict[str, Any] = {}
    in_float64: list[Finding] = []
    faults: dict[str, list[_Fault]] = {}
    for dtype in subject.dtypes:
        grid = _evaluate(subject, dtype)
        in_float64 = in_float64 or _in_float64(subject, grid)
        accurate = np.ones(len(grid.size), bool)
        for what in ("value", "gradient"):
            found, is_accurate, zero_from = _compare(subject, grid, dtype, what, usual[what])
            accurate &= is_accurate
            for fault in found:
                faults.setdefault(fault.name, []).append(fault)
            if zero_from is not None:
                figures[f"{dtype} {what} 0 from"] = zero_from
        figures[f"{dtype} accurate"] = _interval(grid.size, accurate)
    findings = [*_precision(subject), *in_float64, *(_tell(of_a_kind) for of_a_kind in faults.values())]
    return Result(findings, figures)


def _precision(subject: Subject) -> list[Finding]:
    if not subject.is_rough:
        return []
    message = f"it computes in {subject.precision} even where it is given float64"
    advice = "let the predictions decide the dtype, and sum in float32 at least"
    severity: Severity = "warning" if subject.is_coarse else "note"
    return [Finding("finite", severity, message, None, "", advice)]


def _evaluate(subject: Subject, dtype: str) -> _Grid:
    info = jnp.finfo(dtype)
    ends = [
        float(info.smallest_subnormal),
        float(info.tiny),
        float(np.sqrt(float(info.max))),
        float(info.max),
    ]
    sizes = sorted({*ends, *(size for size in _SIZES if size <= float(info.max))})
    lots = [subject.corners(size) for size in sizes]
    of_unit = np.repeat(sizes, [len(prediction) for prediction, _ in lots])
    prediction, target = rounded(together(lots), dtype)
    # 2 times the largest number is infinite, and no input.
    kept = np.isfinite(prediction.reshape(len(prediction), -1)).all(1)
    prediction, target = _at(kept, (prediction, target))
    value, gradient = subject.evaluate(prediction, target, dtype)
    truth = subject.evaluate(prediction, target)
    return _Grid(of_unit[kept], prediction, target, value, _flat(gradient), truth[0], _flat(truth[1]))


def _in_float64(subject: Subject, grid: _Grid) -> list[Finding]:
    """NaN at a number is a fault in any dtype; infinity at a moderate one is, too."""
    moderate = grid.size <= MODERATE
    broken = np.isnan(grid.true_value) | np.isnan(grid.true_gradient).any(1)
    endless = np.isinf(grid.true_value) | np.isinf(grid.true_gradient).any(1)
    for bad, what in ((broken, "NaN"), (endless & moderate, "infinite")):
        if bad.any():
            first = _first(bad, grid.size)
            of = "value" if not np.isfinite(grid.true_value[first]) else "gradient"
            message = f"the {of} is {what} even in float64, first at size {grid.size[first]:.3g}"
            severity: Severity = "error" if moderate[first] else "warning"
            advice = "compute in logarithms (log_softmax, log1p), and mask before a division, log or root"
            shown_by = subject.show(grid.prediction, grid.target, first)
            return [Finding("finite", severity, message, float(grid.size[first]), shown_by, advice)]
    return []


def _compare(
    subject: Subject, grid: _Grid, dtype: str, what: str, usual: float
) -> tuple[list[_Fault], np.ndarray, float | None]:
    """The faults, which units are accurate, and the first size at which all is 0 and should not be."""
    largest, eps, tiny = (float(getattr(jnp.finfo(dtype), name)) for name in ("max", "eps", "tiny"))
    got, truth = (_flat(getattr(grid, name)) for name in (what, f"true_{what}"))
    true_size = _largest(truth)
    comparable = np.isfinite(truth).all(1) & (true_size <= largest)
    lost = comparable & ~np.isfinite(got).all(1)
    error = np.where(comparable & ~lost, _largest(got - truth), 0.0)
    # Processors may take subnormal numbers for 0: an absolute error of `tiny` is theirs.
    accurate = ~lost & (error <= ULP[dtype] * eps * true_size + tiny)
    zero = comparable & ~got.any(1) & (true_size > tiny)
    gone = zero & (true_size > LOST * usual) & (what == "gradient")
    wrong = ~zero & (error > max(GROSS, ULP[dtype] * eps) * np.maximum(true_size, usual) + tiny)
    found = []
    for bad, name in ((lost, "not finite"), (gone, "exactly 0"), (wrong, "wrong")):
        # Beyond, the accurate interval says enough.
        bad = bad & (grid.size <= LARGE) & ((grid.size >= SMALL) | (grid.size == 0))
        if not bad.any():
            continue
        at = _first(bad, grid.size)
        size, part = float(grid.size[at]), float(true_size[at] / max(usual, tiny))
        is_gross = name == "not finite" or (part > GROSS and (name == "exactly 0" or dtype == "float32"))
        severity: Severity = "error" if is_gross and size <= MODERATE else "warning"
        shown_by = subject.show(grid.prediction, grid.target, at)
        found.append(_Fault(name, what, dtype, severity, size, float(true_size[at]), shown_by))
    return found, accurate, float(grid.size[_first(zero, grid.size)]) if zero.any() else None


def _tell(faults: list[_Fault]) -> Finding:
    """One finding about a fault in all dtypes."""
    worst = min(faults, key=lambda fault: ("error", "warning").index(fault.severity))
    others = {fault.dtype: fault.size for fault in reversed(faults) if fault.dtype != worst.dtype}
    also = "".join(f"; in {dtype} from {size:.3g}" for dtype, size in others.items())
    message = (
        f"in {worst.dtype}, the {worst.what} is {worst.name} from size {worst.size:.3g}, where float64 has "
        f"{worst.truth:.3g}{also}"
    )
    return Finding("finite", worst.severity, message, worst.size, worst.shown_by, ADVICE[worst.name])


def _interval(size: np.ndarray, accurate: np.ndarray) -> str:
    """The sizes around 1 at which every unit is accurate."""
    sizes = np.unique(size)
    good = np.array([accurate[size == each].all() for each in sizes])
    at = int(np.searchsorted(sizes, 1.0))
    if not good[at]:
        return "not even at 1"
    below, above = at, at
    while below > 0 and good[below - 1]:
        below -= 1
    while above < len(sizes) - 1 and good[above + 1]:
        above += 1
    return f"{sizes[below]:.2g} to {sizes[above]:.2g}"


def _first(bad: np.ndarray, size: np.ndarray) -> int:
    """The bad unit nearest to size 1 from above, or, without one, from below."""
    distance = np.where(size >= 1, size, 1 / np.maximum(size, 1e-300) * 1e40)
    return int(np.argmin(np.where(bad, distance, np.inf)))


def _typical(sizes: np.ndarray) -> float:
    finite = sizes[np.isfinite(sizes)]
    return float(np.median(finite)) if finite.size else 0.0


def _flat(gradient: np.ndarray) -> np.ndarray:
    return gradient.reshape(len(gradient), -1)


def _largest(rows: np.ndarray) -> np.ndarray:
    return np.abs(_flat(rows)).max(1, initial=0.0)


def _at(kept: np.ndarray, arrays: Any) -> Any:
    return jax.tree.map(lambda a: a[kept], arrays)
