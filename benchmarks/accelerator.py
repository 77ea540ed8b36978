"""All that is to be measured on a GPU or TPU host, in one command; its result is a page.

    python benchmarks/accelerator.py [--corpus book.txt] [--page docs/accelerator.md]
    python benchmarks/accelerator.py --toy --page /tmp/toy.md           # toy sizes on the CPU: does it run?

Five parts, each in a process of its own: the parity report with JAX on the device; the fused head and the
training step of GPT-2 small in float32 and bfloat16 with several chunk sizes, beside PyTorch where that sees
the GPU; its blocks in a loop, and computed again on the way back; and 200 steps of the full-size Model 5, on
FineWeb if it is cached or the Hub answers, else on the prose that comes with Python. After a part that fails,
the others go on, and the exit code is 1.
"""

import dataclasses
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from jaxloss.data.cache import atomic_path
from jaxloss.model5.config import MODEL5
from jaxloss.runs.cli import run_cli
from jaxloss.runs.folder import METRICS, TIMES, RunFolder
from jaxloss.runs.settings import DataConfig
from jaxloss.runs.tables import format_table

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "accelerator.md"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch")
# Asked of another process: in this one, JAX would keep the device from those that measure.
ASK = """
import jax, json
device = jax.devices()[0]
if has_torch := device.platform == "gpu":
    import torch
    has_torch = torch.cuda.is_available()
kind, number = device.device_kind, jax.device_count()
print(json.dumps({"platform": device.platform, "kind": kind, "number": number, "has_torch": has_torch}))
"""


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure parity, speed and a full-size training on a GPU or TPU, and write a page."""

    toy: bool = False
    """Toy sizes on the CPU, to see whether it runs; needs --page."""
    page: str | None = None
    """File to write; docs/accelerator.md if not given."""
    corpus: str | None = None
    """Text to train on, as train_model5.py takes it, in place of FineWeb."""
    out: str | None = None
    """New folder for what the parts print and leave; runs/accelerator-<time> if not given."""


@dataclasses.dataclass(frozen=True)
class Part:
    """One thing to measure.

    Args:
        title: its heading on the page.
        command: what Python runs.
        result: from what it printed to Markdown.
    """

    title: str
    command: list[str]
    result: Callable[[str], str]


def find_device() -> dict[str, Any]:
    """JAX's first device: its platform and kind, how many there are, and whether PyTorch sees it too."""
    asked = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True)
    if asked.returncode:
        raise ValueError(f"JAX finds no device: {asked.stderr.strip().splitlines()[-1]}")
    return json.loads(asked.stdout)


def toy_parts(folder: Path, corpus: str | None) -> list[Part]:
    """The parts, so small that they take seconds."""
    parity = ["--only", "layers", "--dtypes", "float32"]
    head = ["--shapes", "32x8x64", "--peers", "jaxloss", "--chunk-sizes", "16", "--rounds", "2"]
    step = ["--sizes", "toy", "--peers", "jaxloss", "--chunk-sizes", "16", "--rounds", "2"]
    run = ["--steps", "2", "--batch-size", "2", "--tokenizer", "bytes", "--train.eval-crops", "2"]
    run += ["--model.context-length", "8", "--model.embed-dim", "16", "--model.num-heads", "2"]
    run += ["--model.num-blocks", "1", "--sample.num-tokens", "2", "--sample.num-texts", "2"]
    run += ["--corpus", corpus] if corpus else []
    looped = ["--size", "toy", "--objectives", "final", "--rounds", "2"]
    return parts(folder, parity, head, step, looped, run, dtypes=["bfloat16"])


def full_parts(folder: Path, corpus: str | None, has_torch: bool) -> list[Part]:
    """The parts as they are meant."""
    head = ["--shapes", "16384x768x50257", "--chunk-sizes", "512", "1024", "2048", "4096", "8192"]
    step = ["--sizes", "gpt2", "--batch-size", "64", "--chunk-sizes", "1024", "4096"]
    if not has_torch:  # on the CPU, beside JAX on an accelerator, it would say nothing
        head += ["--peers", "jaxloss", "naive", "checkpointed scan", "bare products"]
        step += ["--peers", "jaxloss"]
    run = ["--preset", "model5", "--steps", "200", *corpus_flags(corpus)]
    looped = ["--size", "gpt2", "--batch-size", "64", "--objectives", "all"]
    return parts(folder, [], head, step, looped, run, dtypes=["float32", "bfloat16"])


def corpus_flags(corpus: str | None) -> list[str]:
    """The text to train on and its tokenizer: as large a vocabulary as GPT-2's, also offline."""
    try:
        DataConfig(corpus=corpus or "fineweb", tokenizer="gpt2").prepare(MODEL5.context_length)
        return ["--corpus", corpus or "fineweb"]
    except ConnectionError as error:
        print(f"offline ({error}): with a tokenizer trained on the corpus", file=sys.stderr)
    # GPT-2's 50,257 in multiples of 128, of which the tokenizer fills a part: the work is the same.
    offline = ["--tokenizer", "bpe", "--model.vocab-size", "50304"]
    return ["--corpus", corpus or "python-docs", *offline]


def parts(
    folder: Path,
    parity: list[str],
    head: list[str],
    step: list[str],
    looped: list[str],
    run: list[str],
    dtypes: list[str],
) -> list[Part]:
    """What is to run, and how its result gets to the page."""
    report, training, dtypes = folder / "parity_report.md", folder / "training", ["--dtypes", *dtypes]
    fused, stepped = (str(ROOT / "benchmarks" / name) for name in ("fused_head.py", "train_step.py"))
    blocks, train = str(ROOT / "benchmarks" / "blocks.py"), str(ROOT / "experiments" / "train_model5.py")
    return [
        Part(
            "Parity with PyTorch on the CPU",
            ["-m", "parity_tests.report", "--output", str(report), *parity],
            lambda printed: parity_summary(report, printed),
        ),
        Part("The fused head", [fused, *head, *dtypes], str.strip),
        Part("A training step", [stepped, *step, *dtypes], str.strip),
        Part("Blocks in a loop", [blocks, *looped, "--fsdp", "1"], str.strip),
        Part("Training", [train, *run, "--out", str(training)], lambda _: training_table(training)),
    ]


def parity_summary(report: Path, printed: str) -> str:
    """The report's table of groups, and how many of its comparisons agree."""
    summary = report.read_text().partition("## Summary\n\n")[2].partition("\n\n## ")[0]
    return f"{summary}\n\n{printed.strip().splitlines()[-1].partition(';')[0]}."


def training_table(path: Path) -> str:
    """What a training run was, how fast, and what it learnt."""
    folder = RunFolder(None, "train_model5", resume=path)
    config = json.loads(folder.file("config.json").read_text())
    model, train = config["model"], config["train"]
    seconds = [record["seconds"] for record in folder.read(TIMES)]
    records = folder.read(METRICS)
    train_losses = [record["loss"] for record in records if record["kind"] == "train"]
    test_losses = [record["losses"]["all"]["mean"] for record in records if record["kind"] == "test"]
    median = statistics.median(seconds[1:])
    tokens = train["batch_size"] * train["accumulate"] * model["context_length"]
    size = f"{model['num_blocks']} block(s), width {model['embed_dim']}, {model['vocab_size']:,} tokens"
    rows = {
        "model": size,
        "text": Path(config["data"]["corpus"]).name,
        "batch, dtype": f"{train['batch_size']} x {model['context_length']}, {train['compute_dtype']}",
        "steps": len(seconds),
        "first step, compilation included": f"{seconds[0]:.1f} s",
        "median of the others": f"{1e3 * median:,.1f} ms",
        "tokens/s": f"{tokens / median:,.0f}",
        "train loss, first and last": f"{train_losses[0]:.3f}, {train_losses[-1]:.3f}",
        "test loss, first and last": f"{test_losses[0]:.3f}, {test_losses[-1]:.3f}",
    }
    return format_table(["", "all tokens"], [list(row) for row in rows.items()])


def run(command: list[str], log: Path, env: dict[str, str]) -> tuple[int, str]:
    """Run Python on a command: its exit code and what it printed, which is shown and logged as it comes."""
    printed = []
    with (
        log.open("w", encoding="utf-8") as stream,
        subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        ) as process,
    ):
        for line in process.stdout or ():
            tqdm.write(line, end="")
            stream.write(line)
            printed.append(line)
    return process.returncode, "".join(printed)


def main(config: Config) -> int:
    page = Path(config.page or PAGE).absolute()
    if config.toy and config.page is None:
        raise ValueError("--toy needs --page FILE, so that toy figures do not replace docs/accelerator.md")
    if not page.parent.is_dir() or page.is_dir():
        raise ValueError(f"--page must be a file in a folder that exists; got {str(page)!r}")
    if config.toy:
        os.environ["JAX_PLATFORMS"] = "cpu"
    device = find_device()
    if device["platform"] == "cpu" and not config.toy:
        raise ValueError(
            "JAX finds no GPU or TPU, only the CPU: install jax[cuda13] or jax[tpu] (make accelerator "
            "DEVICE=cuda13), or see whether everything runs with --toy --page FILE"
        )
    is_path = config.corpus and Path(config.corpus).exists()
    corpus = str(Path(config.corpus).absolute()) if is_path else config.corpus
    folder = RunFolder(config.out, "accelerator")
    path = folder.path.absolute()
    todo = toy_parts(path, corpus) if config.toy else full_parts(path, corpus, device["has_torch"])
    folder.create()
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", "PYTHONPATH": str(ROOT)}
    sections, failed = [], []
    for number, part in enumerate(todo, start=1):
        print(f"\n== {number} of {len(todo)}: {part.title}", flush=True)
        code, printed = run(part.command, path / f"{number}.log", environment)
        try:
            result = part.result(printed)
        except (OSError, ValueError, LookupError):  # it did not get as far as its result
            result = printed.strip() or "No result."
        if code:
            failed.append(part.title)
            result += f"\n\nIt ended with exit code {code}."
        shown = " ".join(arg.replace(f"{ROOT}/", "").replace(f"{path}/", "") for arg in part.command)
        sections.append(f"## {part.title}\n\n`python {shown}`\n\n{result}")
    with atomic_path(page) as temporary:
        temporary.write_text("\n\n".join([heading(device, config.toy), *sections]) + "\n", encoding="utf-8")
    print(f"\nwritten to {page}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def heading(device: dict[str, Any], is_toy: bool) -> str:
    """What was measured, where and when."""
    today = datetime.datetime.now(datetime.UTC)
    packages = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    lines = [
        "# Measured on toy sizes" if is_toy else "# Measured on an accelerator",
        "Written by `make accelerator`, never by hand.",
        f"- {today:%Y-%m-%d}, {device['number']} x {device['kind']} ({device['platform']})\n"
        f"- Python {platform.python_version()}, {platform.machine()}, {packages}",
    ]
    return "\n\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_cli(main, Config))
