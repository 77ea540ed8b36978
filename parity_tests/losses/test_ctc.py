"""ctc_loss against torch, below a log-softmax, where the two frameworks' gradients mean the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.testing._internal.common_methods_invocations import op_db

from jaxloss.losses import ctc_loss
from parity_tests.compare import assert_within, error_in_eps
from parity_tests.losses import oracle
from parity_tests.losses.promises import EACH_REDUCTION, assert_matches_torch, assert_transforms
from parity_tests.tolerances import (
    CTC_GRADIENT_EPS_OF_MAX,
    GRADIENT_EPS_OF_MAX,
    VALUE_EPS_OF_MAX,
)
from torch_ref.losses import ctc_loss as torch_ctc_loss

rng = np.random.default_rng(0)
LOGITS = rng.standard_normal((6, 5, 4))
# Repeats, no label at all, more labels than frames, and padding of any value.
TARGETS = np.array([[1, 1, 2], [3, 99, -7], [2, 3, 1], [0, 0, 0], [1, 2, 1]])
INPUT_LENGTHS, TARGET_LENGTHS = np.array([6, 5, 3, 4, 2]), np.array([3, 1, 3, 0, 3])
FEASIBLE = np.array([True, True, True, True, False])


def below_log_softmax(logits, targets, input_lengths, target_lengths, **options):
    return ctc_loss(jax.nn.log_softmax(logits), targets, input_lengths, target_lengths, **options)


def torch_below_log_softmax(logits, targets, input_lengths, target_lengths, **options):
    return torch_ctc_loss(logits.log_softmax(-1), targets, input_lengths, target_lengths, **options)


def arrays(rows):
    return {
        "logits": LOGITS[:, rows],
        "targets": np.clip(TARGETS[rows], 0, 3),
        "input_lengths": INPUT_LENGTHS[rows],
        "target_lengths": TARGET_LENGTHS[rows],
    }


@pytest.mark.parametrize("zero_infinity", [False, True])
def test_matches_torch(zero_infinity):
    rows = slice(None) if zero_infinity else FEASIBLE
    cases = [{"zero_infinity": zero_infinity} | each for each in EACH_REDUCTION]
    assert_matches_torch(below_log_softmax, torch_below_log_softmax, arrays(rows), cases, wrt=("logits",))


def test_all_labels_in_one_row_are_the_padded_ones():
    flat = np.concatenate([row[:length] for row, length in zip(TARGETS, TARGET_LENGTHS, strict=True)])
    log_probs = jax.nn.log_softmax(LOGITS)
    padded = ctc_loss(log_probs, TARGETS, INPUT_LENGTHS, TARGET_LENGTHS, reduction="none")
    lengths = jnp.asarray(TARGET_LENGTHS)
    assert_within(ctc_loss(log_probs, flat, INPUT_LENGTHS, lengths, reduction="none"), padded, 4)
    traced = jax.jit(lambda lengths: ctc_loss(log_probs, flat, INPUT_LENGTHS, lengths, reduction="none"))(
        lengths
    )
    assert_within(traced, padded, 4)


def test_one_sequence_needs_no_batch_axis():
    log_probs = jax.nn.log_softmax(LOGITS)
    one = ctc_loss(log_probs[:, 0], TARGETS[0], (6,), (3,), reduction="none")
    assert one.shape == ()
    assert_within(one, ctc_loss(log_probs[:, :1], TARGETS[:1], (6,), (3,), reduction="none")[0], 4)


def test_sum_over_all_alignments():
    """Every alignment of 4 frames, by brute force."""
    log_probs = np.asarray(jax.nn.log_softmax(LOGITS[:4, 0]))
    total = 0.0
    for path in np.ndindex(4, 4, 4, 4):
        merged = [c for i, c in enumerate(path) if (i == 0 or c != path[i - 1]) and c != 2]
        total += np.exp(log_probs[np.arange(4), path].sum()) if merged == [1, 1] else 0.0
    loss = ctc_loss(jnp.asarray(log_probs), jnp.array([1, 1]), (4,), (2,), blank=2, reduction="sum")
    assert_within(loss, -np.log(total), VALUE_EPS_OF_MAX)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradient_is_the_true_one_on_torchs_samples_where_torchs_own_is_not(dtype):
    (operator,) = (op for op in op_db if op.name == "nn.functional.ctc_loss")
    torch.manual_seed(0)
    torchs_errors = []
    for sample in operator.sample_inputs("cpu", getattr(torch, dtype)):
        targets, input_lengths, target_lengths = (torch.as_tensor(a) for a in sample.args)
        labels = targets[0, : target_lengths[0]].numpy()
        logits = sample.input[: input_lengths[0], 0].detach()
        value, gradient = _value_and_gradient(jnp.asarray(logits.numpy()), jnp.asarray(labels))
        expected, expected_gradient = oracle.ctc_loss(logits.numpy(), labels)
        assert_within(value, float(expected), VALUE_EPS_OF_MAX, dtype)
        assert_within(gradient, expected_gradient, GRADIENT_EPS_OF_MAX, dtype)

        logits.requires_grad_()
        lengths = [torch.tensor(len(logits)), torch.tensor(len(labels))]
        torch.nn.functional.ctc_loss(logits.log_softmax(-1), torch.as_tensor(labels), *lengths).backward()
        theirs = logits.grad * len(labels)  # torch's mean divides by the number of labels
        torchs_errors.append(error_in_eps(theirs, expected_gradient, dtype))
    assert GRADIENT_EPS_OF_MAX < max(torchs_errors) < CTC_GRADIENT_EPS_OF_MAX


@jax.jit
def _value_and_gradient(logits, labels):
    lengths = ((logits.shape[0],), (labels.size,))
    return jax.value_and_grad(lambda z: ctc_loss(jax.nn.log_softmax(z), labels, *lengths, reduction="sum"))(
        logits
    )


def test_a_long_sequence_keeps_its_accuracy():
    """A loss of hundreds of nats: rounded as a whole in every frame, its gradient would be 325 eps off."""
    random = np.random.default_rng(3)
    logits, labels = random.standard_normal((400, 8)).astype(np.float32), random.integers(1, 8, 40)
    value, gradient = _value_and_gradient(jnp.asarray(logits), jnp.asarray(labels))
    expected, expected_gradient = oracle.ctc_loss(logits, labels)
    assert_within(value, float(expected), VALUE_EPS_OF_MAX, "float32")
    assert_within(gradient, expected_gradient, GRADIENT_EPS_OF_MAX, "float32")


def test_infeasible_sequence_is_infinite_with_a_zero_gradient():
    log_probs = jax.nn.log_softmax(LOGITS[:, 4:])
    for zero_infinity, expected in ((False, np.inf), (True, 0.0)):
        value, gradient = jax.value_and_grad(
            lambda x, z=zero_infinity: ctc_loss(x, TARGETS[4:], (2,), (3,), zero_infinity=z, reduction="sum")
        )(log_probs)
        assert value == expected
        assert (gradient == 0).all()


@pytest.mark.parametrize(
    "change",
    [
        {"targets": np.array([[1, 4]])},
        {"input_lengths": (7,)},
        {"target_lengths": (3,)},
        {"targets": np.array([[-1, 1]])},
    ],
)
def test_labels_and_lengths_out_of_range_poison(change):
    good = {"targets": np.array([[1, 2]]), "input_lengths": (6,), "target_lengths": (2,)}
    value, gradient = jax.value_and_grad(lambda x: ctc_loss(x, **(good | change)))(jnp.asarray(LOGITS[:, :1]))
    assert jnp.isnan(value)
    assert jnp.isnan(gradient).any()


def test_lengths_that_do_not_split_the_row_of_labels_poison():
    log_probs, labels = jax.nn.log_softmax(LOGITS[:, :2]), jnp.array([1, 2, 3])

    @jax.jit
    def run(lengths):
        return ctc_loss(log_probs, labels, (6, 6), lengths, reduction="none")

    assert jnp.isfinite(run(jnp.array([1, 2]))).all()
    # Too many, too few, less than none, and a sum that wraps round to 3 in int32.
    for lengths in ([2, 2], [1, 1], [-1, 4], [2**31 - 1, 2**31 - 1]):
        assert jnp.isnan(run(jnp.array(lengths, jnp.int32))).all(), lengths
    assert jnp.isnan(ctc_loss(log_probs, labels, (6, 6), jnp.array([-1, 4]), reduction="none")).all()


def test_where_equals_deletion_and_keeps_nan_out():
    where = np.array([True, False, True, True, False])
    poisoned = np.where(where[:, None], np.asarray(jax.nn.log_softmax(LOGITS)), np.nan)
    rows = {"targets": torch.tensor(TARGETS), "input_lengths": torch.tensor(INPUT_LENGTHS)}
    for reduction in ("mean", "sum", "none"):
        ours = ctc_loss(poisoned, TARGETS, INPUT_LENGTHS, TARGET_LENGTHS, reduction=reduction, where=where)
        theirs = torch_ctc_loss(
            torch.tensor(LOGITS).log_softmax(-1),
            **rows,
            target_lengths=torch.tensor(TARGET_LENGTHS),
            reduction=reduction,
            where=torch.tensor(where),
        )
        assert_within(ours, theirs, VALUE_EPS_OF_MAX)


def test_transforms():
    def loss(logits, targets):
        return ctc_loss(jax.nn.log_softmax(logits, 0).T[:, None], targets[None], (6,), (2,))

    assert_transforms(loss, LOGITS[:, 0].T, np.array([1, 3]))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"log_probs": np.zeros(3)}, ValueError, r"log_probs must have shape \[T, N, C\]"),
        ({"targets": np.zeros((1, 2), int)}, ValueError, r"targets must have shape \[2, S\]"),
        ({"targets": np.zeros((2, 2))}, TypeError, "targets must hold class indices"),
        ({"targets": np.zeros(5, int)}, ValueError, "targets must hold the sum of target_lengths, 4 labels"),
        ({"input_lengths": (4,)}, ValueError, "input_lengths must hold one length for each of 2 sequences"),
        ({"blank": 3}, ValueError, r"blank must be in \[0, 3\)"),
        ({"zero_infinity": 1}, TypeError, "zero_infinity must be True or False"),
        ({"reduction": "avg"}, ValueError, "reduction must be one of"),
    ],
)
def test_bad_input_is_named_at_trace_time(change, error, message):
    good = {
        "log_probs": np.zeros((4, 2, 3)),
        "targets": np.ones((2, 2), int),
        "input_lengths": (4, 4),
        "target_lengths": (2, 2),
    }
    with pytest.raises(error, match=message):
        ctc_loss(**(good | change))
