"""Lay out the report: what was compared with what, where, and how far apart the two are."""

import datetime
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import jax
import torch

from jaxloss.testing import ParityReport, Table, table_of
from jaxloss.testing.measure import (
    GRADIENT_EPS_OF_MAX,
    MOST_EPS_ALLOWED,
    TIMES_CONDITION,
    TIMES_TORCH_ERROR,
    VALUE_EPS_OF_MAX,
)

_TITLES = {
    "losses": "Losses",
    "fused": "Head and loss in one",
    "layers": "Layers of Model 5",
    "model": "Model 5",
    "hugging-face": "Hugging Face's GPT-2",
}
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "transformers")
_RUNS = (
    "Model 5 with two blocks, trained from the same weights on the same batches with the same dropout "
    "masks: the largest relative difference of the losses, and of the weights relative to the largest of "
    "their array (without the bias of the keys, whose gradient is zero but for rounding, which Adam divides "
    "by its own size). Beside them the same JAX run from weights moved by one eps, losses and weights: "
    "frameworks that round differently cannot agree much better."
)


def write_document(
    path: Path,
    sections: Mapping[str, Sequence[ParityReport]],
    dtypes: Sequence[str],
    torch_device: str | None,
    runs: Table | None = None,
    greedy: tuple[int, int] | None = None,
) -> None:
    """Write the report as Markdown.

    Args:
        path: of the file.
        sections: the comparisons, by the name of their section.
        dtypes: that were compared.
        torch_device: where torch ran.
        runs: the table of training runs.
        greedy: how many tokens of greedy text are those of transformers, and of how many.
    """
    parts = ["# Parity with PyTorch", _conditions(torch_device), _how_to_read(dtypes)]
    if sections:
        parts += ["## Summary", "The worst error of each group.", summary(sections, dtypes).markdown()]
    for name, reports in sections.items():
        parts += [f"## {_TITLES[name]}", table_of(reports).markdown()]
        if name == "hugging-face" and greedy is not None:
            parts += [f"Greedy text: {greedy[0]} of {greedy[1]} tokens are those of `transformers`."]
        parts += [f"```\n{report.text()}\n```" for report in reports if not report.passed]
    if runs is not None:
        parts += ["## Training runs", _RUNS, runs.markdown()]
    path.write_text("\n\n".join(parts) + "\n")


def summary(sections: Mapping[str, Sequence[ParityReport]], dtypes: Sequence[str]) -> Table:
    """A row for each group, and a pair of columns for each dtype; ill-conditioned cases stand alone."""
    header = ("", *(f"{dtype} {what}" for dtype in dtypes for what in ("value", "gradient")), "agree")
    rows = []
    for group, reports in _groups(sections).items():
        cells = []
        for dtype in dtypes:
            for what in ("value", "gradient"):
                found = [c for report in reports if (c := report.worst(dtype, what)) is not None]
                cells.append(f"{max(c.error for c in found):.1f}" if found else "-")
        agree = sum(report.passed for report in reports)
        rows.append((group, *cells, f"{agree} of {len(reports)}"))
    return Table(header, tuple(rows))


def _groups(sections: Mapping[str, Sequence[ParityReport]]) -> dict[str, list[ParityReport]]:
    groups: dict[str, list[ParityReport]] = {}
    for name, reports in sections.items():
        for report in reports:
            hard = any(comparison.note is not None for comparison in report.comparisons)
            group = report.name if hard or name == "model" else _TITLES[name]
            groups.setdefault(group, []).append(report)
    return groups


def _conditions(torch_device: str | None) -> str:
    devices, today = jax.devices(), datetime.datetime.now(datetime.UTC)
    lines = [
        f"- {today:%Y-%m-%d}, Python {platform.python_version()}, {platform.machine()}",
        "- " + ", ".join(f"{package} {version(package)}" for package in _PACKAGES),
        f"- JAX on {devices[0].platform} ({devices[0].device_kind}, {len(devices)} of them), PyTorch on "
        f"{_torch_name(torch_device)}",
        "- Matrix products of float32 in full precision on both sides: TF32 and bfloat16 passes are off. On "
        "a GPU or TPU, Model 5 is compared once more with JAX's default precision, in rows that say so: TF32 "
        "keeps 10 bits after the point and one bfloat16 pass 7, where float32 has 23, so 2^13 or 2^16 times "
        "as much is allowed there. float64 is left out on a TPU, which emulates it.",
    ]
    return "\n".join(lines)


def _torch_name(torch_device: str | None) -> str:
    if torch_device and torch_device.startswith("cuda"):
        return f"{torch_device} ({torch.cuda.get_device_name(torch_device)})"
    return torch_device or "cpu"


def _how_to_read(dtypes: Sequence[str]) -> str:
    allowed = "; ".join(
        f"{dtype}: {VALUE_EPS_OF_MAX[dtype]:g} for values, {GRADIENT_EPS_OF_MAX[dtype]:g} for gradients"
        for dtype in dtypes
    )
    return (
        "Errors are `max|JAX - torch| / (eps * max|torch|)` of the worst array, with the eps of the dtype. "
        "Gradients are those of every parameter and every floating-point input, pulled back from random "
        "cotangents. A side's own error is against torch's float64 result for the same rounded inputs. "
        f"Allowed: {allowed}. In narrower dtypes it is enough if JAX's own error is within that. Rows marked "
        f"ill-conditioned were allowed {TIMES_CONDITION:g} times what one eps on the inputs does to the "
        f"result, at most {MOST_EPS_ALLOWED:,.0f}, and rows marked as unstable in torch "
        f"{TIMES_TORCH_ERROR:g} times torch's own error; both only if the error all but vanishes when JAX "
        "computes in float64."
    )
