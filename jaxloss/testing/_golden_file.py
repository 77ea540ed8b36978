"""A file of torch's results: what is in it, and whether what is given is what was recorded."""

import hashlib
import importlib.metadata
import json
import warnings
import zipfile
from typing import Any

import jax
import numpy as np

from jaxloss.testing._result import Arrays, Leaves, NotRecordedError, Result, shape_text
from jaxloss.testing.inputs import cast
from jaxloss.testing.measure import difference

FORMAT = 1

# numpy's exp and log, of which some specs are made, may round differently on another machine.
_SAME_EPS = 4.0


class RecordedTorch:
    """In place of a `TorchSide`: it knows the results of the runs that were recorded."""

    is_recorded = True

    def __init__(self, runs: dict[str, Result], header: dict[str, Any]) -> None:
        self._runs, self._header = runs, header

    def run(
        self, inputs: tuple[Any, ...], params: Any, dtype: str, cotangents: Any = None, **unknown: Any
    ) -> Result:
        """A result that was recorded; the arguments are those of `TorchSide.run`.

        Raises:
            NotRecordedError: there is none for these numbers, or with something changed in torch.
        """
        key = key_of(inputs, params, dtype)
        if unknown or key not in self._runs:
            raise NotRecordedError
        return self._runs[key]


def key_of(inputs: Any, params: Any, dtype: str) -> str:
    """Of a run: the numbers that it was given, and the dtype in which it computed."""
    digest = hashlib.sha256(dtype.encode())
    for leaf in jax.tree.leaves((cast(inputs, dtype), cast(params, dtype))):
        digest.update(_bytes(leaf))
    return digest.hexdigest()[:16]


def _bytes(leaf: Any) -> bytes:
    return leaf.tobytes() if isinstance(leaf, np.ndarray) else repr(leaf).encode()


def settings_of(taken: Leaves) -> dict[str, str]:
    """The inputs that are no arrays, as they print."""
    arrays = taken.arrays()
    return {n: repr(x) for n, x in zip(taken.names, taken.leaves, strict=True) if n not in arrays}


def digests_of(params: Any) -> dict[str, str] | None:
    if params is None:
        return None
    return {
        jax.tree_util.keystr(path): hashlib.sha256(_bytes(leaf.astype(np.float64))).hexdigest()[:16]
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    }


def read(path: Any) -> tuple[dict[str, Any], dict[str, Arrays]]:
    """The header, and the arrays by kind and name.

    Raises:
        OSError: there is no such file.
        ValueError: it is another file, or one of another format.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            header = json.loads(str(file["header"]))
            known = header["format"]
            arrays = {
                kind: {name: file[f"{kind} {i}"] for i, name in enumerate(names)}
                for kind, names in header.get("arrays", {}).items()
            }
    except (KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"path must be a file from record_golden; {path} is none: {error}") from error
    if known != FORMAT:
        raise ValueError(f"path must be a file of format {FORMAT}; {path} has {known}: record it again")
    try:
        installed = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        installed = header["torch"]
    if installed.partition("+")[0] != header["torch"].partition("+")[0]:
        warnings.warn(
            f"{path} was recorded with torch {header['torch']}, and {installed} is here: record it again",
            stacklevel=3,
        )
    return header, arrays


def as_recorded(path: Any, header: dict[str, Any], drawn: tuple[Any, ...], recorded: Arrays) -> Any:
    """The inputs with the numbers of the file, which they must have but for a rounding."""
    taken = Leaves.of(drawn)
    given, settings = taken.arrays(), settings_of(taken)
    again = "give what was recorded, or record it again"
    if [*given] != [*recorded] or settings.keys() != header["settings"].keys():
        were, are = (
            ", ".join([*a, *s]) or "none" for a, s in ((recorded, header["settings"]), (given, settings))
        )
        raise ValueError(f"inputs must be those of {path}, {were}; got {are}: {again}")
    for name, setting in settings.items():
        if setting != header["settings"][name]:
            raise ValueError(
                f"{name} must be {header['settings'][name]}, as in {path}; got {setting}: {again}"
            )
    for name, array in given.items():
        was = recorded[name]
        if (array.shape, array.dtype) != (was.shape, was.dtype):
            raise ValueError(
                f"{name} must be {shape_text(was)}, as in {path}; got {shape_text(array)}: {again}"
            )
        found = difference(array, was, "float64")
        if found.eps_of_max > (_SAME_EPS if array.dtype.kind == "f" else 0.0):
            raise ValueError(
                f"{name} must hold the numbers of {path}, {found.expected!r} at {list(found.index)}; got "
                f"{found.actual!r}: {again} (numpy {header['numpy']} drew them, this is {np.__version__})"
            )
    return taken.rebuild(recorded)


def check_params(path: Any, header: dict[str, Any], params: Any) -> None:
    was, found = header["params"], digests_of(params)
    if (was is None) is not (found is None):
        given = "without params" if was is None else "with params"
        raise ValueError(f"params must be as in {path}, which was recorded {given}")
    if was is None or found is None:
        return
    if was.keys() != found.keys():
        names = ", ".join(sorted(was.keys() ^ found.keys()))
        raise ValueError(f"params must be those of {path}; only one of the two has {names}")
    changed = [name for name, digest in found.items() if was[name] != digest]
    if changed:
        raise ValueError(
            f"params must hold the numbers of {path}; others at {', '.join(changed)}: record it again"
        )
