"""Damage the files of a checkpoint, one after the other, and see whether it is noticed."""

import random
from pathlib import Path

from jaxloss.training.checkpoint import newest_checkpoint


def found_damages(folder: Path, count: int, seed: int = 0) -> int:
    """How many of `count` bit flips and truncations of the newest of several checkpoints are detected.

    Detected means that the file is named and an older checkpoint is the newest; each is undone again.
    """
    draw, found = random.Random(seed), 0
    newest = newest_checkpoint(folder, report=print)
    files = sorted(path for path in newest.path.rglob("*") if path.is_file())
    for trial in range(count):
        path = files[trial % len(files)]
        whole = path.read_bytes()
        damaged = bytearray(whole)
        if trial % 3:
            damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        else:
            del damaged[draw.randrange(len(whole)) :]
        path.write_bytes(damaged)
        reports: list[str] = []
        is_older = newest_checkpoint(folder, reports.append).step < newest.step
        found += is_older and len(reports) == 1 and str(path) in reports[0]
        path.write_bytes(whole)
    return found
