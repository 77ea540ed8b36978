"""Plots of a run, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    test_losses: Mapping[str, str],
    labels: Mapping[str, str],
    common_loss: str | None = None,
    window: int = 40,
) -> None:
    """Plot train and test loss over the steps, each objective in its colour.

    The train loss is drawn raw and light, and smoothed; the test loss with a band of two standard errors.

    Args:
        path: the PNG to write.
        records: lines of `metrics.jsonl`.
        title: of the figure.
        test_losses: objective -> name of the test loss drawn for it.
        labels: objective -> its name in the legend.
        common_loss: objective whose test loss is drawn for the others as well, dashed.
        window: steps that the smoothed curve averages over, at most a tenth of the run.
    """
    figure, (train_axis, test_axis) = new_figure(2, title=title)
    for colour, (objective, label) in zip(COLOURS, labels.items(), strict=False):
        own = [record for record in records if record["objective"] == objective]
        train = [(r["step"], r["loss"]) for r in own if r["kind"] == "train"]
        if train:
            steps, losses = zip(*train, strict=True)
            train_axis.plot(steps, losses, color=colour, alpha=0.25, linewidth=0.6)
            # In a short run, an average over many steps would hide the curve.
            window = min(window, max(1, len(losses) // 10))
            train_axis.plot(steps, smooth(losses, window), color=colour, linewidth=1.8, label=label)
        own_loss = test_losses[objective]
        _draw_test_loss(test_axis, own, own_loss, color=colour, marker="o", markersize=3.5, label=label)
        if common_loss is not None and common_loss != objective:
            measured = f"{label}, measured on {labels[common_loss]}"
            common = test_losses[common_loss]
            _draw_test_loss(test_axis, own, common, color=colour, linestyle="--", label=measured)
    train_axis.set_title(f"train loss: each batch, and its mean over {window} steps", fontsize=10)
    test_axis.set_title("test loss: mean over held-out crops ± 2 standard errors", fontsize=10)
    for axis in (train_axis, test_axis):
        axis.set_xlabel("step")
        axis.set_ylabel("loss (nats per predicted token)")
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False)
    test_axis.sharey(train_axis)
    figure.savefig(path)


def smooth(values: Sequence[float], window: int) -> np.ndarray:
    """Centred moving average; near the ends, over the values that there are."""
    kernel = np.ones(min(window, len(values)))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _draw_test_loss(axis: Any, records: Sequence[Mapping[str, Any]], name: str, **style: Any) -> None:
    """One test loss over the steps, in a band of two standard errors."""
    test = [(r["step"], r["losses"][name]) for r in records if r["kind"] == "test"]
    if test:
        steps = [step for step, _ in test]
        mean = np.array([loss["mean"] for _, loss in test])
        error = 2 * np.array([loss["standard_error"] for _, loss in test])
        axis.fill_between(steps, mean - error, mean + error, color=style["color"], alpha=0.2, linewidth=0)
        axis.plot(steps, mean, linewidth=1.8, **style)
