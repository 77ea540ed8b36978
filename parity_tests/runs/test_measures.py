"""Smoothing, fluctuation, speed, and the measures of text, against values worked out by hand."""

import numpy as np
import pytest

from jaxloss.data import make_tokenizer
from jaxloss.runs.comparison import first_step_below, fluctuation
from jaxloss.runs.plots import smooth
from jaxloss.runs.tables import format_table
from jaxloss.runs.text import decode_known, measure_text, wrap


def test_smooth_keeps_length_and_a_constant():
    np.testing.assert_allclose(smooth([3.0] * 7, 4), [3.0] * 7, rtol=1e-15)
    np.testing.assert_allclose(smooth([1.0, 2.0, 3.0], 3), [1.5, 2.0, 2.5], rtol=1e-15)
    assert len(smooth([1.0, 2.0], 40)) == 2


@pytest.mark.parametrize("trend", [0.0, 2.0])
def test_fluctuation_is_the_noise_without_the_trend(trend):
    noise = np.random.default_rng(0).normal(scale=0.3, size=20000)
    assert fluctuation(noise + trend * np.linspace(0, 1, 20000), 40) == pytest.approx(0.3, rel=0.02)


def test_fluctuation_of_too_few_values_is_unknown():
    assert np.isnan(fluctuation([1.0, 2.0], 40))


@pytest.mark.parametrize(
    ("threshold", "step"), [(9.0, 0.0), (8.0, 0.0), (7.0, 40.0), (6.0, 80.0), (5.5, 120.0), (4.0, None)]
)
def test_first_step_below_reads_between_points(threshold, step):
    assert first_step_below([0, 80, 160], [8.0, 6.0, 5.0], threshold) == step


VOCABULARY = [" the", " cat", "s", "\n", "x"]


def decode(ids):
    return "".join(VOCABULARY[i] for i in ids)


def test_measure_text():
    ids = np.array([[0, 1, 2, 3, 4], [0, 1, 0, 1, 0]])
    measured = measure_text(decode, ids)
    # Nine of ten tokens but "s" and "x" begin with white space; words: the cats x the cat the cat the.
    assert measured["tokens_with_space"] == pytest.approx(0.8)
    assert measured["word_length"] == pytest.approx((3 + 4 + 1 + 5 * 3) / 8)
    assert measured["repeated_ngrams"] == 0.0


def test_repeated_ngrams_counts_every_return():
    assert measure_text(decode, np.array([[0, 1, 2, 4] * 3]))["repeated_ngrams"] == pytest.approx(5 / 9)


def test_wrap_folds_keeps_line_breaks_and_shows_no_control_characters():
    shown = wrap("word " * 40 + "\n\n\x1b[31mred\t.", width=30)
    assert max(map(len, shown.splitlines())) <= 30
    assert "\x1b" not in shown
    assert shown.splitlines()[-2:] == ["", "   [31mred ."]


def test_table_is_aligned():
    lines = format_table(["", "a", "longer"], [["row", 1, 2.5], ["a longer row", 10, 3]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1] == "| :----------- | --: | -----: |"


def test_ids_of_a_padded_vocabulary_are_no_text():
    assert decode_known(make_tokenizer("bytes"), np.array([104, 300, 105])) == "hi"
