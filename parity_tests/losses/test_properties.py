"""What holds for every input: properties of the losses, on drawn inputs of a few fixed shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxloss import losses
from parity_tests.compare import assert_within

N, C = 6, 5
EPS = 64.0
few = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
)
seeds = st.integers(0, 2**32 - 1)
scales = st.sampled_from([0.02, 1.0, 30.0])


def draw(seed: int, scale: float):
    random = np.random.default_rng(seed)
    return jnp.asarray(random.standard_normal((N, C)) * scale), jnp.asarray(random.integers(0, C, N)), random


@jax.jit
def rows(logits, labels):
    return losses.cross_entropy(logits, labels, reduction="none")


@jax.jit
def gradient(logits, labels):
    return jax.grad(lambda z: losses.cross_entropy(z, labels, reduction="sum"))(logits)


@jax.jit
def divergence(log_q, p):
    return losses.kl_div(log_q, p, "batchmean")


@few
@given(seeds, scales, st.sampled_from([-64.0, 1.0, 1024.0]))
def test_shifting_all_logits_changes_nothing(seed, scale, shift):
    logits, labels, _ = draw(seed, scale)
    # On a grid, so that the shift itself rounds nothing away.
    logits = jnp.round(logits * 2**20) / 2**20
    assert_within(rows(logits + shift, labels), rows(logits, labels), EPS)


@few
@given(seeds, scales)
def test_renaming_the_classes_changes_nothing(seed, scale):
    logits, labels, random = draw(seed, scale)
    order = random.permutation(C)
    assert_within(rows(logits[:, order], jnp.asarray(np.argsort(order))[labels]), rows(logits, labels), EPS)


@few
@given(seeds, scales)
def test_loss_is_positive_and_its_gradient_sums_to_zero_over_the_classes(seed, scale):
    logits, labels, _ = draw(seed, scale)
    assert (rows(logits, labels) >= 0).all()
    assert_within(gradient(logits, labels).sum(1), np.zeros(N), EPS, scale=1.0)


@few
@given(seeds, scales)
def test_forward_mode_is_reverse_mode_transposed(seed, scale):
    logits, labels, random = draw(seed, scale)
    direction = jnp.asarray(random.standard_normal((N, C)))
    forward = tangent(logits, labels, direction)
    product = gradient(logits, labels) * direction
    assert_within(forward.sum(), product.sum(), EPS, scale=float(jnp.abs(product).sum()) or 1.0)


@jax.jit
def tangent(logits, labels, direction):
    return jax.jvp(lambda z: losses.cross_entropy(z, labels, reduction="none"), (logits,), (direction,))[1]


@few
@given(seeds, scales)
def test_smoothing_interpolates_between_the_label_and_the_uniform_distribution(seed, scale):
    logits, labels, _ = draw(seed, scale)
    ends = [smoothed[epsilon](logits, labels) for epsilon in (0.0, 1.0)]
    assert_within(smoothed[0.25](logits, labels), 0.75 * ends[0] + 0.25 * ends[1], EPS)


smoothed = {
    epsilon: jax.jit(lambda z, t, e=epsilon: losses.cross_entropy(z, t, label_smoothing=e, reduction="none"))
    for epsilon in (0.0, 0.25, 1.0)
}


@few
@given(seeds, scales)
def test_divergence_is_never_negative_and_zero_only_of_itself(seed, scale):
    logits, _, random = draw(seed, scale)
    other = logits + jnp.asarray(random.standard_normal((N, C)))
    log_q, p = jax.nn.log_softmax(logits), jax.nn.softmax(other)
    assert divergence(log_q, p) > 0
    assert abs(divergence(jax.nn.log_softmax(other), p)) < 1e-14


@few
@given(seeds, st.integers(0, 2**N - 1), st.sampled_from(["cross_entropy", "nll_loss", "multi_margin_loss"]))
def test_mean_is_the_sum_over_the_rows_that_take_part(seed, bits, name):
    logits, labels, _ = draw(seed, 1.0)
    where = jnp.asarray([bool(bits >> i & 1) for i in range(N)])
    none, total, mean = reductions[name](logits, labels, where)
    assert_within(total, none.sum(), EPS, scale=float(jnp.abs(none).sum()) or 1.0)
    assert (none[~where] == 0).all()
    if bits:
        assert_within(mean * bits.bit_count(), total, EPS, scale=float(jnp.abs(none).sum()) or 1.0)
    else:
        assert jnp.isnan(mean)


def all_reductions(name):
    loss = getattr(losses, name)
    return jax.jit(lambda z, t, w: [loss(z, t, where=w, reduction=r) for r in ("none", "sum", "mean")])


reductions = {name: all_reductions(name) for name in ("cross_entropy", "nll_loss", "multi_margin_loss")}


@few
@given(seeds, scales)
def test_mapping_over_rows_is_a_loop_over_them(seed, scale):
    logits, labels, random = draw(seed, scale)
    # Some rows ignored, and lists of labels that end at different places.
    labels = jnp.where(jnp.asarray(random.integers(0, 4, N)) == 0, -100, labels)
    arrays = (logits, labels, jnp.asarray(random.integers(-1, C, (N, C))))
    together = one_by_one["mapped"](*arrays)
    for i in range(N):
        alone = one_by_one["single"](*(np.asarray(array)[i] for array in arrays))
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            assert_within(a[i], b, EPS)


def several(logits, labels, lists):
    """Value and gradient of losses that gather, loop, and select."""
    cases = (
        lambda z: losses.cross_entropy(z, labels, label_smoothing=0.1, reduction="sum"),
        lambda z: losses.focal_loss(z, labels, reduction="sum"),
        lambda z: losses.multi_margin_loss(z, jnp.maximum(labels, 0), reduction="sum"),
        lambda z: losses.multilabel_margin_loss(z, lists, reduction="sum"),
    )
    return [jax.value_and_grad(case)(logits) for case in cases]


one_by_one = {"mapped": jax.jit(jax.vmap(several)), "single": jax.jit(several)}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (losses.smooth_l1_loss, losses.huber_loss),
        (lambda x, y: losses.huber_loss(x, y, delta=1e6), lambda x, y: losses.mse_loss(x, y) / 2),
        (lambda x, y: losses.smooth_l1_loss(x, y, beta=0.0), losses.l1_loss),
    ],
)
def test_regression_losses_meet_at_their_limits(first, second):
    random = np.random.default_rng(0)
    x, y = (jnp.asarray(random.standard_normal((N, C))) for _ in range(2))
    assert_within(first(x, y), second(x, y), EPS)
