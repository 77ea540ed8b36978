"""`import jaxloss` and its `testing` are light and silent; no package imports one that is built on it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import jaxloss

ROOT = Path(__file__).parents[1]

HEAVY = {
    "flax",
    "optax",
    "orbax",
    "torch",
    "datasets",
    "tokenizers",
    "tiktoken",
    "matplotlib",
    "tqdm",
    "tyro",
    "safetensors",
    "pytest",
}


def test_import_jaxloss_and_its_testing_pulls_in_jax_and_nothing_heavier():
    program = f"import sys, jaxloss.testing; print(sorted({HEAVY!r} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_every_loss_is_found_at_the_top():
    assert {*jaxloss.losses.__all__, *jaxloss.fused.__all__} == set(jaxloss.__all__)
    assert all(hasattr(jaxloss, name) for name in jaxloss.__all__)


# From the ground up: each may import those before it.
ROOMS = (
    *("_barriers", "_mesh", "_checks", "_checked", "_reduction", "numerics", "losses", "fused"),
    *("learnt", "data", "model5", "training", "runs", "doctor", "interop", "testing"),
)
MAY_NOT_IMPORT = {
    **{f"jaxloss.{room}": [f"jaxloss.{above}" for above in ROOMS[i + 1 :]] for i, room in enumerate(ROOMS)},
    "jaxloss": ["torch_ref", "parity_tests", "benchmarks", "experiments"],
    "torch_ref": ["jaxloss", "jax", "flax", "optax", "parity_tests", "benchmarks", "experiments"],
    "benchmarks": ["parity_tests", "experiments"],
    "experiments": ["parity_tests", "benchmarks"],
}


def imported(file: Path) -> Iterator[str]:
    """Full names of all that a file imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports here are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", MAY_NOT_IMPORT)
def test_no_package_imports_what_is_built_on_it(package):
    path = ROOT / package.replace(".", "/")
    files = [*path.rglob("*.py")] if path.is_dir() else [path.with_suffix(".py")]
    assert files
    forbidden = tuple(f"{other}." for other in MAY_NOT_IMPORT[package])
    assert [
        (file.name, name) for file in files for name in imported(file) if f"{name}.".startswith(forbidden)
    ] == []


def test_every_room_has_its_place():
    entries = (ROOT / "jaxloss").iterdir()
    rooms = {entry.stem for entry in entries if entry.is_dir() or entry.suffix == ".py"}
    assert rooms - {"__init__", "__pycache__"} == set(ROOMS)
