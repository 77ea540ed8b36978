"""What a function closes over: found anew by each call, and kept by no compiled program."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloss.fused import make_linear_loss
from jaxloss.fused._program import traced
from parity_tests.compare import assert_within
from parity_tests.fused.token_losses import CHUNKED, CLASSES, HEAD
from parity_tests.tolerances import GRADIENT_EPS_OF_MAX

INPUT, WEIGHT = jnp.asarray(HEAD["input"]), jnp.asarray(HEAD["linear_weight"])
FACTOR = 2.0


def value_and_gradients(loss, **how):
    return jax.value_and_grad(loss, (0, 1))(INPUT, WEIGHT, **how)


def test_what_a_function_closes_over_is_as_it_is(monkeypatch):
    class Held:
        number, table, counts = 0.5, jnp.linspace(0.5, 1.0, CLASSES), np.arange(1.0, 4.0)

    default = [1.0]
    held = Held()

    def fn(logits, scale=default):
        logits = logits * (FACTOR * scale[0] * held.number * held.table)[None]
        return jax.nn.logsumexp(logits, 1) * held.counts[1]

    loss, values = make_linear_loss(fn), []
    changes = [
        lambda: None,
        lambda: setattr(held, "number", 0.7),
        lambda: setattr(held, "table", held.table + 1.0),
        lambda: held.counts.__setitem__(1, 5.0),
        lambda: default.__setitem__(0, 0.3),
        lambda: monkeypatch.setitem(globals(), "FACTOR", 3.0),
    ]
    for change in changes:
        change()
        results = [
            value_and_gradients(loss, implementation=i, chunk_size=4) for i in ("chunked", "reference")
        ]
        for actual, expected in zip(*map(jax.tree.leaves, results), strict=True):
            assert_within(actual, expected, GRADIENT_EPS_OF_MAX)
        values.append(float(results[0][0]))
    assert len(set(values)) == len(values)


def test_no_closed_over_array_is_kept_or_is_another_program(caplog):
    arrays = []

    def call(factor):
        table = jnp.full(CLASSES, factor)
        arrays.append(weakref.ref(table))
        loss = make_linear_loss(lambda z: jnp.sum(jax.nn.relu(z * table[None]), 1))
        return value_and_gradients(loss, **CHUNKED)[0]

    first = call(1.0)
    with jax.log_compiles():
        second = call(3.0)
        assert not any(record.message.startswith("Compiling") for record in caplog.records)
    assert_within(second, 3.0 * first, GRADIENT_EPS_OF_MAX)
    gc.collect()
    assert [array() for array in arrays] == [None, None]


def test_nothing_traced_leaks():
    def loss(scale):
        return make_linear_loss(lambda z: scale * jnp.sum(jnp.square(z), 1))(INPUT, WEIGHT, **CHUNKED)

    with jax.checking_leaks():
        gradient = jax.jit(jax.grad(loss))(2.0)
    assert_within(gradient, loss(1.0), GRADIENT_EPS_OF_MAX)


def reversing(factor):
    """The identity; its gradient, which alone says what the factor is, times minus that."""

    @jax.custom_vjp
    def reverse(logits):
        return logits

    reverse.defvjp(lambda logits: (logits, None), lambda _, cotangent: (-factor * cotangent,))
    return lambda logits: jnp.sum(reverse(logits), 1)


def ruled_by_an_array(factor):
    table = jnp.full(CLASSES, factor)

    @jax.custom_jvp
    def reverse(logits):
        return logits

    reverse.defjvp(lambda primals, tangents: (primals[0], -table[None] * tangents[0]))
    return lambda logits: jnp.sum(reverse(logits), 1)


def ruled_twice(factor):
    """A square, whose derivative's derivative alone says what the factor is."""

    @jax.custom_jvp
    def slope(logits):
        return 2.0 * logits

    slope.defjvp(lambda primals, tangents: (2.0 * primals[0], factor * tangents[0]))

    @jax.custom_jvp
    def square(logits):
        return jnp.square(logits)

    square.defjvp(lambda primals, tangents: (jnp.square(primals[0]), slope(primals[0]) * tangents[0]))
    return lambda logits: jnp.sum(square(logits), 1)


def weight_gradient(fn, how):
    return jax.grad(make_linear_loss(fn), 1)(INPUT, WEIGHT, **how)


def table_gradient(factor, how):
    def loss(table):
        @jax.custom_vjp
        def scaled(table):
            return table

        scaled.defvjp(lambda table: (table, None), lambda _, cotangent: (factor * cotangent,))
        return make_linear_loss(lambda z: jnp.sum(z * scaled(table)[None], 1))(INPUT, WEIGHT, **how)

    return jax.grad(loss)(jnp.ones(CLASSES))


def second_derivative(fn, how):
    return jax.jvp(lambda w: jax.grad(make_linear_loss(fn), 1)(INPUT, w, **how), (WEIGHT,), (WEIGHT,))[1]


@pytest.mark.parametrize(
    "derivative",
    [
        lambda factor, how: weight_gradient(reversing(factor), how),
        lambda factor, how: weight_gradient(ruled_by_an_array(factor), how),
        table_gradient,
        lambda factor, how: second_derivative(ruled_twice(factor), how),
    ],
    ids=["number", "array", "of what is closed over", "second"],
)
def test_programs_that_differ_in_a_derivative_rule_only_are_others(derivative):
    for factor in (1.0, 2.0):
        found, expected = (derivative(factor, how) for how in (CHUNKED, {"implementation": "reference"}))
        assert_within(found, expected, GRADIENT_EPS_OF_MAX)


def test_a_rule_that_closes_over_a_traced_array_is_refused():
    gradient = jax.jit(lambda factor: weight_gradient(ruled_by_an_array(factor), CHUNKED))
    with pytest.raises(ValueError, match=r"a derivative rule of the loss closes over the traced array"):
        gradient(2.0)


def test_programs_are_equal_if_they_do_the_same():
    logits = jax.ShapeDtypeStruct((4, CLASSES), jnp.float64)

    def looped(limit):
        # A derivative rule within what has no reverse derivative.
        return lambda z: jax.lax.while_loop(lambda s: s[0] < limit, jax.nn.relu, jnp.sum(z, 1))

    def nested(table):
        helper = jax.jit(lambda z: z * table[None])
        return lambda z: jnp.sum(helper(z), 1)

    def keyed(fn):
        found = []
        jax.jvp(lambda operand: found.append(traced(fn, operand, logits)[0]) or operand, (1.0,), (1.0,))
        return found[0]

    assert keyed(reversing(1.0)) == keyed(reversing(1.0)) != keyed(reversing(2.0))
    assert keyed(lambda z: jnp.sum(z * 2.0, 1)) == keyed(lambda z: jnp.sum(z * 2.0, 1))
    assert keyed(lambda z: jnp.sum(z * 2.0, 1)) != keyed(lambda z: jnp.sum(z * 3.0, 1))
    assert keyed(lambda z: jnp.sum(z, 1)) != keyed(lambda z: jnp.max(z, 1))
    assert keyed(nested(jnp.ones(CLASSES))) != keyed(nested(jnp.zeros(CLASSES)))
    assert keyed(looped(1.0)) != keyed(looped(1.0))
