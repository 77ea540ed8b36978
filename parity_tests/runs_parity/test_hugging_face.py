"""Greedy text is transformers' text, token for token."""

import numpy as np

from parity_tests.report.hugging_face import NUM_TOKENS, greedy_texts


def test_greedy_text_is_that_of_transformers_token_for_token():
    ours, theirs = greedy_texts()
    assert ours.shape == (4, NUM_TOKENS)
    np.testing.assert_array_equal(ours, theirs)
    # Not the same token over and over, which any model would agree on.
    assert min(len(np.unique(row)) for row in ours) >= 4
