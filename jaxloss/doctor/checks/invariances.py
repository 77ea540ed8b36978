"""What a loss does not notice: shifts, scales, the order of classes and examples."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxloss.doctor.report import Finding, Result
from jaxloss.doctor.subject import NothingFinite, Subject

_UNITS, _BATCH = 32, 8
SHIFT, SCALE = 3.75, 2.5  # exact in binary, so that moving a prediction rounds it only once

# In parts of the value. In float64, sums in another order differ by 1e-14; any real dependence is far larger.
EQUAL, ROUGH_EQUAL = 1e-9, 1e-3


def check(subject: Subject) -> Result:
    """Compare the loss before and after each change."""
    prediction, target = subject.draw_units(_UNITS)
    before, gradient = subject.evaluate(prediction, target)
    kept = np.isfinite(before)
    if not kept.any():
        raise NothingFinite
    prediction, target, before, gradient = jax.tree.map(
        lambda a: a[kept], (prediction, target, before, gradient)
    )
    moved = {
        "shift": subject.evaluate(_kept(subject, prediction + SHIFT), target)[0],
        "scale": subject.evaluate(_kept(subject, prediction * SCALE), target)[0],
    }
    findings: list[Finding] = []
    figures: dict[str, Any] = {name: _equal(subject, before, after) for name, after in moved.items()}
    shown_by = subject.show(prediction, target, 0)
    learns = bool(gradient.any())
    if learns and figures["scale"]:
        message = f"a free scale: predictions times {SCALE:g} give the same loss"
        advice = "nothing stops predictions from growing or shrinking: normalise them, or add a small penalty"
        findings.append(Finding("invariances", "warning", message, SCALE, shown_by, advice))
    if learns and figures["shift"] and subject.spec.kind in ("real", "yes_no"):
        message = f"a free offset: predictions plus {SHIFT:g} give the same loss"
        advice = "the loss does not say how large a prediction is: fit the offset afterwards"
        findings.append(Finding("invariances", "warning", message, SHIFT, shown_by, advice))
    if not figures["shift"] and subject.spec.kind in ("classes", "pairs"):
        change = float(np.nanmax(np.abs(moved["shift"] - before)))
        what = "logits" if subject.spec.kind == "classes" else "scores"
        message = f"{what} that are all {SHIFT:g} larger have another loss, by up to {change:.3g}"
        advice = (
            f"if {what} are meant, apply log_softmax first or take differences; if probabilities, ignore this"
        )
        findings.append(Finding("invariances", "note", message, change, shown_by, advice))
    if subject.spec.kind == "real":
        _of_real(subject, prediction, target, before, figures)
    if subject.spec.kind == "classes":
        findings += _of_classes(subject, prediction, target, before, figures)
    findings += _of_examples(subject, figures)
    return Result(findings, figures)


def _of_real(
    subject: Subject, prediction: np.ndarray, target: Any, before: np.ndarray, figures: dict[str, Any]
) -> None:
    both = subject.evaluate(prediction + SHIFT, target + SHIFT)[0]
    figures["shift of both"] = _equal(subject, before, both)
    mirrored = subject.evaluate(-prediction, -target)[0]
    figures["sign of both"] = _equal(subject, before, mirrored)
    scaled = subject.evaluate(SCALE * prediction, SCALE * target)[0]
    with np.errstate(all="ignore"):
        powers = np.log(scaled / before) / np.log(SCALE)
    figures["power of the scale of both"] = (
        round(float(powers[0]), 6) + 0.0 if np.ptp(powers) < 1e-6 else None
    )


def _of_classes(
    subject: Subject, prediction: np.ndarray, target: Any, before: np.ndarray, figures: dict[str, Any]
) -> list[Finding]:
    order = np.roll(np.arange(prediction.shape[-1]), 1)
    place = np.argsort(order)
    after = subject.evaluate(prediction[..., order], place[target].astype(target.dtype))[0]
    figures["order of classes"] = _equal(subject, before, after)
    if figures["order of classes"]:
        return []
    change = float(np.nanmax(np.abs(after - before)))
    message = f"classes are not treated alike: in another order, the loss differs by up to {change:.3g}"
    advice = "right for class weights and ordered classes; else look for an axis or a label used as a number"
    shown_by = subject.show(prediction, target, int(np.nanargmax(np.abs(after - before))))
    return [Finding("invariances", "warning", message, change, shown_by, advice)]


def _of_examples(subject: Subject, figures: dict[str, Any]) -> list[Finding]:
    prediction, target = subject.draw(2 * _BATCH, seed=9)
    order = np.random.default_rng(9).permutation(2 * _BATCH)
    as_batches = jax.tree.map(lambda a: np.stack([a, a[order]]), (prediction, target))
    before, after = subject.by_unit(subject.loss, as_batches[0], as_batches[1], "float64", name="batch")
    figures["order of examples"] = _equal(subject, before, after) if np.isfinite(before) else None
    if figures["order of examples"] is not False:
        return []
    message = f"the order of the examples changes the loss, by {abs(after - before):.3g}"
    advice = "right for sequences; else look for an axis, a roll or a cumulative sum over the batch"
    shown_by = f"{2 * _BATCH} examples and the same in another order"
    return [Finding("invariances", "warning", message, float(abs(after - before)), shown_by, advice)]


def _equal(subject: Subject, before: np.ndarray, after: np.ndarray) -> bool:
    allowed = ROUGH_EQUAL if subject.is_rough else EQUAL
    return bool(np.allclose(before, after, rtol=allowed, atol=allowed))


def _kept(subject: Subject, prediction: np.ndarray) -> np.ndarray:
    return np.clip(prediction, subject.spec.low, subject.spec.high)
