"""Each check finds its fault and measures what is known in closed form."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss
from jaxloss.doctor import InputSpec, examine
from jaxloss.doctor.checks import curvature
from jaxloss.doctor.inputs import KINDS
from jaxloss.doctor.subject import Subject


def found(loss, kind, check, **options):
    """The check's findings and figures."""
    report = examine(loss, kind, checks=[check], dtypes=["float32"], budget_seconds=600, **options)
    assert not report.left_out
    return report.findings, report.measured[check]


def severities(findings):
    return [finding.severity for finding in findings]


def naive_log(x, y):
    p = 1 / (1 + jnp.exp(-x))
    return -jnp.mean(y * jnp.log(p) + (1 - y) * jnp.log(1 - p))


def test_a_log_of_a_rounded_probability_is_not_finite():
    findings, figures = found(naive_log, "yes_no", "finite")
    assert severities(findings)[0] == "error"
    assert any("in float32" in finding.message and finding.number <= 100 for finding in findings)
    assert figures["float32 accurate"].endswith(("1", "3", "10"))


def test_a_loss_that_does_not_cancel_is_accurate_everywhere():
    findings, figures = found(jaxloss.binary_cross_entropy_with_logits, "yes_no", "finite")
    assert not findings
    assert figures["float32 accurate"] == "0 to 3.4e+38"


def _rule(backward):
    @jax.custom_vjp
    def square(x):
        return x**2

    square.defvjp(lambda x: (x**2, x), lambda x, cotangent: (backward(x, cotangent),))
    return lambda x, y: jnp.mean(square(x - y))


@pytest.mark.parametrize(
    ("backward", "says"),
    [
        (lambda x, cotangent: x * cotangent, "is not the value's derivative at 100%"),
        (lambda x, cotangent: 2 * x, "the gradient for a cotangent of -3 is not -3 times the gradient"),
    ],
)
def test_a_wrong_rule_is_an_error(backward, says):
    findings, _ = found(_rule(backward), "real", "gradient")
    assert findings[0].severity == "error"
    assert says in findings[0].message
    assert "forward mode (jvp) is refused" in findings[-1].message


def test_a_right_gradient_agrees_with_its_differences():
    findings, figures = found(jaxloss.mse_loss, "real", "gradient")
    assert not findings
    assert figures["error against differences"] < 1e-12
    assert figures["jvp against vjp"] == figures["asymmetry"] == 0


@pytest.mark.parametrize(("dtype", "severity"), [("float32", "note"), ("bfloat16", "warning")])
def test_a_loss_that_casts_is_not_blamed_for_its_roundings(dtype, severity):
    loss = lambda x, y: jnp.mean(jnp.square(x - y).astype(dtype))  # noqa: E731
    assert not found(loss, "real", "gradient")[0]
    (finding,), _ = found(loss, "real", "finite")
    assert finding.message == f"it computes in {dtype} even where it is given float64"
    assert finding.severity == severity


def test_levelling_off_and_explosion_and_no_gradient_at_all():
    levels = lambda x, y: jnp.mean(jax.nn.sigmoid((1 - 2 * y) * x))  # noqa: E731
    findings, figures = found(levels, "yes_no", "gradient_size")
    assert "have less than 1% of the usual gradient" in findings[0].message
    assert 0.3 < figures["large loss without gradient"] < 0.8
    (finding,), _ = found(lambda x, y: jnp.mean(jnp.exp(jnp.abs(x - y))), "real", "gradient_size")
    assert "explodes" in finding.message
    (finding,), _ = found(lambda x, y: jnp.mean(jnp.round(x - y) ** 2), "real", "gradient_size")
    assert (finding.severity, finding.number) == ("error", 0.0)


def test_a_dead_zone_is_no_explosion():
    dead = lambda x, y: jnp.mean(jnp.maximum(jnp.abs(x - y) - 2.0, 0.0))  # noqa: E731
    findings, figures = found(dead, "real", "gradient_size")
    assert not findings
    assert figures["usual size"] == figures["explosion ratio"] == 1.0
    assert 0.5 < figures["share of zeros"] < 1.0
    beyond = lambda x, y: jnp.mean(jnp.maximum(jnp.abs(x - y) - 9.0, 0.0))  # noqa: E731
    assert found(beyond, "real", "gradient_size")[1]["share of zeros"] == 1.0


def log_of_the_label(p, labels):
    return -jnp.mean(jnp.log(jnp.take_along_axis(p, labels[:, None], 1)))


def test_a_loss_of_probabilities_given_logits_is_told_what_it_wants():
    """What is no number at half of the inputs is no fault of its gradient, scale or order."""
    checks = ["gradient", "gradient_size", "invariances"]
    report = examine(log_of_the_label, "classes", checks=checks, dtypes=["float32"], budget_seconds=600)
    error = report.findings[0]
    assert (error.check, error.severity) == ("call", "error")
    assert error.message == "the value is nan at predictions that are drawn, and finite at their softmax"
    assert "probabilities" in error.advice
    assert [finding.severity for finding in report.findings[1:]] == ["note"], report.findings
    assert report.measured["gradient"]["error against differences"] < 1e-6
    assert not report.measured["invariances"]["scale"]


def test_a_loss_that_is_finite_nowhere_is_left_out_by_the_checks_that_compare():
    checks = ["gradient", "gradient_size", "invariances"]
    nowhere = lambda x, y: jnp.mean(x - y) * jnp.nan  # noqa: E731
    report = examine(nowhere, "real", checks=checks, dtypes=["float32"], budget_seconds=600)
    assert not report.findings
    assert set(report.left_out) == set(checks)
    assert all(why.startswith("no finite input") for why in report.left_out.values())


def test_kinks_are_placed_and_measured():
    (note,), figures = found(jaxloss.l1_loss, "real", "kinks")
    assert (note.severity, figures["on the margin"]) == ("note", [0.0])
    assert figures["largest jump of the slope"] == pytest.approx(2)
    assert "from -1 to 1; autodiff takes 0" in note.message
    _, figures = found(lambda x, y: jnp.mean(jnp.maximum(0, 1 - (x - y))), "pairs", "kinks")
    assert figures["on the margin"] == [1.0]
    findings, figures = found(jaxloss.huber_loss, "real", "kinks")
    assert (findings, figures["on the margin"]) == ((), "none")


def charbonnier(x, y):
    return jnp.mean(jnp.sqrt((x - y) ** 2 + 1e-12))


def power_of_1_4(x, y):
    error = jnp.abs(x - y)
    return jnp.mean(jnp.where(error > 0, jnp.where(error > 0, error, 1.0) ** 1.4, 0.0))


def test_a_steep_smooth_place_is_no_kink():
    findings, figures = found(charbonnier, "real", "kinks")
    assert (findings, figures["largest jump of the slope"]) == ((), 0.0)


@pytest.mark.parametrize("steep", [lambda e: e**4, lambda e: jnp.exp(e) - e])
def test_a_kink_beside_steep_places_is_found(steep):
    _, figures = found(lambda x, y: jnp.mean(steep(x - y) + jnp.abs(x - y)), "real", "kinks")
    assert figures["on the margin"] == [0.0]


def test_a_kink_out_of_reach_is_no_convexity():
    clipped = lambda x, y: jnp.mean(jnp.minimum((x - y) ** 2, 200.0))  # noqa: E731
    findings, figures = found(clipped, "real", "curvature")
    assert not figures["convex"]
    assert "not convex" in findings[-1].message


def test_a_derivative_that_is_nan_at_a_kink_and_a_jump_are_errors():
    findings, _ = found(lambda x, y: jnp.mean(jnp.sqrt((x - y) ** 2)), "real", "kinks")
    assert "autodiff gives nan" in findings[0].message
    (finding,), _ = found(lambda x, y: jnp.mean((x - y) // 1), "real", "kinks")
    assert finding.severity == "error"
    assert finding.number == pytest.approx(1)


@pytest.mark.parametrize(
    ("loss", "kind", "lipschitz", "smoothness"),
    [
        (jaxloss.cross_entropy, "classes", np.sqrt(2), 1 / 2),
        (jaxloss.binary_cross_entropy_with_logits, "yes_no", 1, 1 / 4),
        (jaxloss.mse_loss, "real", np.inf, 2),
        (jaxloss.l1_loss, "real", 1, np.inf),
        (partial(jaxloss.huber_loss, delta=50.0), "real", 50, 1),
        (charbonnier, "real", 1, 1e6),
        (power_of_1_4, "real", np.inf, np.inf),
        (lambda x, y: jnp.mean(jnp.cosh(x - y)), "real", np.inf, np.inf),
    ],
)
def test_constants_are_those_of_the_formula(loss, kind, lipschitz, smoothness):
    findings, figures = found(loss, kind, "curvature")
    assert figures["Lipschitz constant"] == pytest.approx(lipschitz, rel=1e-6)
    assert figures["smoothness constant"] == pytest.approx(smoothness, rel=1e-6)
    assert figures["largest safe SGD step"] == pytest.approx(2 / smoothness, rel=1e-6)
    assert figures["convex"]
    assert severities(findings) == ["note"] * int(lipschitz == np.inf)
    if loss is power_of_1_4:
        assert findings[0].number == pytest.approx(0.4, rel=1e-3)


def test_a_loss_without_a_lower_bound_and_one_that_is_not_convex():
    findings, figures = found(lambda x, y: jnp.mean(x * (1 - 2 * y)), "yes_no", "curvature")
    assert "no lower bound" in findings[0].message
    findings, figures = found(lambda x, y: jnp.mean(jnp.log1p((x - y) ** 2)), "real", "curvature")
    assert not figures["convex"]
    assert findings[0].number == pytest.approx(-1 / 4, rel=1e-3)  # at an error of the root of 3


def correlation_times_100(x, y):
    x, y = x - x.mean(), y - y.mean()
    return -100 * (x @ y) / jnp.sqrt((x @ x) * (y @ y) + 1e-12)


@pytest.mark.parametrize(
    ("loss", "severity", "says"),
    [
        (correlation_times_100, None, ""),
        (lambda x, y: -jnp.mean(1 / (1 + (x - y) ** 2)), None, ""),
        (lambda x, y: -1e-12 * jnp.mean(jnp.abs(x - y)), "error", "no lower bound"),
        (lambda x, y: -jnp.mean(jnp.exp(x - y)), "error", "no lower bound"),
        (lambda x, y: -jnp.mean(jnp.log1p((x - y) ** 2)), "note", "falls without end, like a logarithm"),
    ],
)
def test_a_fall_counts_beside_the_usual_slope(loss, severity, says):
    with np.errstate(all="ignore"):
        subject = Subject(loss, KINDS["real"], ("float32",), 600.0)
        slope = curvature.slopes(subject, *subject.scaled(64, 1.0))
        findings = curvature.bounded_below(subject, slope)
    assert severities(findings) == [severity] * (severity is not None)
    assert all(says in finding.message for finding in findings)


def test_a_free_scale_is_named_and_so_is_the_power_of_the_unit():
    def cosine(x, y):
        return 1 - jnp.vdot(x, y) / jnp.sqrt(jnp.vdot(x, x) * jnp.vdot(y, y))

    (finding,), figures = found(cosine, "real", "invariances")
    assert "a free scale" in finding.message
    assert figures["order of examples"]
    assert not figures["shift"]
    _, figures = found(jaxloss.mse_loss, "real", "invariances")
    assert figures["power of the scale of both"] == 2
    findings, _ = found(lambda z, y: jnp.mean((z[:, 0] - y) ** 2), "classes", "invariances")
    assert any("classes are not treated alike" in finding.message for finding in findings)


def test_the_order_of_examples_is_noticed():
    (finding,), _ = found(lambda x, y: jnp.mean(jnp.cumsum(x - y) ** 2), "real", "invariances")
    assert "the order of the examples" in finding.message


def test_inputs_of_ones_own_stay_in_their_domain():
    def draw(rng, num):
        return rng.uniform(0.1, 0.9, num), rng.integers(0, 2, num).astype(np.float64)

    spec = InputSpec(draw, low=0.0, high=1.0, margin="probability")

    def brier(p, y):
        inside = (p >= 0) & (p <= 1)
        return jnp.mean(jnp.where(inside, (p - y) ** 2, jnp.nan))

    for check in ("finite", "gradient", "curvature"):
        assert not found(brier, spec, check)[0]
