"""Plots of a run, as PNG files."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
"""Okabe and Ito's palette, which colour-blind readers can tell apart."""


def new_figure(num_panels: int, *, title: str) -> tuple[Any, list[Any]]:
    """A figure with panels side by side, in the house style, drawn without a display.

    Args:
        num_panels: number of panels.
        title: of the whole figure.

    Returns:
        Matplotlib's figure and its axes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not pyplot: it would keep global state and look for a display.
    figure = Figure(figsize=(5.2 * num_panels + 0.6, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    # A file's name may hold what is no text, and dollars that are no formula.
    title = title.encode("utf-8", "replace").decode()
    title = textwrap.fill(title, 48 * num_panels)
    figure.suptitle(title, fontsize=12, fontweight="bold", parse_math=False)
    axes = list(figure.subplots(1, num_panels, squeeze=False)[0])
    for axis in axes:
        axis.grid(True, color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    return figure, axes


def plot_losses(
    path: Path,
    records: Sequence[Mapping[str, Any]],
    *,
    title: str,
    labels: Mapping[str, str],
    test_loss: str,
    window: int = 40,
) -> None:
    """Plot train and test loss over the steps, each objective in its colour.

    The train loss is drawn raw and light for the first seed, and smoothed as the mean over the seeds. The
    test loss, the same one for every objective, is the mean over the seeds in a band of their standard
    deviation; of a single seed, in a band of two standard errors.

    Args:
        path: the PNG to write.
        records: lines of `metrics.jsonl`.
        title: of the figure.
        labels: objective -> its name in the legend.
        test_loss: name of the test loss.
        window: steps that the smoothed curve averages over, at most a tenth of the run.
    """
    figure, (train_axis, test_axis) = new_figure(2, title=title)
    seeds = sorted({record["seed"] for record in records})
    for colour, (objective, label) in zip(COLOURS, labels.items(), strict=False):
        own = [record for record in records if record["objective"] == objective]
        steps, losses = _by_seed([r for r in own if r["kind"] == "train"], seeds, lambda r: r["loss"])
        if len(steps):
            train_axis.plot(steps, losses[0], color=colour, alpha=0.25, linewidth=0.6)
            # In a short run, an average over many steps would hide the curve.
            window = min(window, max(1, len(steps) // 10))
            train_axis.plot(steps, smooth(losses.mean(0), window), color=colour, linewidth=1.8, label=label)
        tests = [r for r in own if r["kind"] == "test"]
        steps, means = _by_seed(tests, seeds, lambda r: r["losses"][test_loss]["mean"])
        _, errors = _by_seed(tests, seeds, lambda r: r["losses"][test_loss]["standard_error"])
        width = means.std(0, ddof=1) if len(seeds) > 1 else 2 * errors[0]
        band = means.mean(0) - width, means.mean(0) + width
        test_axis.fill_between(steps, *band, color=colour, alpha=0.2, linewidth=0)
        style = {"color": colour, "linewidth": 1.8, "marker": "o", "markersize": 3.5, "label": label}
        test_axis.plot(steps, means.mean(0), **style)
    spread = f"standard deviation of {len(seeds)} seeds" if len(seeds) > 1 else "2 standard errors"
    train_axis.set_title(f"train loss: each batch, and its mean over {window} steps", fontsize=10)
    test_axis.set_title(f"test loss, {labels.get(test_loss, test_loss)} ± {spread}", fontsize=10)
    for axis in (train_axis, test_axis):
        axis.set_xlabel("step")
        axis.set_ylabel("loss (nats per predicted token)")
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False)
    test_axis.sharey(train_axis)
    figure.savefig(path)


def _by_seed(
    records: Sequence[Mapping[str, Any]], seeds: Sequence[int], value: Callable[[Mapping[str, Any]], float]
) -> tuple[np.ndarray, np.ndarray]:
    """The steps that every seed got to, and the values there, [seeds, steps]."""
    found = [{r["step"]: value(r) for r in records if r["seed"] == seed} for seed in seeds]
    steps = sorted(set.intersection(*map(set, found))) if found else []
    return np.array(steps), np.array([[of_seed[step] for step in steps] for of_seed in found])


def smooth(values: Sequence[float], window: int) -> np.ndarray:
    """Centred moving average; near the ends, over the values that there are."""
    kernel = np.ones(min(window, len(values)))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")
