"""CONTRIBUTING.md, followed word by word: its code, put where it says in a copy, gives a green run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
NEW_FILES = re.findall(r"^<!-- file: (\S+) -->\n```py\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
IMPORTS = re.findall(r"^```py\n(from jaxloss\S* .*\n)(from torch_ref\S* .*\n)```", PAGE, re.MULTILINE)
ENTRIES = re.findall(r'^```py\n(    ".*\n)```', PAGE, re.MULTILINE)


def _insert(file: Path, line: str, kind: str) -> None:
    """Put the line before the first of its kind that comes later in the alphabet."""
    lines = file.read_text().splitlines(keepends=True)
    lines.insert(next(i for i, other in enumerate(lines) if other.startswith(kind) and other > line), line)
    file.write_text("".join(lines))


def test_the_worked_example_is_a_loss_like_any_other(tmp_path):
    for package in ("jaxloss", "torch_ref", "parity_tests", "docs"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("README.md", "Makefile", "pyproject.toml"):
        shutil.copy(ROOT / file, tmp_path)
    for file, code in NEW_FILES:
        (tmp_path / file).write_text(code)
    (lines,), (entry,) = IMPORTS, ENTRIES
    for side, line in zip(("jaxloss", "torch_ref"), lines, strict=True):
        _insert(tmp_path / side / "losses" / "__init__.py", line, "from ")
    _insert(tmp_path / "parity_tests" / "cases.py", entry, '    "')
    names = (
        "losses/test_quantile",
        "losses/test_public",
        "losses/test_options",
        "losses/test_sharding",
        "losses/test_debugging_modes",
        "test_mirror",
        "test_readme",
    )
    tests = [f"parity_tests/{name}.py" for name in names]
    for command in (
        ["parity_tests.readme"],
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["pytest", "-q", "-p", "no:xdist", "-k", "quantile or table or mirror", *tests],
    ):
        run = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, f"{command}\n{run.stdout[-6000:]}{run.stderr[-2000:]}"
