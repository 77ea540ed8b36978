"""Whether the loss of a batch is made up of the losses of its parts, and masked rows count as deleted.

Shapes: N examples.
"""

from __future__ import annotations

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxloss.doctor.checks._whole_batch import cause
from jaxloss.doctor.report import Finding, Result, Severity
from jaxloss.doctor.subject import Subject, as_dtype, rounded

PARTS = (5, 4, 3)
NUM = sum(PARTS)
MANY = 1_000_000
EXACT = 1e-6  # relative: float64, and losses that compute in float32
DRIFT = 2.0**-6  # relative: two roundings of bfloat16


def check(subject: Subject) -> Result:
    """Parts against the whole, masks against deletion, and a million terms in bfloat16."""
    drawn, values = _finite(subject, NUM, seed=4)
    if not len(values):
        return Result(figures={"over the batch": "not measured: no input drawn has a finite loss"})
    findings, figures = _parts(subject, drawn)
    for more_findings, more_figures in (_masks(subject, drawn), _many(subject)):
        findings += more_findings
        figures |= more_figures
    return Result(findings, figures)


def _finite(subject: Subject, num: int, seed: int) -> tuple[tuple[np.ndarray, Any], np.ndarray]:
    """Examples drawn, those whose loss is not finite replaced by others, and the losses of each.

    None has a loss if none is finite, neither alone nor together.
    """
    drawn = subject.draw(num, seed)
    values = _in_float64(subject.each, *drawn)
    if np.isfinite(values).all():
        return drawn, values
    if np.isfinite(_in_float64(subject.loss, *drawn)):  # an example alone is no batch
        return drawn, values
    rows = np.flatnonzero(np.isfinite(values))
    rows = np.resize(rows, num) if len(rows) else rows
    return jax.tree.map(lambda a: a[rows], drawn), values[rows]


def _parts(subject: Subject, drawn: tuple[np.ndarray, Any]) -> tuple[list[Finding], dict[str, Any]]:
    """Micro-batches or devices of unequal sizes, and the same batch given twice."""

    def measure(p: Any, t: Any) -> dict[str, Any]:
        ends = np.cumsum(PARTS[:-1])
        leaves, tree = jax.tree.flatten((p, t))
        split = zip(*(jnp.split(a, ends) for a in leaves), strict=True)
        parts = [jax.tree.unflatten(tree, part) for part in split]
        measured = {
            "whole": subject.loss(p, t),
            "twice": subject.loss(*jax.tree.map(lambda a: jnp.concatenate([a, a]), (p, t))),
            "each": jnp.stack([subject.loss(*part) for part in parts]),
        }
        if "reduction" in subject.options:
            # Other losses have other reductions, and refuse this one in their own way.
            with contextlib.suppress(Exception):
                measured["pairs"] = [subject.loss(*part, reduction="parts") for part in parts]
        return measured

    measured = _in_float64(measure, *drawn)
    whole, each = measured["whole"], measured["each"]
    scale = max(abs(float(whole)), 1e-12)
    growth = float(measured["twice"] / whole) if whole else float("nan")
    together = {"mean": np.average(each, weights=PARTS), "sum": each.sum()}
    if isinstance(measured.get("pairs", [None])[0], (tuple, list)):
        total, denominator = np.sum(measured["pairs"], 0)
        together["mean by its parts"] = total / denominator
    gaps = {name: abs(float(value - whole)) / scale for name, value in together.items()}
    nearest = min(gaps, key=lambda name: gaps[name])
    shown_by = f"{NUM} examples in parts of {', '.join(map(str, PARTS))}"
    if not gaps[nearest] < _tolerance(subject):
        severity: Severity = "warning"
        what = f"parts of it add up to something else, off by {gaps[nearest]:.2g}"
        advice = "do not accumulate it over micro-batches or devices, or divide one sum by one count"
        if abs(growth - 0.5) < 1e-3:
            advice = "divide once: twice the batch halves it"
        severity, what, advice = cause(subject, drawn, _tolerance(subject)) or (severity, what, advice)
        message = f"it needs the whole batch: {what}"
        finding = Finding("reductions", severity, message, gaps[nearest], shown_by, advice)
        return [finding], {"over the batch": "needs all of it", "twice the batch": growth}
    figures = {"over the batch": nearest, "parts against the whole": gaps[nearest]}
    if nearest != "sum":
        return [], figures
    message = "it is a sum over the examples"
    advice = "divide by the number of examples, or change the learning rate with the batch size"
    # Who can choose between a sum and a mean means the one that is given.
    severity = "note" if "reduction" in subject.options else "warning"
    shown_by = f"{NUM} examples, and the same twice"
    return [Finding("reductions", severity, message, growth, shown_by, advice)], figures


def _masks(subject: Subject, drawn: tuple[np.ndarray, Any]) -> tuple[list[Finding], dict[str, Any]]:
    """`where=` against deletion, with finite padding and with NaN; and a part without any row."""
    if "where" not in subject.options:
        message = "it has no where=: padding has to be left out before it is called"
        if "mask" in subject.options:  # of some True keeps, of others it leaves out
            message = "its mask= is not examined: only where= is, a boolean array that is True where kept"
        advice = "take a boolean mask, select with it before the loss, and divide by the number kept"
        return [Finding("reductions", "note", message, None, "", advice)], {"where": "not an argument"}
    prediction, target = drawn
    kept = np.arange(NUM) % 3 != 1
    shape = _mask_shape(subject, prediction, target)
    if shape is None:
        return [], {"where": "of another shape than rows or entries"}
    mask = np.broadcast_to(kept.reshape(-1, *[1] * (len(shape) - 1)), shape)
    has_sum = subject.reduction == "sum" or "reduction" in subject.options
    as_sum = {"reduction": "sum"} if "reduction" in subject.options else {}
    padded = {
        name: jax.tree.map(lambda a, fill=fill: _pad(a, kept, fill), (prediction, target))
        for name, fill in {"finite": 7.0, "NaN": np.nan}.items()
    }

    def measure(deleted: Any, padded: Any) -> dict[str, Any]:
        f, nothing = jax.value_and_grad(subject.loss), jnp.zeros(shape, bool)
        measured = {name: f(*rows, where=jnp.asarray(mask)) for name, rows in padded.items()}
        measured |= {"deleted": f(*deleted), "empty": f(*padded["NaN"], where=nothing)}
        if has_sum:
            with contextlib.suppress(TypeError, ValueError):
                measured["empty sum"] = f(*padded["NaN"], where=nothing, **as_sum)
        return measured

    deleted = jax.tree.map(lambda a: a[kept], (prediction, target))
    measured = _in_float64(measure, deleted, padded)
    gaps = {}
    for name in padded:
        (value, gradient), (true_value, true_gradient) = measured[name], measured["deleted"]
        rest = _gap(gradient[~kept], np.zeros(1), true_gradient)
        gaps[name] = float(np.max([_gap(value, true_value), _gap(gradient[kept], true_gradient), rest]))
    figures = {"masked against deleted": gaps["finite"], "with NaN there": gaps["NaN"]}
    figures["mean of nothing"] = float(measured["empty"][0])
    return _judge_masks(subject, measured, gaps, f"{NUM} rows, {(~kept).sum()} of them masked"), figures


def _judge_masks(
    subject: Subject, measured: dict[str, Any], gaps: dict[str, float], shown_by: str
) -> list[Finding]:
    findings = []
    if not gaps["finite"] < _tolerance(subject):
        message = f"masked rows still count: value or gradient is off by {gaps['finite']:.2g}"
        advice = "select the losses with jnp.where(mask, loss, 0), and divide by the number kept"
        findings.append(Finding("reductions", "error", message, gaps["finite"], shown_by, advice))
    if not np.isfinite(gaps["NaN"]):
        where = "gradient" if np.isfinite(measured["NaN"][0]) else "value"
        message = f"NaN in a masked row reaches the {where}"
        advice = "select with jnp.where before the loss as well as after it: 0 * NaN is NaN"
        findings.append(Finding("reductions", "error", message, None, f"{shown_by}, holding NaN", advice))
    elif "empty sum" in measured and any(np.any(part != 0) for part in measured["empty sum"]):
        total = float(measured["empty sum"][0])
        message = f"a part without any row adds {total:g} to the sum, or something to its gradient"
        advice = "let the sum over nothing be 0, with a gradient of 0: divide where a count is not 0"
        findings.append(Finding("reductions", "error", message, total, f"{NUM} rows, all masked", advice))
    return findings


def _mask_shape(subject: Subject, prediction: np.ndarray, target: Any) -> tuple[int, ...] | None:
    """That of the rows, or else of the prediction's entries; None if the loss takes neither."""
    for shape in ((NUM,), prediction.shape):
        with contextlib.suppress(TypeError, ValueError), jax.enable_x64(True):
            mask = jax.ShapeDtypeStruct(shape, bool)
            arrays = as_dtype((prediction, target), "float64")
            jax.eval_shape(lambda p, t, mask: subject.loss(p, t, where=mask), *arrays, mask)
            return shape
    return None


def _many(subject: Subject) -> tuple[list[Finding], dict[str, Any]]:
    """A million terms, added in bfloat16's program or in 16 bits of the loss's own, and in float64."""
    if subject.reduction is None or not ("bfloat16" in subject.dtypes or subject.is_coarse):
        return [], {}
    dtype = "float32" if subject.is_coarse else "bfloat16"
    given = rounded(subject.draw(MANY, seed=6), dtype)
    # In parts: what adds in 16 bits does so in float64's program as well.
    values = _in_float64(subject.each, *given)
    is_finite = np.isfinite(values)
    if not is_finite.any():
        return [], {}
    rows = np.resize(np.flatnonzero(is_finite), MANY)
    given, values = jax.tree.map(lambda a: a[rows], given), values[rows].astype(np.float64)
    exact = float(values.mean() if subject.reduction == "mean" else values.sum())
    with jax.enable_x64(False):
        narrow = float(jax.jit(subject.loss)(*as_dtype(given, dtype)))
    drift = abs(narrow - exact) / max(abs(exact), 1e-30)
    precision = subject.precision if subject.is_coarse else dtype
    figures = {f"a million terms in {precision}, relative error": drift}
    if drift < DRIFT:
        return [], figures
    what = f"off by {drift:.2g} of its value" if np.isfinite(narrow) else f"{narrow:g}"
    message = f"over a million terms in {precision} it is {what}"
    advice = "add and divide in float32: jnp.sum(loss.astype(jnp.float32))"
    shown_by = f"{MANY:,} typical examples: {narrow:.4g} in place of {exact:.4g}"
    return [Finding("reductions", "error", message, drift, shown_by, advice)], figures


def _in_float64(function: Any, *arrays: Any) -> Any:
    """The function, compiled, of arrays in float64; results as numpy's."""
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, jax.jit(function)(*as_dtype(arrays, "float64")))


def _tolerance(subject: Subject) -> float:
    """For losses that compute in 16 bits whatever they get, what bfloat16 resolves."""
    return DRIFT if subject.is_coarse else EXACT


def _pad(array: np.ndarray, kept: np.ndarray, fill: float) -> np.ndarray:
    """Floating point rows that are not kept hold `fill`; integers stay what they are."""
    if array.dtype.kind != "f":
        return array
    return np.where(kept.reshape(-1, *[1] * (array.ndim - 1)), array, fill)


def _gap(array: np.ndarray, expected: np.ndarray, scale: np.ndarray | None = None) -> float:
    """The largest difference, relative to the largest entry of `scale` or `expected`; NaN if there is one."""
    scale = expected if scale is None else scale
    return float(np.abs(array - expected).max() / max(np.abs(scale).max(), 1e-12))
