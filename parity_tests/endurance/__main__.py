"""Kill runs at random instants and resume them; damage checkpoints; write docs/endurance.md.

python -m parity_tests.endurance [--trials 25] [--seed 0]
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint
from tqdm import tqdm

from jaxloss.runs.resume import FOLDER
from jaxloss.runs.tables import format_table
from jaxloss.training.checkpoint import newest_checkpoint
from parity_tests.endurance.damage import found_damages

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "endurance.md"
EVERY = 4
FLAGS = {
    "--model.context-length": 16,
    "--model.embed-dim": 16,
    "--model.num-heads": 2,
    "--model.num-blocks": 1,
    "--steps": 120,
    "--batch-size": 4,
    "--train.eval-every": 30,
    "--train.eval-crops": 8,
    "--tokenizer": "bytes",
    "--sample.num-tokens": 6,
    "--sample.num-texts": 2,
    "--checkpoint.every": EVERY,
}


class Trial(NamedTuple):
    """What a kill hit, and whether the resumed run ended as one that was not killed."""

    step: int
    is_writing: bool
    resumed_from: int
    is_equal: bool


def start(folder: Path, *arguments: object) -> subprocess.Popen:
    """A run of the training script, or one that goes on."""
    command = [sys.executable, ROOT / "experiments" / "train_model5.py", *map(str, arguments)]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=folder)


def begin(folder: Path, out: Path) -> subprocess.Popen:
    corpus = folder / "cat.txt"
    corpus.write_text("The cat sat on the mat and looked at the dog. " * 60)
    flags = FLAGS | {"--corpus": corpus, "--out": out}
    process = start(folder, *(part for flag in flags.items() for part in flag))
    while process.poll() is None and not (out / "metrics.jsonl").exists():
        time.sleep(0.01)
    return process


def result(out: Path) -> tuple[bytes, list[bytes]]:
    """The metrics, and every array of parameters and optimizer state."""
    found = newest_checkpoint(out / FOLDER, report=print)
    with orbax.checkpoint.StandardCheckpointer() as reader:
        arrays = jax.tree.leaves_with_path(reader.restore(found.path.absolute() / "state"))
    named = sorted((str(path), np.asarray(leaf).tobytes()) for path, leaf in arrays)
    return (out / "metrics.jsonl").read_bytes(), [array for _, array in named]


def kill_and_resume(folder: Path, seconds: float, expected: tuple[bytes, list[bytes]]) -> Trial | None:
    """One trial, `seconds` after the first record; None if the run had ended by then."""
    out = folder / "killed"
    shutil.rmtree(out, ignore_errors=True)
    process = begin(folder, out)
    time.sleep(seconds)
    process.kill()
    if process.wait() == 0:
        return None
    checkpoints = list((out / FOLDER).iterdir()) if (out / FOLDER).exists() else []
    is_writing = any(not (path / "manifest.json").exists() for path in checkpoints)
    step = (out / "metrics.jsonl").read_bytes().count(b'"train"')
    resumed = start(folder, "--resume", out)
    shown, _ = resumed.communicate()
    if resumed.returncode:
        return Trial(step, is_writing, -1, False)
    (line,) = (line for line in shown.splitlines() if line.startswith("going on from step "))
    return Trial(step, is_writing, int(line.split()[4]), result(out) == expected)


def write_page(trials: list[Trial], num_damages: int, num_found: int) -> None:
    words = {True: "yes", False: "no"}
    rows = [
        [number, trial.step, words[trial.is_writing], trial.resumed_from, words[trial.is_equal]]
        for number, trial in enumerate(trials, 1)
    ]
    table = format_table(["", "step when killed", "while writing", "resumed from step", "equal"], rows)
    equal, writing = sum(t.is_equal for t in trials), sum(t.is_writing for t in trials)
    PAGE.write_text(
        f"""# Endurance

Written by `make endurance`. A run of `experiments/train_model5.py` at the least size
({FLAGS["--steps"]} steps, a checkpoint every {EVERY}) is killed with SIGKILL at a random instant and resumed,
each time anew. Equal means: the parameters, both averages of AdamW, the step and `metrics.jsonl` have the
same bytes as those of a run that was not killed.

**{equal} of {len(trials)} equal**; {writing} of the kills came while a checkpoint was being written.

Random bit flips and truncations over all files of a checkpoint: **{num_found} of {num_damages} detected**;
each time the file was named and the checkpoint before it was used.

{table}
"""
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=25, help="kills")
    parser.add_argument("--damages", type=int, default=200, help="bit flips and truncations")
    parser.add_argument("--seed", type=int, default=0, help="decides the instants")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        begin(folder, folder / "compiles").communicate()
        whole = begin(folder, folder / "whole")
        began = time.monotonic()
        whole.communicate()
        seconds = time.monotonic() - began
        expected = result(folder / "whole")
        trials: list[Trial] = []
        with tqdm(total=options.trials, desc="kills") as bar:
            while len(trials) < options.trials:
                trial = kill_and_resume(folder, draw.uniform(0, seconds), expected)
                if trial is not None:
                    trials.append(trial)
                    bar.update()
        num_found = found_damages(folder / "whole" / FOLDER, options.damages, options.seed)
    write_page(trials, options.damages, num_found)
    print(PAGE.read_text())
    return int(not all(trial.is_equal for trial in trials) or num_found < options.damages)


if __name__ == "__main__":
    sys.exit(main())
