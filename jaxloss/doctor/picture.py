"""A loss along one line: value, gradient and curvature over the margin."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxloss.doctor.subject import OutOfTime, Subject, what_is_printed

_POINTS = 193


class Curve(NamedTuple):
    """Along the margin, each [M], as the dtype has it: derivatives are those of the margin."""

    margin: np.ndarray
    value: np.ndarray
    gradient: np.ndarray
    curvature: np.ndarray


def curves_of(subject: Subject, budget_seconds: float) -> dict[str, Curve]:
    """The curve in float64 and in each dtype of the subject, as far as they can be had within the budget."""
    subject.deadline = time.perf_counter() + budget_seconds
    spec = subject.spec
    margin = np.linspace(max(-12.0, spec.low), min(12.0, spec.high), _POINTS)
    prediction, target = subject.line(margin)
    # One step along the line, the same everywhere on it.
    step = (prediction[1] - prediction[0]) / (margin[1] - margin[0])

    def along(prediction: Any, target: Any) -> Any:
        direction = jnp.asarray(step, prediction.dtype)

        def slope(prediction: Any) -> Any:
            value, gradient = jax.value_and_grad(subject.loss)(prediction, target)
            return jnp.vdot(gradient, direction), value

        (gradient, value), curvature = jax.value_and_grad(slope, has_aux=True)(prediction)
        return value, gradient, jnp.vdot(curvature, direction)

    curves: dict[str, Curve] = {}
    with what_is_printed():
        for dtype in ("float64", *subject.dtypes):
            try:
                curves[dtype] = Curve(
                    margin, *subject.by_unit(along, prediction, target, dtype, name="curve")
                )
            except OutOfTime:
                break
            except Exception:
                continue
    return curves


def draw(path: Path, curves: Mapping[str, Curve], *, title: str, margin: str) -> None:
    """Draw the curves of all dtypes into three panels."""
    from jaxloss.runs.plots import COLOURS, new_figure

    figure, axes = new_figure(3, title=title)
    # The truth lies wide below the others, whose dashes let each other be seen.
    order = list(curves)
    for colour, dtype, dashes in zip(("#bbbbbb", *COLOURS), order, ("-", "-", "--", ":", "-."), strict=False):
        style: dict[str, Any] = {"color": colour, "label": dtype, "linestyle": dashes}
        style["linewidth"] = 5.0 if dtype == "float64" else 1.6
        for axis, name in zip(axes, ("value", "gradient", "curvature"), strict=True):
            values = getattr(curves[dtype], name)
            axis.plot(curves[dtype].margin, np.where(np.isfinite(values), values, np.nan), **style)
            axis.set_title(name, fontsize=10)
            axis.set_xlabel(margin)
    axes[0].legend(frameon=False)
    figure.savefig(path)
