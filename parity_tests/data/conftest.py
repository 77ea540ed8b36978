"""Fixtures of the data tests: the shared sample files, if they are there, and the embedded corpus."""

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.fixture
def shared_data() -> Path:
    """Return the folder of sample data beside the repository; skip where there is none."""
    if not SHARED.is_dir():
        pytest.skip(f"no sample data at {SHARED}")
    return SHARED


@pytest.fixture
def gpt2_files(shared_data, monkeypatch) -> None:
    """Let tiktoken find GPT-2's files; skip where they are absent."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared_data / "tiktoken"))


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory) -> Path:
    """Return one cache folder for all tests and all workers of pytest-xdist: extraction takes seconds."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "jaxloss-cache"
