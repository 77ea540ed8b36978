"""One look for progress bars: on standard error, on a terminal only, gone when done."""

from __future__ import annotations

from tqdm import tqdm


def progress_bar(description: str, *, total: int | None, unit: str) -> tqdm:
    """Return a bar to `update`; it shows nothing where standard error is not a terminal."""
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        unit_scale=True,
        dynamic_ncols=True,
        leave=False,
        # tqdm's word for: only where the file is a terminal.
        disable=None,
    )
