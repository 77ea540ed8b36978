"""FineWeb: web text of many topics and styles, the heterogeneous corpus.

Reference: Penedo et al., "The FineWeb Datasets: Decanting the Web for the Finest Text Data at Scale" (2024),
https://huggingface.co/datasets/HuggingFaceFW/fineweb
"""

from __future__ import annotations

import gc
import itertools
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from jaxloss.data.cache import cached_dataset
from jaxloss.data.files import cleaned
from jaxloss.data.network import is_reachable
from jaxloss.data.progress import progress_bar

if TYPE_CHECKING:
    from datasets import Dataset

REPOSITORY = "HuggingFaceFW/fineweb"
SUBSET = "sample-10BT"


def load(cache_dir: Path, *, num_documents: int) -> Dataset:
    """Return the first documents of `sample-10BT`, from the cache or streamed from the Hugging Face Hub.

    Raises:
        ConnectionError: if they are not cached and the Hub is out of reach or `HF_HUB_OFFLINE` is set.
    """
    path = cache_dir / "corpora" / f"fineweb-{SUBSET}-{num_documents}.parquet"
    return cached_dataset(path, lambda: _download(num_documents))


def _download(num_documents: int) -> Dataset:
    import huggingface_hub.constants as hub
    from datasets import Dataset, load_dataset

    instead = "use --corpus python-docs or --corpus with a .txt, .jsonl or .parquet file"
    if hub.HF_HUB_OFFLINE:
        raise ConnectionError(f"--corpus fineweb is not cached and HF_HUB_OFFLINE is set: {instead}")
    if not is_reachable(hub.ENDPOINT):
        raise ConnectionError(f"--corpus fineweb is not cached and {hub.ENDPOINT} is out of reach: {instead}")
    try:
        stream = load_dataset(REPOSITORY, name=SUBSET, split="train", streaming=True)
        rows = ((f"row {number}", row["text"]) for number, row in enumerate(stream, start=1))
        texts = []
        with progress_bar("downloading fineweb", total=num_documents, unit="document") as bar:
            for text in itertools.islice(cleaned(rows, REPOSITORY, "text"), num_documents):
                texts.append(text)
                bar.update()
        # A stream that is left half read aborts the interpreter at its end, before datasets 5.
        # https://github.com/huggingface/datasets/issues/7467
        del stream, rows
        gc.collect()
    except Exception as error:  # the Hub's client raises httpx, OSError and its own errors
        reason = textwrap.shorten(str(error) or type(error).__name__, 160, placeholder="...")
        raise ConnectionError(f"--corpus fineweb could not be downloaded ({reason}): {instead}") from error
    return Dataset.from_dict({"text": texts})
