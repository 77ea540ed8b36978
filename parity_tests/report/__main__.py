"""Compare everything with PyTorch on the device at hand and write `parity_report.md`.

    python -m parity_tests.report                                the default device of JAX, torch on the CPU
    JAX_PLATFORMS=cpu python -m parity_tests.report --only losses
    python -m parity_tests.report --torch-device cuda

About five minutes on two CPU cores. Training runs of PyTorch are on the CPU in any case.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jax
import numpy as np

from jaxloss.testing import EPS, Pair, ParityReport
from parity_tests.report.document import write_document
from parity_tests.report.hugging_face import greedy_texts, hugging_face_pairs
from parity_tests.report.pairs import coarse_model_pairs, fused_pairs, layer_pairs, loss_pairs, model_pairs
from parity_tests.report.runs import training_runs

SECTIONS: dict[str, Callable[[], list[Pair]]] = {
    "losses": loss_pairs,
    "fused": fused_pairs,
    "layers": layer_pairs,
    "model": lambda: [*model_pairs(), *coarse_model_pairs()],
    "hugging-face": hugging_face_pairs,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparisons; 0 when all agree, 1 when some do not, 2 for a wrong argument."""
    options = _parser().parse_args(arguments)
    dtypes = _supported(options.dtypes)
    if not options.output.absolute().parent.is_dir():
        print(f"--output must be in a folder that exists; got {options.output}", file=sys.stderr)
        return 2
    sections = {}
    for name in (name for name in options.only if name in SECTIONS):
        sections[name] = [_check(pair, dtypes, options.torch_device) for pair in SECTIONS[name]()]
    text = _count_equal(*greedy_texts()) if "hugging-face" in options.only else None
    runs = training_runs(dtypes) if "runs" in options.only else None
    write_document(options.output, sections, dtypes, options.torch_device, runs, text)
    reports = [report for section in sections.values() for report in section]
    failed = [report for report in reports if not report.passed]
    for report in failed:
        print(f"\n{report.text()}")
    if runs is not None:
        print(f"\n{runs}")
    wrong = [row for row in runs.rows if row[-1] == "NO"] if runs is not None else []
    is_other_text = text is not None and text[0] < text[1]
    if text is not None:
        print(f"greedy text: {text[0]} of {text[1]} tokens are those of transformers")
    print(f"{len(reports) - len(failed)} of {len(reports)} agree; written to {options.output}")
    return 1 if failed or wrong or is_other_text else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m parity_tests.report", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--output", type=Path, default=Path("parity_report.md"), help="the file to write")
    parser.add_argument(
        "--dtypes", nargs="+", choices=EPS, default=["float64", "float32", "bfloat16"], help="to compare in"
    )
    parser.add_argument(
        "--only", nargs="+", choices=[*SECTIONS, "runs"], default=[*SECTIONS, "runs"], help="what to compare"
    )
    parser.add_argument(
        "--torch-device", default=None, help="where torch runs, such as cuda; the CPU by default"
    )
    return parser


def _supported(dtypes: Iterable[str]) -> tuple[str, ...]:
    """Without float64 on a TPU, which emulates it slowly and not to the last digit."""
    return tuple(dtype for dtype in dtypes if dtype != "float64" or jax.default_backend() != "tpu")


def _check(pair: Pair, dtypes: tuple[str, ...], torch_device: str | None) -> ParityReport:
    report = pair.check(dtypes=dtypes, device=torch_device)
    print(f"{'ok' if report.passed else 'DISAGREE':9} {report.name}", flush=True)
    return report


def _count_equal(ours: np.ndarray, theirs: np.ndarray) -> tuple[int, int]:
    return int((ours == theirs).sum()), theirs.size


if __name__ == "__main__":
    sys.exit(main())
