"""Options of the head that are numbers: one program for all values, derivatives, the ends of their range."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss.fused
from jaxloss import _checks
from jaxloss.fused import linear_cross_entropy, linear_distillation_loss
from jaxloss.losses import z_loss
from parity_tests.cases import CASES
from parity_tests.compare import assert_same, assert_within
from parity_tests.fused.problems import assert_trees_within, jax_problem
from parity_tests.quick_compilation import jit
from parity_tests.tolerances import GRADIENT_EPS_OF_MAX, VALUE_EPS_OF_MAX

FUNCTIONS = {
    name: getattr(jaxloss.fused, name) for name in jaxloss.fused.__all__ if name.startswith("linear_")
}
CHUNKED = {"implementation": "chunked", "chunk_size": 4}


def numeric_options(function) -> list[str]:
    parameters = inspect.signature(function).parameters
    if "options" in parameters:
        return numeric_options(linear_cross_entropy)
    kinds = _checks.Scalar, _checks.Scalar | None
    return [name for name, parameter in parameters.items() if parameter.annotation in kinds]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_ten_values_of_each_number_are_one_program(name, caplog):
    function, sample = FUNCTIONS[name], CASES[name][0]
    assert len(numeric_options(function)) >= 2
    arguments = sample.arguments()

    def run(number):
        options = sample.options | dict.fromkeys(numeric_options(function), number) | CHUNKED
        losses, pull_back = jax.vjp(
            lambda *heads: function(*heads, *arguments[2:], **options), *arguments[:2]
        )
        return losses, pull_back(losses)

    def compiled():
        return [record.message for record in caplog.records if record.message.startswith("Compiling")]

    with jax.log_compiles():
        run(0.05)
        assert compiled()
        caplog.clear()
        results = [run(number / 10 + 0.05)[0] for number in range(1, 10)]
        assert not compiled()
    assert len({float(jnp.sum(loss)) for loss in results}) == 9


ARRAYS, LABELS, _ = jax_problem({}, "labels")
WEIGHTS = {"weight": jnp.arange(1.0, 12.0), "sample_weight": jnp.linspace(0.5, 2.0, 23)}
OF_CROSS_ENTROPY = {"label_smoothing": 0.1, "z_loss": 0.2, "logit_softcap": 3.0, "logit_scale": 0.7}
OF_DISTILLATION = {"temperature": 1.7, "hard_weight": 0.3, "logit_softcap": 3.0, "logit_scale": 0.7}


def cross_entropy(scalars, **options):
    return linear_cross_entropy(**ARRAYS, target=LABELS, **(WEIGHTS | scalars | options))


def distillation(scalars, **options):
    teacher = {f"teacher_{name}": array[:, ::-1] for name, array in ARRAYS.items() if array.ndim > 1}
    teacher |= {"teacher_logit_softcap": jnp.array(2.0), "target": LABELS}
    return linear_distillation_loss(**ARRAYS, **teacher, **scalars, **options)


def test_no_term_of_a_mean_changes_with_the_scale_of_the_weights():
    for loss, numbers, names in (
        (cross_entropy, OF_CROSS_ENTROPY, ("weight", "sample_weight")),
        (distillation, OF_DISTILLATION, ("sample_weight",)),
    ):
        once, eight_times = (
            loss(numbers | {name: scale * WEIGHTS[name] for name in names}, **CHUNKED) for scale in (1.0, 8.0)
        )
        assert_within(eight_times, once, VALUE_EPS_OF_MAX)


def test_the_z_loss_is_that_of_the_logits():
    logits = ARRAYS["input"] @ ARRAYS["linear_weight"].T + ARRAYS["linear_bias"][None]
    sample_weight, where = WEIGHTS["sample_weight"], LABELS != -100
    expected = cross_entropy({}) + 0.2 * z_loss(logits, where=where, sample_weight=sample_weight)
    assert_within(cross_entropy({"z_loss": 0.2}, **CHUNKED), expected, VALUE_EPS_OF_MAX)


@pytest.mark.parametrize(
    ("loss", "numbers", "reduction"),
    [
        (cross_entropy, OF_CROSS_ENTROPY, "mean"),
        (cross_entropy, OF_CROSS_ENTROPY, "none"),
        (distillation, OF_DISTILLATION, "mean"),
    ],
)
def test_numbers_may_be_traced_and_have_derivatives(loss, numbers, reduction):
    scalars = jax.tree.map(jnp.asarray, numbers)
    tangents = {name: jnp.array(i + 1.0) for i, name in enumerate(scalars)}

    def derivatives(scalars, implementation):
        def total(scalars):
            losses = loss(scalars, reduction=reduction, implementation=implementation, chunk_size=4)
            return jnp.sum(losses * jnp.linspace(-1.0, 2.0, losses.size).reshape(losses.shape))

        forward = jax.jvp(total, (scalars,), (tangents,))
        return forward, *jax.jvp(jax.grad(total), (scalars,), (tangents,))

    run = jit(derivatives, static_argnums=1)
    actual, expected = run(scalars, "chunked"), run(scalars, "reference")
    assert_trees_within(actual, expected, GRADIENT_EPS_OF_MAX)
    as_numbers = loss(numbers, reduction=reduction, **CHUNKED)
    assert_within(loss(scalars, reduction=reduction, **CHUNKED), as_numbers, VALUE_EPS_OF_MAX)


def test_a_share_of_zero_leaves_an_infinite_loss_out():
    # Class 2 is impossible for the student: its labels, and any smoothing, cost infinity.
    states = {"input": jnp.ones((2, 1)), "linear_weight": jnp.ones((3, 1))}
    states["linear_bias"] = jnp.array([0.0, 1.0, -jnp.inf])
    labels, weight = jnp.array([0, 2]), jnp.array([1.0, 1.0, 0.0])
    teacher = {"teacher_input": states["input"], "teacher_linear_weight": states["linear_weight"]}

    def smoothed(share, labels):
        options = {"target": labels, "reduction": "none", "weight": weight}
        return linear_cross_entropy(**states, label_smoothing=share, **options)

    def hard(share, labels):
        options = {"target": labels, "reduction": "none", "hard_weight": share, "temperature": 1.0}
        return linear_distillation_loss(**states, **teacher, **options)

    for share in (0.0, 1.0):
        for loss, ends in ((smoothed, [np.isfinite, np.isfinite]), (hard, [np.isinf, np.isfinite])):
            number, traced = loss(share, labels), jax.jit(loss)(jnp.array(share), labels)
            assert_same(traced, number)
            assert ends[int(share)](number[0])
    # Nor does its derivative, where the teacher rules out what the student does not.
    never = {"teacher_linear_bias": states.pop("linear_bias"), "divergence": "reverse_kl", "hard_weight": 1.0}
    options = teacher | never | {"target": jnp.array([0, 1]), "linear_weight": states["linear_weight"]}
    gradient = jax.grad(lambda x: linear_distillation_loss(x, **options, **CHUNKED))(states["input"])
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [("label_smoothing", 1.1), ("z_loss", -1.0), ("logit_softcap", 0.0), ("logit_softcap", np.inf)],
)
def test_numbers_out_of_range_are_refused_and_traced_ones_poison(name, value):
    with pytest.raises(ValueError, match=f"{name} must be in"):
        cross_entropy({name: value})
    assert jnp.isnan(cross_entropy({name: jnp.asarray(value)}, **CHUNKED))
