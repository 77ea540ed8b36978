"""FineWeb: web text of many topics and styles, the heterogeneous corpus.

Reference: Penedo et al., "The FineWeb Datasets: Decanting the Web for the Finest Text Data at Scale" (2024),
https://huggingface.co/datasets/HuggingFaceFW/fineweb
"""

from __future__ import annotations

import gc
import itertools
import textwrap
from pathlib import Path

from jaxloss.data import formats
from jaxloss.data.cache import atomic_path
from jaxloss.data.files import joined
from jaxloss.data.network import is_reachable
from jaxloss.data.progress import progress_bar

REPOSITORY = "HuggingFaceFW/fineweb"
SUBSET = "sample-10BT"
# Documents that are written, and held in memory, together.
_ROWS = 1000


def load(cache_dir: Path, *, num_documents: int) -> Path:
    """Return the parquet file of the first documents of `sample-10BT`, streamed from the Hub if need be.

    Raises:
        ConnectionError: if they are not cached and the Hub is out of reach or `HF_HUB_OFFLINE` is set.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = cache_dir / "corpora" / f"fineweb-{SUBSET}-{num_documents}.parquet"
    try:
        pq.read_metadata(path)
    except (OSError, pa.ArrowException):
        with atomic_path(path) as temporary:
            _download(temporary, num_documents)
    return path


def _download(path: Path, num_documents: int) -> None:
    import huggingface_hub.constants as hub
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import load_dataset

    instead = "use --corpus python-docs or --corpus with a .txt, .jsonl or .parquet file"
    if hub.HF_HUB_OFFLINE:
        raise ConnectionError(f"--corpus fineweb is not cached and HF_HUB_OFFLINE is set: {instead}")
    if not is_reachable(hub.ENDPOINT):
        raise ConnectionError(f"--corpus fineweb is not cached and {hub.ENDPOINT} is out of reach: {instead}")
    try:
        stream = load_dataset(REPOSITORY, name=SUBSET, split="train", streaming=True)
        rows = ((f"row {number}", row["text"]) for number, row in enumerate(stream, start=1))
        texts = itertools.islice(joined(formats.rows(rows, REPOSITORY, "text")), num_documents)
        schema = pa.schema([("text", pa.string())])
        with (
            progress_bar("downloading fineweb", total=num_documents, unit="document") as bar,
            pq.ParquetWriter(path, schema) as writer,
        ):
            while batch := list(itertools.islice(texts, _ROWS)):
                writer.write_table(pa.table({"text": batch}, schema))
                bar.update(len(batch))
        # A stream that is left half read aborts the interpreter at its end, before datasets 5.
        # https://github.com/huggingface/datasets/issues/7467
        del stream, rows, texts
        gc.collect()
    except Exception as error:  # the Hub's client raises httpx, OSError and its own errors
        reason = textwrap.shorten(str(error) or type(error).__name__, 160, placeholder="...")
        raise ConnectionError(f"--corpus fineweb could not be downloaded ({reason}): {instead}") from error
