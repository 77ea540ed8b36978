"""Values within 4 ULP and gradients within 64 ULP of 50 digits, elementwise, in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloss import losses
from jaxloss.numerics.softmax import Classes, log_softmax
from parity_tests.losses import oracle
from parity_tests.tolerances import ACCURATE_GRADIENT_ULP, ACCURATE_VALUE_ULP, LOG_MINUS_ERROR

N, C = 32, 37
rng = np.random.default_rng(0)
LABELS = rng.integers(0, C, N)
MARGINS = np.linspace(5, 80, N)
NOISE = rng.standard_normal((N, C))
ONE_HOT = np.eye(C)[LABELS]
TIES = rng.integers(0, 3, (N, C))


def rows(kind: str) -> np.ndarray:
    """Logits [N, C] of one kind, in float32."""
    return {
        "near-uniform": NOISE * 0.02,
        # The label leads by up to 4, as in a model that has learnt something.
        "leading": NOISE + ONE_HOT * (np.linspace(0, 4, N)[:, None] + NOISE.max(1, keepdims=True) - NOISE),
        # The label leads by 5 to 80; the others lie anywhere below.
        "confident": NOISE + ONE_HOT * (MARGINS[:, None] + NOISE.max(1, keepdims=True) - NOISE),
        # Each of the others' exponentials underflows below the label's; their sum does not.
        "deep": NOISE * 0.1 + ONE_HOT * np.linspace(80, 90, N)[:, None],
        "confidently wrong": NOISE - ONE_HOT * MARGINS[:, None],
        "saturated": NOISE * 1e4,
        "huge": NOISE * 1e30,
        "offset": NOISE + 1000.0,
        "tied": np.where(ONE_HOT > 0, 2.0, TIES),
    }[kind].astype(np.float32)


KINDS = [
    "near-uniform",
    "leading",
    "confident",
    "deep",
    "confidently wrong",
    "saturated",
    "huge",
    "offset",
    "tied",
]


@jax.jit
def by_labels(logits):
    value, pullback = jax.vjp(
        lambda z: losses.cross_entropy(z, jnp.asarray(LABELS), reduction="none"), logits
    )
    return value, pullback(jnp.ones(N, jnp.float32))[0]


@jax.jit
def by_probabilities(logits):
    one_hot = jnp.asarray(ONE_HOT, jnp.float32)
    value, pullback = jax.vjp(lambda z: losses.cross_entropy(z, one_hot, reduction="none"), logits)
    return value, pullback(jnp.ones(N, jnp.float32))[0]


@pytest.mark.parametrize("function", [by_labels, by_probabilities])
@pytest.mark.parametrize("kind", KINDS)
def test_cross_entropy(kind, function):
    logits = rows(kind)
    value, gradient = function(jnp.asarray(logits))
    expected, expected_gradient = oracle.cross_entropy(logits, LABELS)
    assert oracle.error_in_ulp(value, expected).max() <= ACCURATE_VALUE_ULP
    assert oracle.error_in_ulp(gradient, expected_gradient).max() <= ACCURATE_GRADIENT_ULP


VOCABULARY = 50257


@pytest.mark.parametrize("scale", [0.02, 1.0, 8.0])
@pytest.mark.parametrize("target", ["label", "one-hot", "smoothed"])
def test_gradients_over_a_whole_vocabulary(target, scale):
    logits = np.float32(np.random.default_rng(3).standard_normal(VOCABULARY) * scale)
    one_hot = np.float32(np.arange(VOCABULARY) == 7)
    # Not so little smoothing that a class's share of it meets its probability, and the truth itself cancels.
    probabilities = np.float32(0.9 * one_hot + 0.1 * one_hot[::-1]) if target == "smoothed" else one_hot
    gradient = jax.grad(losses.cross_entropy)(logits, 7 if target == "label" else probabilities)
    exponentials = np.exp(logits.astype(np.longdouble) - logits.max())
    whole = probabilities.astype(np.longdouble).sum()
    expected = whole * exponentials / exponentials.sum() - probabilities
    error = np.abs(np.asarray(gradient) - expected) / np.spacing(np.abs(np.float32(expected)))
    assert error.max() <= ACCURATE_GRADIENT_ULP


@pytest.mark.parametrize("kind", ["near-uniform", "confident", "saturated", "tied"])
def test_nll_of_our_log_softmax(kind):
    logits = rows(kind)
    log_probs = log_softmax(jnp.asarray(logits), Classes(1))
    value = losses.nll_loss(log_probs, jnp.asarray(LABELS), reduction="none")
    assert oracle.error_in_ulp(value, oracle.nll_of_log_softmax(logits, LABELS)).max() <= ACCURATE_VALUE_ULP


SCORES = np.concatenate([NOISE.ravel()[:64] * 0.02, MARGINS, -MARGINS, NOISE.ravel()[:32] * 1e4]).astype(
    np.float32
)


@pytest.mark.parametrize("name", ["binary_cross_entropy_with_logits", "soft_margin_loss"])
@pytest.mark.parametrize("positive", [False, True])
def test_logistic(name, positive):
    target = np.full(
        SCORES.shape, 1.0 if positive else -1.0 if name == "soft_margin_loss" else 0.0, np.float32
    )

    @jax.jit
    def run(x):
        value, pullback = jax.vjp(
            lambda x: getattr(losses, name)(x, jnp.asarray(target), reduction="none"), x
        )
        return value, pullback(jnp.ones_like(value))[0]

    value, gradient = run(jnp.asarray(SCORES))
    expected, expected_gradient = getattr(oracle, name)(SCORES, target)
    assert oracle.error_in_ulp(value, expected).max() <= ACCURATE_VALUE_ULP
    assert oracle.error_in_ulp(gradient, expected_gradient).max() <= ACCURATE_GRADIENT_ULP


@pytest.mark.parametrize("scale", [0.02, 1.0, 20.0])
def test_kl_div(scale):
    both = rng.standard_normal((2, 4, C)) * scale
    log_q, log_p = both - np.log(np.exp(both).sum(-1, keepdims=True))
    log_q, p = log_q.astype(np.float32), np.exp(log_p).astype(np.float32)

    value, gradient = kl_div(jnp.asarray(log_q), jnp.asarray(p))
    expected, expected_gradient = oracle.kl_div(log_q.ravel(), p.ravel())
    assert oracle.error_in_ulp(value.ravel(), expected).max() <= ACCURATE_VALUE_ULP
    assert oracle.error_in_ulp(gradient.ravel(), expected_gradient).max() <= ACCURATE_GRADIENT_ULP


@jax.jit
def kl_div(log_q, p):
    value, pullback = jax.vjp(lambda x: losses.kl_div(x, p, reduction="none"), log_q)
    return value, pullback(jnp.ones_like(value))[0]


@pytest.mark.parametrize("distance", [0.0, 2e-6, 1e-4, 1e-2])
def test_kl_div_of_distributions_that_nearly_agree(distance):
    random = np.random.default_rng(0)
    logits = random.standard_normal((4, C)) * np.array([[0.02], [1.0], [5.0], [10.0]])
    log_q = (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)
    p = (np.exp(log_q.astype(np.float64)) * (1 + distance * random.standard_normal((4, C)))).astype(
        np.float32
    )
    value = np.asarray(kl_div(jnp.asarray(log_q), jnp.asarray(p))[0]).ravel()
    expected = np.array([float(v) for v in oracle.kl_div(log_q.ravel(), p.ravel())[0]])
    # Nearer than this are only rounding errors of one distribution to each other.
    is_apart = np.abs(expected) >= 2e-8 * p.ravel()
    assert is_apart.sum() > 50
    errors = oracle.error_in_ulp(value, expected)
    assert errors[is_apart].max() <= ACCURATE_VALUE_ULP
    assert np.all(np.abs(value - expected)[~is_apart] <= LOG_MINUS_ERROR * p.ravel()[~is_apart])
