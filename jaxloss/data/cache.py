"""Files that appear whole or not at all, whatever else is writing them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write; move it to `path` if all goes well, else remove it.

    Raises:
        PermissionError: if the cache folder cannot be written.
    """
    make_folder(path.parent)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a cache folder.

    Raises:
        PermissionError: if it cannot be made or written; says which argument chooses another.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError as error:
        raise PermissionError(
            f"cannot make the cache folder {folder}: {error.strerror}; choose another with cache_dir"
        ) from error
    if not writable:
        raise PermissionError(f"the cache folder {folder} is not writable: choose another with cache_dir")
