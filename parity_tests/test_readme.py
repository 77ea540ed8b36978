"""What the README and the pages in docs/ say can be run, runs; what the README points to exists."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from parity_tests import quick_compilation, readme

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PROGRAMS = [
    program
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    for program in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
]
SHOWN = re.compile(r"print\(.*\)  # (.*)$", re.MULTILINE)


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_programs_print_what_the_page_says(program):
    env = os.environ | {"XLA_FLAGS": quick_compilation.XLA_FLAGS}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, env=env
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == SHOWN.findall(program)


def test_links_and_pictures_in_the_readme_exist():
    local = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_make_targets_in_the_readme_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)", README)) <= targets


def test_scripts_in_the_readme_exist():
    scripts = set(re.findall(r"\b(?:experiments|benchmarks)/\w+\.py", README))
    assert [script for script in sorted(scripts) if not (ROOT / script).exists()] == []


def test_tables_in_the_readme_are_those_of_the_code():
    assert readme.written(README) == README, "run make readme"
