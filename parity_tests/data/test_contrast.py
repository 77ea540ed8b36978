"""A book against web text: as many tokens, one tokenizer."""

import numpy as np
import pytest

from jaxloss.data.contrast import prepare_book_and_web

SENTENCE = "The quick brown fox jumps over the lazy dog and runs away. "


@pytest.fixture
def files(tmp_path):
    book, web = tmp_path / "book.txt", tmp_path / "web.jsonl"
    book.write_text("\n\n".join(f"{i} {SENTENCE * 4}" for i in range(40)))
    web.write_text("".join(f'{{"text": "{i} of many: {SENTENCE * 5}"}}\n' for i in range(200)))
    return str(book), str(web)


def test_the_short_web_text_trains_on_as_many_tokens_as_the_book(files):
    streams, tokenizer = prepare_book_and_web(*files, vocab_size=300)
    book, short, long = streams.values()
    assert len(book.train) == len(short.train) < len(long.train)
    assert book.num_documents == 1 < short.num_documents < long.num_documents
    np.testing.assert_array_equal(short.train, long.train[: len(short.train)])
    assert tokenizer.decode(book.train[:20].tolist()).startswith("0 The quick brown")
    assert (short.train == tokenizer.end_of_text).sum() >= 5


def test_a_web_text_shorter_than_the_book_is_refused(files, tmp_path):
    short = tmp_path / "short.txt"
    short.write_text(SENTENCE)
    with pytest.raises(ValueError, match="the web text must be at least as long as the book"):
        prepare_book_and_web(files[0], str(short))
