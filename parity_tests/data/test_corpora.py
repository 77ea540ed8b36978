"""Corpora: what tells one from another, and where they are kept."""

from pathlib import Path

from datasets import Dataset

from jaxloss.data import default_cache_dir, load_corpus
from jaxloss.data.corpora import Corpus


def test_the_default_corpus_is_a_dataset_of_text(session_cache):
    corpus = load_corpus("python-docs", cache_dir=session_cache)
    assert isinstance(corpus, Dataset)
    assert corpus.column_names == ["text"]


def test_the_identity_follows_the_contents_and_not_the_path(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("same")
    first = Corpus(tmp_path / "a.txt").identity()
    assert Corpus(tmp_path / "b.txt").identity() == first
    assert Corpus(tmp_path / "a.txt", num_documents=1).identity() != first
    (tmp_path / "a.txt").write_text("else")
    assert Corpus(tmp_path / "a.txt").identity() != first


def test_every_corpus_has_an_identity_of_its_own():
    datasets = [Dataset.from_dict({"text": texts}) for texts in (["ab"], ["a", "b"], ["ba"])]
    corpora = [Corpus("python-docs"), Corpus("fineweb"), Corpus("fineweb", 7), *map(Corpus, datasets)]
    identities = [str(corpus.identity()) for corpus in corpora]
    assert len(set(identities)) == len(corpora)
    assert Corpus("fineweb", 1000).identity() == Corpus("fineweb").identity()


def test_the_default_cache_folder_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "jaxloss"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == Path.home() / ".cache" / "jaxloss"
