"""The minimiser of the expected loss, against what is known of each loss."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss
from jaxloss.doctor.checks import meaning
from jaxloss.doctor.inputs import KINDS
from jaxloss.doctor.subject import Subject


def best_prediction(loss, kind):
    result = meaning.check(Subject(loss, KINDS[kind], ("float32",), 600.0))
    return result.figures["best prediction"], result.findings


def test_focal_loss_has_the_minimiser_of_the_paper():
    """Charoenphakdee et al. 2021 (https://arxiv.org/abs/2011.09172): p = h(q) / sum(h(q))."""
    gamma = 2.0
    subject = Subject(partial(jaxloss.focal_loss, gamma=gamma), KINDS["classes"], ("float32",), 600.0)
    p, logits, _ = meaning.minimisers_of_classes(subject)
    q = np.asarray(jax.nn.softmax(logits))
    h = q / ((1 - q) ** gamma - gamma * (1 - q) ** (gamma - 1) * q * np.log(q))
    np.testing.assert_allclose(h / h.sum(1, keepdims=True), p, rtol=0, atol=1e-7)
    assert (q.argmax(1) == p.argmax(1)).all()
    found = meaning.check(subject).figures
    assert found["best prediction"] == "the likeliest class (classification-calibrated)"
    assert found["largest error of the probabilities"] == pytest.approx(np.abs(q - p).max())


@pytest.mark.parametrize(
    ("loss", "expected", "severities"),
    [
        (jaxloss.cross_entropy, "the probabilities (strictly proper)", []),
        (
            partial(jaxloss.cross_entropy, label_smoothing=0.1),
            "the probabilities, 0.1 of them spread evenly",
            ["note"],
        ),
        (jaxloss.multi_margin_loss, "neither probabilities nor the likeliest class", ["error"]),
        (
            lambda outputs, labels: jaxloss.mse_loss(outputs, jax.nn.one_hot(labels, 4, dtype=outputs.dtype)),
            "the probabilities, as they are",
            ["note"],
        ),
    ],
)
def test_what_losses_of_classes_teach(loss, expected, severities):
    found, findings = best_prediction(loss, "classes")
    assert found == expected
    assert [finding.severity for finding in findings] == severities


@pytest.mark.parametrize(
    ("loss", "kind", "expected"),
    [
        (jaxloss.binary_cross_entropy_with_logits, "yes_no", "the probabilities (strictly proper)"),
        (
            lambda x, y: jnp.mean(jnp.maximum(0.0, 1 - x * (2 * y - 1))),
            "yes_no",
            "the likeliest class (classification-calibrated)",
        ),
        (
            lambda x, y: jnp.mean(jnp.maximum(0.0, 0.1 - (2 * y - 1) * x) ** 2),
            "yes_no",
            "linear in the probabilities",
        ),
        (
            lambda x, y: jnp.log(-1 - jnp.mean(x**2)),
            "yes_no",
            "not looked for: no expected loss is finite",
        ),
        (jaxloss.bradley_terry_loss, "pairs", "the probabilities (strictly proper)"),
        (jaxloss.mse_loss, "real", "the mean"),
        (lambda x, y: jnp.mean((x - y) ** 2, dtype=jnp.float16).astype(x.dtype), "real", "the mean"),
        (jaxloss.l1_loss, "real", "the median"),
        (jaxloss.huber_loss, "real", "between mean and median"),
        (
            lambda x, y: jnp.mean(jnp.maximum(0.8 * (y - x), -0.2 * (y - x))),
            "real",
            "the 0.8 quantile",
        ),
        (lambda x, y: jnp.mean(jnp.where(y > x, 0.7, 0.3) * (y - x) ** 2), "real", "the 0.7 expectile"),
        (lambda x, y: jnp.mean(1 - jnp.exp(-4 * (x - y) ** 2)), "real", "near the mode"),
        (
            lambda x, y: jnp.mean((x - y - 0.3) ** 2),
            "real",
            "none of mean, median, quantile and mode",
        ),
        (lambda x, y: -jnp.mean((x - y) ** 2), "real", "outside the targets"),
        (jaxloss.correlation_loss, "real", "undefined"),
    ],
)
def test_what_losses_of_one_number_teach(loss, kind, expected):
    assert best_prediction(loss, kind)[0] == expected


def test_a_loss_without_a_minimum_is_an_error():
    found, (finding,) = best_prediction(lambda x, y: jnp.mean(-(2 * y - 1) * x), "yes_no")
    assert (found, finding.severity) == ("none", "error")
    assert "falls without bound" in finding.message
