"""FineWeb: cached once, and an immediate plain word when it is out of reach."""

import huggingface_hub.constants
import pytest
from datasets import Dataset

from jaxloss.data import fineweb, load_corpus, prepare_tokens


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(fineweb, "is_reachable", lambda url: False)
    monkeypatch.setattr("datasets.load_dataset", lambda *a, **k: pytest.fail("tried to download"))


@pytest.fixture
def online(monkeypatch):
    """Serve three documents in place of the Hub and return what was asked of it."""
    asked = []

    def load_dataset(path, **options):
        asked.append((path, options))
        return Dataset.from_dict(
            {"text": ["one " * 200, "two " * 200, "three " * 200], "url": ["a", "b", "c"]}
        )

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(fineweb, "is_reachable", lambda url: True)
    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    return asked


def test_offline_it_says_so_without_trying_and_names_the_way_out(offline, tmp_path):
    with pytest.raises(
        ConnectionError, match=r"out of reach: use --corpus python-docs or --corpus with a \.txt"
    ) as caught:
        prepare_tokens("fineweb", tokenizer="bytes", cache_dir=tmp_path)
    assert "\n" not in str(caught.value)
    assert huggingface_hub.constants.ENDPOINT in str(caught.value)


def test_the_hubs_own_offline_switch_is_honoured(online, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE is set: use --corpus"):
        load_corpus("fineweb", cache_dir=tmp_path)
    assert online == []


def test_the_first_documents_are_streamed_once_and_then_cached(online, tmp_path, monkeypatch):
    first = load_corpus("fineweb", num_documents=2, cache_dir=tmp_path)
    assert first["text"][:] == ["one " * 200, "two " * 200]
    assert online == [("HuggingFaceFW/fineweb", {"name": "sample-10BT", "split": "train", "streaming": True})]
    monkeypatch.setattr(fineweb, "is_reachable", lambda url: False)
    again = load_corpus("fineweb", num_documents=2, cache_dir=tmp_path)
    assert again["text"][:] == first["text"][:]
    assert again.column_names == ["text"]


def test_tokens_of_a_downloaded_corpus_need_no_network(online, tmp_path, monkeypatch):
    first = prepare_tokens("fineweb", tokenizer="bytes", num_documents=3, cache_dir=tmp_path)
    monkeypatch.setattr("datasets.load_dataset", lambda *a, **k: pytest.fail("downloaded again"))
    monkeypatch.setattr(fineweb, "load", lambda *a, **k: pytest.fail("loaded again"))
    assert (
        prepare_tokens("fineweb", tokenizer="bytes", num_documents=3, cache_dir=tmp_path).folder
        == first.folder
    )


def test_a_broken_download_is_one_line(online, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("503 Service Unavailable\nmore\nlines")

    monkeypatch.setattr("datasets.load_dataset", fail)
    with pytest.raises(
        ConnectionError, match=r"could not be downloaded \(503 Service Unavailable more lines\): use"
    ):
        load_corpus("fineweb", cache_dir=tmp_path)
    assert list(tmp_path.rglob("*.parquet")) == []
