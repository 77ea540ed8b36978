"""The last file of a checkpoint: checksums of all others, and what it is a checkpoint of."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAME = "manifest.json"
_BLOCK = 2**20


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Bring the folder's files to the disk, then the manifest, which appears whole or not at all.

    Raises:
        OSError: the system refuses; there is no manifest then.
    """
    files = {name: _checksum(folder / name, flush=True) for name in _files(folder)}
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        _flush(path)
    temporary = folder / f".{NAME}"
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(_render(content | {"files": files}))
        stream.flush()
        os.fsync(stream.fileno())
    temporary.rename(folder / NAME)
    _flush(folder)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `write_manifest` was given, if every file is as it was then.

    Raises:
        ValueError: the writing was not finished, or a file is missing or changed; names the file.
    """
    path = folder / NAME
    if not path.exists():
        raise ValueError(f"{str(folder)!r} was not written to its end")
    try:
        text = path.read_bytes().decode()
        content = json.loads(text)["content"]
        is_whole = _render(content) == text
    except (ValueError, KeyError, TypeError, OSError):
        is_whole = False
    if not is_whole:
        raise ValueError(f"{str(path)!r} is damaged")
    for name, expected in content["files"].items():
        try:
            is_same = _checksum(folder / name) == expected
        except OSError as error:
            raise ValueError(f"{str(folder / name)!r} cannot be read: {error.strerror}") from error
        if not is_same:
            raise ValueError(f"{str(folder / name)!r} is damaged")
    return content


def _render(content: dict[str, Any]) -> str:
    """The manifest's text, of which any change shows: it is what its own content renders to."""
    inner = json.dumps(content, sort_keys=True)
    digest = hashlib.sha256(inner.encode()).hexdigest()
    return json.dumps({"sha256": digest, "content": content}, indent=1, sort_keys=True) + "\n"


def _files(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in (NAME, f".{NAME}"):
            yield path.relative_to(folder).as_posix()


def _checksum(path: Path, *, flush: bool = False) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
            size += len(block)
        if flush:
            os.fsync(stream.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


def _flush(folder: Path) -> None:
    """Bring a folder's list of names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
