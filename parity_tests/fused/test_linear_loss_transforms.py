"""A loss made of any function, under every transform, on several devices, compiled once."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxloss.fused import make_linear_loss
from parity_tests.compare import assert_within
from parity_tests.fused.token_losses import (
    CHUNKED,
    CLASSES,
    HEAD,
    OPERANDS,
    RNG,
    TEACHER,
    called,
    policy,
    total,
)
from parity_tests.quick_compilation import jit
from parity_tests.tolerances import GRADIENT_EPS_OF_MAX


def assert_close(actual, expected):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert_within(a, b, GRADIENT_EPS_OF_MAX)


def test_every_transform():
    rng = np.random.default_rng(2)
    tangents = {k: jnp.asarray(rng.standard_normal(a.shape)) for k, a in OPERANDS.items()}

    def transformed(operands, tangents, implementation):
        f = partial(total, implementation=implementation)
        both = jax.tree.map(lambda a, t: jnp.stack([a, a + 0.1 * t]), operands, tangents)
        return {
            "jvp": jax.jvp(f, (operands,), (tangents,)),
            "forward over reverse": jax.jvp(jax.grad(f), (operands,), (tangents,)),
            "reverse over forward": jax.grad(lambda o: jax.jvp(f, (o,), (tangents,))[1])(operands),
            "vmap": jax.vmap(jax.grad(f))(both),
            "remat": jax.grad(jax.checkpoint(f))(operands),
        }

    run = jit(transformed, static_argnums=2)
    assert_close(run(OPERANDS, tangents, "chunked"), run(OPERANDS, tangents, "reference"))


def test_a_function_may_close_over_traced_arrays():
    names = "temperature", "array 2"

    def closing(inner, outer):
        def fn(logits, action, old):
            scaled = policy(logits, action, old, 1.0, clip=0.2, temperature=outer["temperature"])[0]
            return scaled * jnp.sum(jnp.sin(outer["array 2"]))

        return total(inner, make_linear_loss(fn), "sum")

    def given(inner, outer):
        fn = lambda z, a, old, *, t, s: policy(z, a, old, 1.0, temperature=t)[0] * s  # noqa: E731
        options = {"t": outer["temperature"], "s": jnp.sum(jnp.sin(outer["array 2"]))}
        return total(inner | options, make_linear_loss(fn), "sum")

    inner = {k: a for k, a in OPERANDS.items() if k not in (*names, "clip")}
    outer = {k: OPERANDS[k] for k in names}

    def derived(f):
        curvature = lambda o: jax.jvp(jax.grad(lambda o: f(inner, o)), (o,), (o,))[1]  # noqa: E731
        two = jax.tree.map(lambda a: jnp.stack([a, 0.9 * a]), outer)
        return jit(lambda: (jax.grad(f, (0, 1))(inner, outer), jax.vmap(curvature)(two)))()

    assert_close(derived(closing), derived(given))
    assert_close(jax.grad(closing, 1)(inner, outer), derived(given)[0][1])


def soft_cross_entropy(logits, teacher, *, table, axis_name):
    """Of classes that may be split, each with its weight."""
    peak, sum_ = jnp.max(lax.stop_gradient(logits), 1), partial(jnp.sum, axis=1)
    if axis_name is not None:
        peak, sum_ = lax.pmax(peak, axis_name), lambda a: lax.psum(jnp.sum(a, 1), axis_name)
    log_partition = jnp.log(sum_(jnp.exp(logits - peak[:, None]))) + peak
    return sum_(teacher * jnp.sum(table, 1)[None] * (log_partition[:, None] - logits))


@pytest.mark.parametrize("kind", ["Explicit", "Auto"])
def test_split_tokens_and_classes(kind):
    loss = make_linear_loss(soft_cross_entropy, splits_classes=True)
    arrays = HEAD | {"array 0": TEACHER, "table": RNG.standard_normal((CLASSES, 3))}
    arrays = jax.tree.map(jnp.asarray, arrays)
    of_tokens = dict.fromkeys(["input", "sample_weight"], P("data")) | {"array 0": P("data", "model")}
    specs = dict.fromkeys(["linear_weight", "linear_bias", "table"], P("model")) | of_tokens
    specs = {k: specs.get(k, P()) for k in arrays}
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType[kind],) * 2)

    def local(arrays, axis_name):
        return called(loss, arrays, reduction="sum", axis_name=axis_name, **CHUNKED)[0]

    def split(arrays):
        if kind == "Explicit":
            return local(arrays, None)
        summed = lambda arrays: lax.psum(local(arrays, "model"), "data")  # noqa: E731
        return jax.shard_map(summed, mesh=mesh, in_specs=(specs,), out_specs=P())(arrays)

    expected = jit(jax.value_and_grad(partial(local, axis_name=None)))(arrays)
    with jax.set_mesh(mesh):
        placed = {k: jax.device_put(a, NamedSharding(mesh, specs[k])) for k, a in arrays.items()}
        assert_close(jit(jax.value_and_grad(split))(placed), expected)


def test_closing_over_a_traced_array_that_devices_share_is_refused():
    def loss(hidden, temperature):
        head = HEAD["linear_weight"]
        return make_linear_loss(lambda z: cooled(z, temperature=temperature))(hidden, head, **CHUNKED)

    mesh = jax.make_mesh((2,), ("data",))
    with jax.set_mesh(mesh):
        hidden = jax.device_put(HEAD["input"], NamedSharding(mesh, P("data")))
        with pytest.raises(
            ValueError, match=r"<lambda> closes over the traced array float64\[\], which devices"
        ):
            jax.jit(loss)(hidden, 0.7)


def test_no_number_and_no_new_loss_of_the_same_function_is_another_program(caplog):
    def step(temperature):
        loss = partial(make_linear_loss(cooled), temperature=temperature, **CHUNKED)
        return jax.grad(loss)(OPERANDS["input"], OPERANDS["linear_weight"])

    with jax.log_compiles():
        step(0.7)
        assert any(record.message.startswith("Compiling") for record in caplog.records)
        caplog.clear()
        results = [step(temperature) for temperature in (0.8, 0.9)]
        assert not any(record.message.startswith("Compiling") for record in caplog.records)
    assert jnp.all(results[0] != results[1])


def cooled(logits, *, temperature):
    return jax.nn.logsumexp(logits / temperature, 1)


def test_a_loss_made_within_a_jitted_step_works():
    @jit
    def step(operands, temperature):
        fn = lambda z, *arrays, clip: policy(z, *arrays, clip=clip, temperature=temperature)  # noqa: E731
        return jax.grad(partial(total, loss=make_linear_loss(fn)))(operands)

    operands = {k: a for k, a in OPERANDS.items() if k != "temperature"}
    expected = jit(jax.grad(total))(OPERANDS | {"temperature": jnp.array(0.7)})
    assert_close(step(operands, 0.7), {k: expected[k] for k in operands})
