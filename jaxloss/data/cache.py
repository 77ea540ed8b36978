"""Files that appear whole or not at all, whatever else is writing them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset


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


def cached_dataset(path: Path, make: Callable[[], Dataset]) -> Dataset:
    """Map the dataset of a parquet file; make it and write it first if the file is missing or damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset

    try:
        return Dataset(pq.read_table(path, memory_map=True))
    except (OSError, pa.ArrowException):
        dataset = make()
        with atomic_path(path) as temporary:
            pq.write_table(dataset.data.table, temporary)
        return dataset


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
