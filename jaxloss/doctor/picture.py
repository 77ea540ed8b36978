"""A loss along one line: value, gradient and curvature over the margin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Curve(NamedTuple):
    """Along the margin, each [M]: of float64 with its curvature, of a narrower dtype as that dtype has it."""

    margin: np.ndarray
    value: np.ndarray
    gradient: np.ndarray
    curvature: np.ndarray


def draw(path: Path, curves: Mapping[str, Curve], *, title: str, margin: str) -> None:
    """Draw the curves of all dtypes into three panels."""
    from jaxloss.runs.plots import COLOURS, new_figure

    figure, axes = new_figure(3, title=title)
    for colour, (dtype, curve) in zip(("#000000", *COLOURS), curves.items(), strict=False):
        style = {"color": colour, "label": dtype, "linewidth": 2.2 if dtype == "float64" else 1.1}
        for axis, name in zip(axes, ("value", "gradient", "curvature"), strict=True):
            values = np.asarray(getattr(curve, name), np.float64)
            axis.plot(curve.margin, np.where(np.isfinite(values), values, np.nan), **style)
            axis.set_title(name, fontsize=10)
            axis.set_xlabel(margin)
    axes[0].legend(frameon=False)
    figure.savefig(path)
