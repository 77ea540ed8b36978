"""The memory that a step takes, measured from outside, for libraries that do not tell: Linux only."""

import os
from collections.abc import Callable
from pathlib import Path


def peak_growth(step: Callable[[], object]) -> int:
    """By how many bytes a second run of `step` raises what the process holds, at its highest."""
    step()
    before = _resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the mark
    step()
    return _resident_bytes("VmHWM") - before


def plain_environment() -> dict[str, str]:
    """The environment for a process to measure in: one that gives memory back as soon as it is free."""
    return {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}


def _resident_bytes(which: str) -> int:
    """`VmRSS`, what the process holds, or `VmHWM`, the most that it has held since the last reset."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith(which)))
