"""How large the gradient is: whether it vanishes where the loss is large, or explodes."""

from __future__ import annotations

import numpy as np

from jaxloss.doctor.report import Finding, Result
from jaxloss.doctor.subject import NothingFinite, Subject

# Predictions a training may come upon: near the start, typical, and confidently wrong.
SCALES = (0.02, 1.0, 10.0)

# A hundredth of the usual gradient needs a hundred times the steps.
VANISHING = 0.01

# Some examples may be lost; beyond this share, they are what training was for.
TOLERABLE = 0.05

# Over predictions 10 times as large, a square's gradient grows 10 times and a fourth power's 1,000 times; the
# rest of the factor is the spread of single inputs around the median.
EXPLODING = 1e4

_UNITS = 256


def check(subject: Subject) -> Result:
    """The share of inputs with a large loss and a vanishing gradient, and the range of gradients."""
    lots = [subject.scaled(_UNITS, scale) for scale in SCALES]
    found = [subject.evaluate(*lot) for lot in lots]
    sizes = [np.linalg.norm(gradient.reshape(_UNITS, -1), axis=1) for _, gradient in found]
    # Where the value is no number, which another check tells, there is no size.
    sizes = [np.where(np.isnan(value), np.nan, size) for (value, _), size in zip(found, sizes, strict=True)]
    every = np.concatenate(sizes)
    if np.isnan(every).all():
        raise NothingFinite
    learns = [size[size > 0] for size in (sizes[1], every)]
    usual = float(np.median(learns[0] if len(learns[0]) else learns[1])) if len(learns[1]) else 0.0
    if not usual:
        message = "the gradient is 0 at every input drawn: nothing is learnt"
        advice = "no round, floor, argmax, integer division or comparison between prediction and loss"
        shown_by = subject.show(*lots[1], 0)
        return Result(
            [Finding("gradient_size", "error", message, 0.0, shown_by, advice)], {"usual size": 0.0}
        )

    # Large: more than at the start, where nothing is known.
    start, (wide, target) = float(np.nanmedian(found[0][0])), lots[2]
    is_large = found[2][0] > start
    is_stuck = is_large & (sizes[2] < VANISHING * usual)
    share = float(is_stuck.sum() / max(is_large.sum(), 1))
    largest = [float(np.nanmax(size, initial=0.0) / usual) for size in sizes]
    ratio = max(largest)
    findings = []
    if share > TOLERABLE:
        message = (
            f"of inputs with a large loss, {share:.0%} have less than {VANISHING:.0%} of the usual gradient"
        )
        at = int(np.argmax(np.where(is_stuck, found[2][0], -np.inf)))
        advice = "a loss that levels off does not learn from its worst examples: take its logarithm"
        findings.append(
            Finding("gradient_size", "warning", message, share, subject.show(wide, target, at), advice)
        )
    if ratio > EXPLODING:
        lot = int(np.argmax(largest))
        at = int(np.nanargmax(sizes[lot]))
        message = (
            f"the gradient explodes: {ratio:.2g} times the usual one at predictions of size {SCALES[lot]:g}"
        )
        advice = "one such example undoes all steps: take a logarithm or a root, or clip the gradient"
        shown_by = subject.show(*lots[lot], at)
        findings.append(Finding("gradient_size", "warning", message, ratio, shown_by, advice))
    figures = {
        "usual size": usual,
        "share of zeros": float(np.mean(sizes[1] == 0)),
        "large loss without gradient": share,
        "explosion ratio": ratio,
    }
    return Result(findings, figures)
