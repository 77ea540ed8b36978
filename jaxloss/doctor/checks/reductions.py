"""Whether the loss of a batch is made up of the losses of its parts, and masked rows count as deleted.

Shapes: N examples.
"""

from __future__ import annotations

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxloss.doctor.report import Finding, Result, Severity
from jaxloss.doctor.subject import Subject, as_dtype, rounded

PARTS = (5, 4, 3)
NUM = sum(PARTS)
MANY = 1_000_000
EXACT = 1e-6  # relative: float64, and losses that compute in float32
DRIFT = 2.0**-6  # relative: two roundings of bfloat16


def check(subject: Subject) -> Result:
    """Parts against the whole, masks against deletion, and a million terms in bfloat16."""
    findings, figures = _parts(subject)
    for more_findings, more_figures in (_masks(subject), _many(subject)):
        findings += more_findings
        figures |= more_figures
    return Result(findings, figures)


def _parts(subject: Subject) -> tuple[list[Finding], dict[str, Any]]:
    """Micro-batches or devices of unequal sizes, and the same batch given twice."""
    prediction, target = subject.draw(NUM, seed=4)

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
            # Other losses have other reductions.
            with contextlib.suppress(TypeError, ValueError, NotImplementedError):
                measured["pairs"] = [subject.loss(*part, reduction="parts") for part in parts]
        return measured

    measured = _in_float64(measure, prediction, target)
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
        message = (
            f"it needs the whole batch: parts of it add up to something else, off by {gaps[nearest]:.2g}"
        )
        advice = "do not accumulate it over micro-batches or devices, or divide one sum by one count"
        if abs(growth - 0.5) < 1e-3:
            advice = "divide once: twice the batch halves it"
        finding = Finding("reductions", "warning", message, gaps[nearest], shown_by, advice)
        return [finding], {"over the batch": "needs all of it", "twice the batch": growth}
    figures = {"over the batch": nearest, "parts against the whole": gaps[nearest]}
    if nearest != "sum":
        return [], figures
    is_named_mean = "mean" in subject.name
    message = f"it is a sum over the examples{', though named a mean' if is_named_mean else ''}"
    advice = "divide by the number of examples, or change the learning rate with the batch size"
    severity: Severity = "warning" if is_named_mean else "note"
    return [
        Finding("reductions", severity, message, growth, f"{NUM} examples, and the same twice", advice)
    ], figures


def _masks(subject: Subject) -> tuple[list[Finding], dict[str, Any]]:
    """`where=` against deletion, with finite padding and with NaN; and a part without any row."""
    if "where" not in subject.options:
        message = "it has no where=: padding has to be left out before it is called"
        advice = "take a boolean mask, select with it before the loss, and divide by the number kept"
        return [Finding("reductions", "note", message, None, "", advice)], {"where": "not an argument"}
    prediction, target = subject.draw(NUM, seed=4)
    kept = np.arange(NUM) % 3 != 1
    padded = {"finite": 7.0, "NaN": np.nan}
    rows = {
        name: jax.tree.map(lambda a, fill=fill: _pad(a, kept, fill), (prediction, target))
        for name, fill in padded.items()
    }

    def measure(kept_rows: Any, padded_rows: Any) -> dict[str, Any]:
        f = jax.value_and_grad(subject.loss)
        nothing = jnp.zeros(NUM, bool)
        return {
            "deleted": f(*kept_rows),
            "padded": {name: f(*each, where=jnp.asarray(kept)) for name, each in padded_rows.items()},
            "empty": f(*padded_rows["finite"], where=nothing),
        }

    deleted_rows = jax.tree.map(lambda a: a[kept], (prediction, target))
    measured = _in_float64(measure, deleted_rows, rows)
    value, gradient = measured["deleted"]
    findings = []
    gaps = {}
    for name, (own_value, own_gradient) in measured["padded"].items():
        gaps[name] = float(max(_gap(own_value, value), _gap(own_gradient[kept], gradient)))
        rest = np.abs(own_gradient[~kept]).max()
        gaps[name] = max(gaps[name], float(rest)) if np.isfinite(rest) else np.nan
    shown_by = f"{NUM} rows, {(~kept).sum()} of them masked"
    tolerance = _tolerance(subject)
    if not gaps["finite"] < tolerance:
        message = f"masked rows still count: value or gradient is off by {gaps['finite']:.2g}"
        advice = "select the losses with jnp.where(mask, loss, 0), and divide by the number kept"
        findings.append(Finding("reductions", "error", message, gaps["finite"], shown_by, advice))
    if not gaps["NaN"] < tolerance and not np.isfinite(gaps["NaN"]):
        where = "value" if not np.isfinite(measured["padded"]["NaN"][0]) else "gradient"
        message = f"NaN in a masked row reaches the {where}"
        advice = "select with jnp.where before the loss as well as after it: 0 * NaN is NaN"
        findings.append(Finding("reductions", "error", message, None, f"{shown_by}, holding NaN", advice))
    empty = float(measured["empty"][0])
    figures = {"masked against deleted": gaps["finite"], "with NaN there": gaps["NaN"], "nothing kept": empty}
    return findings, figures


def _many(subject: Subject) -> tuple[list[Finding], dict[str, Any]]:
    """A million terms, added in bfloat16's programs and in float64."""
    if "bfloat16" not in subject.dtypes or subject.reduction is None:
        return [], {}
    given = rounded(subject.draw(MANY, seed=6), "bfloat16")
    exact = float(_in_float64(subject.loss, *given))
    with jax.enable_x64(False):
        narrow = float(jax.jit(subject.loss)(*as_dtype(given, "bfloat16")))
    drift = abs(narrow - exact) / max(abs(exact), 1e-30)
    figures = {"a million terms in bfloat16, relative error": drift}
    if drift < DRIFT:
        return [], figures
    message = f"over a million terms in bfloat16 it is off by {drift:.2g} of its value"
    advice = "add and divide in float32: jnp.sum(loss.astype(jnp.float32))"
    shown_by = f"{MANY:,} typical examples: {narrow:.4g} in place of {exact:.4g}"
    return [Finding("reductions", "error", message, drift, shown_by, advice)], figures


def _in_float64(function: Any, *arrays: Any) -> Any:
    """The function, compiled, of arrays in float64; results as numpy's."""
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, jax.jit(function)(*as_dtype(arrays, "float64")))


def _tolerance(subject: Subject) -> float:
    """For losses that compute in bfloat16 whatever they get, what that resolves."""
    prediction, target = subject.draw(2)
    with jax.enable_x64(True):
        dtype = jax.eval_shape(subject.loss, *as_dtype((prediction, target), "float64")).dtype
    return EXACT if dtype.itemsize > 2 else DRIFT


def _pad(array: np.ndarray, kept: np.ndarray, fill: float) -> np.ndarray:
    """Floating point rows that are not kept hold `fill`; integers stay what they are."""
    if array.dtype.kind != "f":
        return array
    return np.where(kept.reshape(-1, *[1] * (array.ndim - 1)), array, fill)


def _gap(array: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest expected entry; NaN if there is one."""
    return float(np.abs(array - expected).max() / max(np.abs(expected).max(), 1e-12))
