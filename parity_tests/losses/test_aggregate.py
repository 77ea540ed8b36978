"""What the mean divides by: torch's numbers, masked tokens, and parts of a batch that make up the whole."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jaxloss
import torch_ref.losses
from jaxloss.losses import accumulated_value_and_grad, aggregate
from parity_tests.compare import assert_same, assert_within
from parity_tests.losses.promises import (
    EACH_REDUCTION,
    assert_half_precision_is_rounded_once,
    assert_matches_torch,
    assert_transforms,
)
from parity_tests.quick_compilation import jit
from parity_tests.tolerances import GRADIENT_EPS_OF_MAX, VALUE_EPS_OF_MAX

rng = np.random.default_rng(0)
MODES = {
    "token-mean": {},
    "seq-mean-token-mean": {},
    "seq-mean-token-sum": {},
    "seq-mean-token-sum-norm": {"max_length": 11},
}
OPTIONS = [{"mode": mode} | options for mode, options in MODES.items()]
LENGTHS = np.array([7, 1, 0, 3, 7, 0, 2, 5])  # tokens of 8 rows, two of which have none
MASK = np.arange(7) < LENGTHS[:, None]
# One, two or three sequences a row, some without a token, and an id that comes back in another row.
IDS = np.sort(rng.integers(0, 3, (8, 7)), axis=1)[:, ::-1].copy()
LOSS = rng.standard_normal((8, 7))
BATCH = {"x": rng.standard_normal((8, 7, 4)), "mask": MASK, "ids": IDS}
WEIGHT = rng.standard_normal(4)


@pytest.mark.parametrize("packed", [False, True])
def test_matches_torch(packed):
    arrays = {"loss": LOSS, "where": MASK} | ({"segment_ids": IDS} if packed else {})
    cases = [options | reduction for options in OPTIONS for reduction in EACH_REDUCTION]
    cases += [options | {"denominator": 5} for options in OPTIONS]
    assert_matches_torch(aggregate, torch_ref.losses.aggregate, arrays, cases, wrt=["loss"])


@partial(jit, static_argnames="reduction")
def of_each_mode(loss, where, segment_ids=None, **options):
    return [aggregate(loss, where, segment_ids=segment_ids, **each, **options) for each in OPTIONS]


def test_masked_tokens_change_nothing_whatever_they_hold():
    @jit
    def values_and_gradients(losses):
        of_tokens = [partial(aggregate, where=MASK, segment_ids=IDS, **options) for options in OPTIONS]
        return [jax.vmap(jax.value_and_grad(loss))(losses) for loss in of_tokens]

    held = [0.0, np.inf, -np.inf, np.nan, 1e300]
    for values, gradients in values_and_gradients(np.stack([np.where(MASK, LOSS, x) for x in held])):
        for value, gradient in zip(values, gradients, strict=True):
            assert_same(value, values[0])
            assert_same(gradient, gradients[0])
        assert np.isfinite(values[0])
        assert np.any(gradients[0][MASK])
        assert not np.any(gradients[0][~MASK])


def test_sequences_without_a_token_count_neither_above_nor_below():
    found = of_each_mode(LOSS, MASK)
    deleted = of_each_mode(LOSS[LENGTHS > 0], MASK[LENGTHS > 0])
    # As TRL and Liger-Kernel count them.
    all_rows = of_each_mode(LOSS, MASK, denominator=8)
    for value, other, counted in zip(found[1:], deleted[1:], all_rows[1:], strict=True):
        assert_within(other, value, VALUE_EPS_OF_MAX)
        assert_within(counted, value * 6 / 8, VALUE_EPS_OF_MAX)


def test_nothing_has_no_mean_but_adds_nothing():
    for size, ids in ((7, None), (0, np.zeros((2, 0), int))):
        parts = of_each_mode(np.ones((2, size)), np.zeros((2, size), bool), ids, reduction="parts")
        assert [[float(part) for part in pair] for pair in parts] == [[0, 0]] * 4
    assert np.isnan(of_each_mode(np.ones((2, 7)), np.zeros((2, 7), bool))).all()


def test_packed_sequences_are_those_of_a_row_each():
    lengths = [3, 1, 4, 2]
    ids, mask = np.repeat(range(4), lengths), rng.random(10) < 0.7
    rows, masks = np.zeros((4, 4)), np.zeros((4, 4), bool)
    loss = rng.standard_normal(10)
    for i in range(4):
        rows[i, : lengths[i]], masks[i, : lengths[i]] = loss[ids == i], mask[ids == i]
    assert_within(of_each_mode(loss, mask, ids), of_each_mode(rows, masks), VALUE_EPS_OF_MAX)


def of_batch(weight, x, mask, ids, **options):
    """The losses of tokens, which depend on a weight, as one number."""
    return aggregate(jnp.logaddexp(x @ weight, 0.0), mask, segment_ids=ids, **options)


def cut(ways):
    """Parts of the batch, of as many rows each; those that a part lacks are masked."""
    parts = np.array_split(np.arange(8), ways) if ways < 7 else [*np.arange(8)[:6, None], np.arange(0)]
    parts = [np.append(parts[0], [6, 7]), *parts[1:]] if ways == 7 else parts
    most = max(map(len, parts))

    def stack(array):
        empty = np.zeros((most, *array.shape[1:]), array.dtype)
        return np.stack([np.concatenate([array[rows], empty])[:most] for rows in parts])

    return tuple(stack(array) for array in BATCH.values())


@pytest.mark.parametrize("options", OPTIONS, ids=list(MODES))
def test_parts_of_a_ragged_batch_have_its_value_and_gradient(options):
    splits = [cut(ways) for ways in (1, 2, 3, 7)]
    assert not splits[-1][1][-1].any()
    _, whole_count = aggregate(LOSS, MASK, segment_ids=IDS, reduction="parts", **options)

    @jit
    def everything(weight, batch, splits):
        whole = jax.value_and_grad(of_batch)(weight, *batch, **options)
        in_parts = partial(of_batch, reduction="parts", **options)
        found = [accumulated_value_and_grad(in_parts, weight, parts) for parts in splits]
        # Each part's share, where the count of the whole is known before.
        share = jax.value_and_grad(partial(of_batch, denominator=whole_count, **options))
        given = jax.vmap(share, (None, 0, 0, 0))(weight, *splits[-1])
        return whole, [*found, jax.tree.map(lambda shares: jnp.sum(shares, 0), given)]

    (value, gradient), found = everything(WEIGHT, tuple(BATCH.values()), splits)
    for other_value, other_gradient in found:
        assert_within(other_value, value, 64, "float64")
        assert_within(other_gradient, gradient, 64, "float64")


@pytest.mark.parametrize("num_devices", [n for n in (1, 2, 4, 8) if n <= jax.device_count()])
def test_devices_share_a_ragged_batch(num_devices):
    devices = jax.devices()[:num_devices]
    mesh = jax.make_mesh((num_devices,), ("data",), axis_types=(AxisType.Auto,), devices=devices)

    @jit
    def everything(weight, batch):
        def mean(weight, options):
            @partial(jax.shard_map, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
            def summed(weight, batch):
                return lax.psum(of_batch(weight, *batch, reduction="parts", **options), "data")

            total, count = summed(weight, batch)
            return total / count

        alone = [jax.value_and_grad(of_batch)(weight, *batch, **options) for options in OPTIONS]
        return alone, [jax.value_and_grad(mean)(weight, options) for options in OPTIONS]

    for expected, found in zip(*everything(jnp.asarray(WEIGHT), tuple(BATCH.values())), strict=True):
        assert_within(found[0], expected[0], 64, "float64")
        assert_within(found[1], expected[1], 64, "float64")


def test_parts_match_torch():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor(WEIGHT))

    def of_model(model, x, mask, ids):
        losses = torch.nn.functional.softplus(x @ model.weight)
        return torch_ref.losses.aggregate(losses, mask, segment_ids=ids, mode=mode, reduction="parts")

    mode = "seq-mean-token-mean"
    value, gradients = torch_ref.losses.accumulated_value_and_grad(
        of_model, Model(), tuple(map(torch.tensor, cut(7)))
    )
    ours = accumulated_value_and_grad(partial(of_batch, mode=mode, reduction="parts"), WEIGHT, cut(7))
    assert_within(ours[0], value, VALUE_EPS_OF_MAX)
    assert_within(ours[1], gradients["weight"], GRADIENT_EPS_OF_MAX)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_parameters_have_the_gradient_of_wide_sums(dtype):
    def loss(w, x):
        return aggregate(w.astype(jnp.float32) * x, reduction="parts")

    # 400 parts of 400 tokens: of float16's 65,504 the sum leaves the range, of bfloat16's 256 it stops.
    parts = (jnp.ones((400, 1, 400), jnp.float32),)
    value, gradient = accumulated_value_and_grad(loss, jnp.ones((), dtype), parts)
    assert (value, gradient, gradient.dtype) == (1.0, 1.0, dtype)


def test_losses_that_return_a_scalar_are_averaged_over_the_parts():
    weight, parts = jnp.asarray(2.0), (np.array([1.0, 4.0]),)
    value, gradient = accumulated_value_and_grad(lambda w, x: w * x, weight, parts)
    assert (float(value), float(gradient)) == (5.0, 2.5)
    with pytest.raises(ValueError, match=r"loss must return \(sum, count\), or a scalar; got 3 values"):
        accumulated_value_and_grad(lambda w, x: (w, x, x), weight, parts)


def test_takes_the_tokens_of_other_losses():
    logits, labels = rng.standard_normal((8, 7, 5)), rng.integers(0, 5, (8, 7))
    hidden, head = rng.standard_normal((8, 7, 3)), rng.standard_normal((5, 3))
    logps = -rng.random((8, 7))
    calls = {
        jaxloss.cross_entropy: (logits, labels),
        jaxloss.linear_cross_entropy: (hidden, head, labels),
        jaxloss.clipped_policy_loss: (logps, logps - 0.1, LOSS),
    }

    @jit
    def everything(given):
        found = []
        for loss, arrays in zip(calls, given, strict=True):
            tokens = loss(*arrays, reduction="none", where=MASK)
            both = [aggregate(tokens, MASK, **options) for options in OPTIONS[:2]]
            found.append((tokens, loss(*arrays, where=MASK), *both))
        return found

    for tokens, mean, of_tokens, of_sequences in everything(list(calls.values())):
        assert_within(of_tokens, mean, VALUE_EPS_OF_MAX)
        by_row = np.asarray(tokens).sum(1)[LENGTHS > 0] / LENGTHS[LENGTHS > 0]
        assert_within(of_sequences, by_row.mean(), VALUE_EPS_OF_MAX)


def test_lengths_and_denominators_may_be_traced():
    options = {"mode": "seq-mean-token-sum-norm"}

    @jit
    def values(length, denominator):
        given = {"max_length": length, "denominator": denominator}
        return aggregate(LOSS, MASK, **options, **given), aggregate(LOSS, MASK, denominator=denominator)

    assert_within(values(11, 6)[0], aggregate(LOSS, MASK, **options, max_length=11), VALUE_EPS_OF_MAX)
    assert np.isnan(values(11, 0)).all()
    assert np.isnan(values(-1, 6)[0])


def test_transforms():
    assert_transforms(aggregate, LOSS, mode="seq-mean-token-mean", where=MASK, segment_ids=IDS)
    assert_half_precision_is_rounded_once(partial(aggregate, mode="seq-mean-token-mean", where=MASK), LOSS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "seq-mean-token-men"}, r"mode must be one of .* Did you mean 'seq-mean-token-mean'\?"),
        ({"mode": "seq_mean_token_sum"}, r"got 'seq_mean_token_sum'. Did you mean 'seq-mean-token-sum'\?"),
        ({"reduction": "part"}, r"reduction must be one of .* Did you mean 'parts'\?"),
        ({"where": MASK[:4]}, r"where must have shape \[8, 7\], that of loss; got bool\[4, 7\]"),
        ({"segment_ids": IDS[0]}, r"segment_ids must have shape \[8, 7\], that of loss; got int\d+\[7\]"),
        ({"mode": "seq-mean-token-sum-norm"}, "max_length must be given with mode="),
        ({"max_length": 7}, "max_length must be None without mode=.*; got mode='token-mean'"),
        ({"mode": "seq-mean-token-sum-norm", "max_length": 0}, r"max_length must be in \(0, inf\); got 0"),
        ({"denominator": 0}, r"denominator must be in \(0, inf\); got 0"),
        ({"denominator": 3, "reduction": "parts"}, "denominator must be None with reduction='parts'"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        aggregate(LOSS, **options)


def test_a_loss_that_is_reduced_already_is_refused():
    with pytest.raises(ValueError, match=r'loss must have an axis of tokens; got .* Use reduction="none"'):
        aggregate(jnp.zeros(()))
    with pytest.raises(TypeError, match="segment_ids must hold"):
        aggregate(LOSS, segment_ids=LOSS)
