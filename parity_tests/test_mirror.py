"""`torch_ref` mirrors `jaxloss`: the same files, public names, order, parameters and defaults.

Read from the source, so that neither import side effects nor decorators hide a difference.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MIRRORED = ["losses", "fused", "learnt", "model5", "training"]

# The frameworks differ in these on purpose: randomness is a key in JAX and a generator in torch; parameters
# are an argument in JAX and live in the module in torch.
COUNTERPARTS = {"key": "generator", "params": "model"}
ONLY_IN_JAX = {
    "deterministic", "apply_fn",  # torch keeps them in the module: `training` and `forward`
    "decay", "Decay", "accumulate", "mesh",  # equal to one batch on one device, which is compared
    "remat", "scan",  # equal to the blocks called one by one, likewise
    "lay_out", "make_mesh", "own_crops", "whole", "mesh_of", "restored_on_devices",
}  # fmt: skip
FILES_ONLY_IN_JAX = {"training/checkpoint.py"}  # states on JAX's devices


def _mirrored_files() -> list[str]:
    """Files of either side, but for private ones: how a side does it is its own affair."""
    sides = [
        {
            str(path.relative_to(ROOT / package))
            for folder in MIRRORED
            for path in (ROOT / package / folder).rglob("*.py")
            if path.name == "__init__.py" or not path.name.startswith("_")
        }
        for package in ("jaxloss", "torch_ref")
    ]
    return sorted((sides[0] | sides[1]) - FILES_ONLY_IN_JAX)


def _parameters(function: ast.FunctionDef) -> list[str]:
    arguments = function.args
    positional = arguments.posonlyargs + arguments.args
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    listed = [(arg.arg, default) for arg, default in zip(positional, defaults, strict=True)]
    if arguments.kwonlyargs:
        listed.append(("*", None))
        listed += [(a.arg, d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    if arguments.vararg:
        listed.append((f"*{arguments.vararg.arg}", None))
    if arguments.kwarg:
        listed.append((f"**{arguments.kwarg.arg}", None))
    listed = [(name, default) for name, default in listed if name not in {"self", *ONLY_IN_JAX}]
    if listed and listed[-1][0] == "*":
        listed.pop()
    return [
        COUNTERPARTS.get(name, name) + (f"={ast.unparse(default)}" if default is not None else "")
        for name, default in listed
    ]


def _constructor(cls: ast.ClassDef) -> list[str]:
    """Parameters of a class: those of `__init__` (torch), or the annotated fields (Flax, dataclasses)."""
    for node in cls.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            return _parameters(node)
    return [
        COUNTERPARTS.get(node.target.id, node.target.id)
        + (f"={ast.unparse(node.value)}" if node.value else "")
        for node in cls.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and node.target.id not in ONLY_IN_JAX
    ]


def _interface(path: Path) -> dict[str, list[str]]:
    """Public name -> its parameters, in the order of the file; re-exports and constants have none."""
    interface: dict[str, list[str]] = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            interface[node.name] = _parameters(node)
        elif isinstance(node, ast.ClassDef):
            interface[node.name] = _constructor(node)
        elif isinstance(node, ast.ImportFrom):
            interface |= {alias.name: ["re-export"] for alias in node.names if alias.asname == alias.name}
        elif isinstance(node, ast.Assign):
            interface |= {target.id: ["constant"] for target in node.targets if isinstance(target, ast.Name)}
    return {
        name: parameters
        for name, parameters in interface.items()
        if not name.startswith("_") and name not in ONLY_IN_JAX
    }


@pytest.mark.parametrize("file", _mirrored_files())
def test_mirror(file):
    jax_file, torch_file = ROOT / "jaxloss" / file, ROOT / "torch_ref" / file
    assert jax_file.exists(), f"torch_ref/{file} has no JAX counterpart"
    assert torch_file.exists(), f"jaxloss/{file} has no torch counterpart"
    jax_side, torch_side = _interface(jax_file), _interface(torch_file)
    assert list(jax_side) == list(torch_side)
    for name, parameters in jax_side.items():
        if "re-export" not in (parameters + torch_side[name]):
            assert parameters == torch_side[name], name


@pytest.mark.parametrize(
    "file", [file for file in _mirrored_files() if not file.endswith(("__init__.py", "config.py"))]
)
def test_each_mirrored_file_has_its_parity_test(file):
    folder, name = file.rsplit("/", 1)
    assert (ROOT / "parity_tests" / folder / f"test_{name}").exists()
