"""Crops: targets follow inputs, every crop is as likely, (seed, step) decides, and little is read."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxloss.data import check_tokens, eval_crops, sample_batch
from jaxloss.data.shards import TokenShards

seeded = settings(derandomize=True, deadline=None, max_examples=50)


@seeded
@given(
    st.integers(1, 8), st.integers(1, 12), st.integers(0, 30), st.integers(0, 2**64 - 1), st.integers(0, 99)
)
def test_batches_are_crops_and_targets_are_shifted_by_one(batch_size, context_length, extra, seed, step):
    tokens = np.arange(context_length + 1 + extra, dtype=np.uint16)
    inputs, targets = sample_batch(
        tokens, batch_size=batch_size, context_length=context_length, seed=seed, step=step
    )
    assert inputs.shape == targets.shape == (batch_size, context_length)
    assert inputs.dtype == targets.dtype == np.int32
    np.testing.assert_array_equal(inputs, inputs[:, :1] + np.arange(context_length))
    np.testing.assert_array_equal(targets, inputs + 1)
    assert inputs.min() >= 0
    assert targets.max() <= tokens[-1]


def test_batches_are_uniform_over_all_crops_with_the_first_and_the_last():
    tokens, draws = np.arange(20, dtype=np.uint16), 17 * 1000
    starts = [
        sample_batch(tokens, batch_size=1000, context_length=3, seed=5, step=s)[0][:, 0] for s in range(17)
    ]
    counts = np.bincount(np.concatenate(starts), minlength=17)
    assert counts.sum() == draws
    assert len(counts) == 17
    chi_squared = ((counts - 1000) ** 2 / 1000).sum()
    # 16 degrees of freedom: 99.9 % of uniform samples lie below 39.3.
    assert chi_squared < 39.3


def test_the_same_seed_and_step_give_the_same_batch_and_others_another():
    tokens = np.arange(100_000, dtype=np.uint32)

    def batch(seed, step):
        return sample_batch(tokens, batch_size=4, context_length=8, seed=seed, step=step)[0].tolist()

    assert batch(3, 1000) == batch(3, 1000)
    others = [batch(3, 1001), batch(4, 1000), batch(1000, 3), batch(3 + 2**32, 1000), batch(3, 1000 + 2**32)]
    assert all(other != batch(3, 1000) for other in others)


def test_the_stream_of_batches_never_changes():
    inputs, _ = sample_batch(np.arange(1000), batch_size=8, context_length=1, seed=1, step=2)
    assert inputs[:, 0].tolist() == [64, 610, 468, 65, 280, 211, 237, 264]


def test_only_the_crops_of_a_huge_file_are_read(tmp_path):
    length = 2**32
    tokens = np.lib.format.open_memmap(tmp_path / "t.npy", mode="w+", dtype=np.uint16, shape=(length,))
    tokens[-1] = 7
    tracemalloc.start()
    for step in range(3):
        sample_batch(tokens, batch_size=64, context_length=256, seed=0, step=step)
    _, targets = eval_crops(tokens, num_crops=5, context_length=256)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
    assert targets[-1, -1] == 7


@seeded
@given(st.integers(1, 10), st.integers(1, 20), st.integers(0, 50))
def test_eval_crops_spread_from_the_first_crop_to_the_last(num_crops, context_length, extra):
    tokens = np.arange(context_length + num_crops + extra)
    inputs, targets = eval_crops(tokens, num_crops=num_crops, context_length=context_length)
    assert inputs.dtype == targets.dtype == np.int32
    assert inputs.shape == (num_crops, context_length)
    np.testing.assert_array_equal(targets, inputs + 1)
    gaps = np.diff(inputs[:, 0])
    assert inputs[0, 0] == 0
    assert num_crops == 1 or targets[-1, -1] == tokens[-1]
    assert num_crops == 1 or gaps.min() >= 1
    assert num_crops == 1 or gaps.max() - gaps.min() <= 1


def test_too_few_tokens_are_counted_in_the_error():
    with pytest.raises(ValueError, match="needs at least 257 tokens, has 12"):
        sample_batch(np.arange(12), batch_size=1, context_length=256, seed=0, step=0)
    with pytest.raises(ValueError, match="needs at least 257 tokens, has 256"):
        eval_crops(np.arange(256), num_crops=1, context_length=256)
    with pytest.raises(
        ValueError, match="num_crops=4, but 12 tokens hold only 3 different crops of 10 tokens"
    ):
        eval_crops(np.arange(12), num_crops=4, context_length=9)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1; got 0"),
        ({"batch_size": 2.0}, TypeError, r"batch_size must be an int; got 2\.0"),
        ({"context_length": 0}, ValueError, "context_length must be at least 1; got 0"),
        ({"context_length": True}, TypeError, "context_length must be an int; got True"),
        ({"seed": -1}, ValueError, r"seed must be in \[0, 18446744073709551615\]; got -1"),
        ({"step": 2**64}, ValueError, r"step must be in \[0, 18446744073709551615\]"),
        ({"tokens": np.zeros(9)}, TypeError, "tokens must hold integers; got float64"),
        (
            {"tokens": np.zeros((3, 9), int)},
            ValueError,
            r"tokens must have one dimension; got shape \(3, 9\)",
        ),
        ({"tokens": [1, 2, 3]}, TypeError, "tokens must be a NumPy array; got list"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    arguments = {"tokens": np.arange(9), "batch_size": 1, "context_length": 2, "seed": 0, "step": 0} | change
    with pytest.raises(error, match=message):
        sample_batch(arguments.pop("tokens"), **arguments)


@pytest.mark.parametrize(
    ("dtype", "token"), [(np.int64, -(2**32) + 1), (np.uint32, 2**31), (np.uint64, 2**63)]
)
def test_tokens_beyond_int32_are_refused_with_their_position_and_not_wrapped(dtype, token):
    tokens = np.arange(9, dtype=dtype)
    tokens[6] = token
    message = rf"tokens must fit in int32; got {token} at position 6"
    with pytest.raises(ValueError, match=message):
        sample_batch(tokens, batch_size=1, context_length=8, seed=0, step=0)
    with pytest.raises(ValueError, match=message):
        eval_crops(tokens, num_crops=2, context_length=3)
    assert eval_crops(tokens, num_crops=1, context_length=3)[1].tolist() == [[1, 2, 3]]


def test_tokens_outside_the_vocabulary_are_refused_with_their_position():
    check_tokens(np.array([0, 7, 3], dtype=np.uint16), 8)
    check_tokens(np.array([], dtype=np.int32), 8)
    with pytest.raises(ValueError, match=r"from 0 to 7 \(vocab_size=8\); got 8 at position 2"):
        check_tokens(np.array([0, 7, 8, 9]), 8)
    with pytest.raises(ValueError, match="got -1 at position 0"):
        check_tokens(np.array([-1, 3]), 8)
    with pytest.raises(TypeError, match="must hold integers"):
        check_tokens(np.array([0.5]), 8)


def test_tokens_in_shards_are_checked_where_they_lie_in_the_stream():
    shards = TokenShards([np.array([1, 2]), np.array([3, 9])])
    check_tokens(shards, 10)
    with pytest.raises(ValueError, match="got 9 at position 3"):
        check_tokens(shards, 8)
