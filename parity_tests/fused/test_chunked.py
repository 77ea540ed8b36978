"""The chunked head under every transform, for every chunk size, in little memory and few products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxloss.fused import linear_cross_entropy
from parity_tests.compare import assert_same, assert_within
from parity_tests.fused.problems import (
    NUM_CLASSES,
    assert_trees_within,
    jax_problem,
    loss_of_arrays,
    value_and_gradients,
)
from parity_tests.quick_compilation import jit
from parity_tests.tolerances import VALUE_EPS_OF_MAX


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("reduction", "chunk_sizes"), [("mean", (1, 4, 100)), ("none", (1, 4))])
def test_any_chunk_size_and_scale_give_the_same(dtype, reduction, chunk_sizes):
    # On a grid of integers the logits are exact, so that huge ones do not magnify a rounding of the product.
    arrays = jax.tree.map(lambda a: jnp.round(2 * a), jax_problem({}, "labels", dtype)[0])
    target = jax_problem({}, "labels")[1]
    expected = value_and_gradients(target, reduction, "reference")
    for chunk_size in chunk_sizes:
        actual = value_and_gradients(target, reduction, chunk_size=chunk_size)
        for scale in (2.0**-6, 1.0, 2.0**8):
            scaled = arrays | {"linear_weight": arrays["linear_weight"] * scale}
            assert_trees_within(actual(scaled), expected(scaled))


@pytest.mark.parametrize(("num_tokens", "dtype"), [(1, np.float32), (7, np.float64)])
def test_token_counts_that_are_prime(num_tokens, dtype):
    arrays, target, _ = jax_problem({}, "labels", dtype)
    arrays["input"] = arrays["input"][:num_tokens]
    chunked = value_and_gradients(target[:num_tokens], chunk_size=3)(arrays)
    assert_trees_within(chunked, value_and_gradients(target[:num_tokens], implementation="reference")(arrays))


def test_every_transform_equals_the_reference():
    arrays, target, _ = jax_problem({}, "labels")
    del arrays["linear_bias"]
    tangents = jax.tree.map(lambda a: jnp.asarray(np.random.default_rng(2).standard_normal(a.shape)), arrays)

    def transformed(implementation):
        f = loss_of_arrays(implementation, target)

        def of_weight(weight):
            return f(arrays | {"linear_weight": weight})

        def in_scan(weight):
            return jax.lax.scan(lambda w, _: (0.9 * w, of_weight(w)), weight, None, length=2)[1]

        def along(arrays):
            return jax.jvp(f, (arrays,), (tangents,))[1]

        def gradient_along(arrays):
            products = jax.tree.map(lambda g, t: jnp.sum(g * t), jax.grad(f)(arrays), tangents)
            return sum(jax.tree.leaves(products))

        both = jax.tree.map(lambda a, t: jnp.stack([a, t]), arrays, tangents)
        return {
            "jvp": jax.jvp(f, (arrays,), (tangents,)),
            "forward over reverse": jax.jvp(jax.grad(f), (arrays,), (tangents,)),
            "reverse over reverse": jax.grad(gradient_along)(arrays),
            "reverse over forward": jax.grad(along)(arrays),
            "vmap of grad": jax.vmap(jax.grad(f))(both),
            "vmap of grad, over tokens": jax.vmap(lambda x: jax.grad(f)(arrays | {"input": x}))(
                both["input"]
            ),
            "grad of vmap of scan, over weights": jax.grad(lambda w: jnp.sum(jax.vmap(in_scan)(w)))(
                both["linear_weight"]
            ),
            "checkpoint": jax.grad(jax.checkpoint(f))(arrays),
            "jacfwd": jax.jacfwd(lambda row: of_weight(arrays["linear_weight"].at[0].set(row)))(
                arrays["linear_weight"][0]
            ),
        }

    actual, expected = jit(lambda: transformed("chunked"))(), jit(lambda: transformed("reference"))()
    for name in expected:
        for a, b in zip(jax.tree.leaves(actual[name]), jax.tree.leaves(expected[name]), strict=True):
            assert_within(a, b, VALUE_EPS_OF_MAX, what=name)


def test_bfloat16_error_does_not_grow_as_the_chunk_shrinks():
    rng = np.random.default_rng(3)
    exact = {
        "input": jnp.asarray(rng.standard_normal((256, 16)), jnp.bfloat16),
        "linear_weight": jnp.asarray(rng.standard_normal((32, 16)), jnp.bfloat16),
    }
    target = jnp.asarray(rng.integers(0, 32, 256))
    wide = jax.tree.map(lambda a: a.astype(jnp.float64), exact)
    for reduction in ("mean", "none"):
        expected = value_and_gradients(target, reduction, "reference")(wide)
        for chunk_size in (256, 1):
            value, gradients = value_and_gradients(target, reduction, chunk_size=chunk_size)(exact)
            assert value.dtype == jnp.float32
            assert_within(value, expected[0], VALUE_EPS_OF_MAX, "float32")
            for name in exact:
                assert gradients[name].dtype == jnp.bfloat16
                # Half for rounding the gradient, half for rounding that of the logits before the product.
                assert_within(gradients[name], expected[1][name], 1.0, "bfloat16", what=name)


def _equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for parameter in jax.tree.leaves(
            equation.params, is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")
        ):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from _equations(inner)


def _sizes(function, *arguments):
    for equation in _equations(jax.make_jaxpr(function)(*arguments).jaxpr):
        yield from (v.aval.size for v in equation.outvars if hasattr(v.aval, "size"))


def _num_products(function, *arguments):
    equations = _equations(jax.make_jaxpr(function)(*arguments).jaxpr)
    return sum(equation.primitive.name == "dot_general" for equation in equations)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_no_array_has_all_tokens_and_all_classes(reduction):
    arrays = {"input": jnp.ones((64, 4), jnp.float32), "linear_weight": jnp.ones((50, 4), jnp.float32)}
    loss = loss_of_arrays(
        "chunked", jnp.zeros(64, int), reduction, chunk_size=8, label_smoothing=0.1, z_loss=0.1
    )
    for function in (jax.value_and_grad(loss), jax.grad(lambda a: jax.jvp(loss, (a,), (a,))[1])):
        assert max(_sizes(function, arrays)) < 64 * 50


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compiled_programs_keep_no_logits(reduction):
    arrays = {"input": jnp.ones((512, 4), jnp.float32), "linear_weight": jnp.ones((300, 4), jnp.float32)}
    loss = loss_of_arrays("chunked", jnp.zeros(512, int), reduction, chunk_size=8)

    def gradient_norm(arrays):
        return sum(jnp.sum(g**2) for g in jax.tree.leaves(jax.grad(loss)(arrays)))

    for function in (jax.grad(loss), jax.grad(gradient_norm)):
        memory = jax.jit(function).lower(arrays).compile().memory_analysis()
        assert memory.temp_size_in_bytes < 512 * 300 * 4 / 4


@pytest.mark.parametrize(
    ("shape", "heads", "vocabulary", "chunk_size", "num_chunks"),
    [
        # Left to the library, on CPU: sixteen chunks, of 256 tokens at least, of 2^23 logits at most.
        ((8192,), (), 8, None, 16),
        ((2048,), (), 32000, None, 8),
        ((2**16,), (), 2**13, None, 64),
        ((1024,), (), 2**17, None, 8),
        # Never more tokens than asked for; without padding where less than twice as many chunks allow it.
        ((6,), (), 8, 1, 6),
        ((8,), (2,), 8, 4, 4),
        ((10,), (), 8, 4, 5),
        ((25,), (), 8, 13, 2),
        # A batch sharded over its first axis stays as it lies.
        ((4, 6), (), 8, 7, 6),
    ],
)
def test_tokens_are_cut_into_chunks(shape, heads, vocabulary, chunk_size, num_chunks):
    hidden, head = jax.ShapeDtypeStruct((*shape, 1), jnp.float32), jnp.ones((vocabulary, *heads, 1))
    labels, options = jnp.zeros((*shape, *heads), int), CHUNKED | {"chunk_size": chunk_size}
    program = jax.make_jaxpr(lambda hidden: linear_cross_entropy(hidden, head, labels, **options))(hidden)
    scans = [e.params["length"] for e in _equations(program.jaxpr) if e.primitive.name == "scan"]
    assert scans == [num_chunks]


def test_a_frozen_weight_costs_no_third_product():
    arrays, target, _ = jax_problem({}, "labels")
    hidden, head = arrays["input"], arrays["linear_weight"]

    def flops(argnums):
        gradient = jax.grad(
            lambda h, w: loss_of_arrays("chunked", target)({"input": h, "linear_weight": w}), argnums
        )
        return jax.jit(gradient).lower(hidden, head).compile().cost_analysis()["flops"]

    product = 2 * 5 * hidden.shape[1] * NUM_CLASSES  # of one chunk, which is what the loop's body counts
    assert flops((0, 1)) - flops(0) > 0.9 * product
    assert flops((0, 1)) - flops(1) > 0.9 * product


@pytest.mark.parametrize(("reduction", "num_products"), [("mean", 3), ("none", 4)])
def test_gradients_and_statistics_cost_no_other_product(reduction, num_products):
    arrays, target, _ = jax_problem({}, "labels")

    options = {"target": target, "reduction": reduction, "implementation": "chunked", "chunk_size": 5}

    def total(arrays):
        return jnp.sum(linear_cross_entropy(**arrays, **options))

    def total_and_statistics(arrays):
        losses, statistics = linear_cross_entropy(**arrays, **options, return_statistics=True)
        return jnp.sum(losses), statistics

    for loss, has_aux in ((total, False), (total_and_statistics, True)):
        assert _num_products(loss, arrays) == 1
        assert _num_products(jax.value_and_grad(loss, has_aux=has_aux), arrays) == num_products
    frozen = jax.grad(lambda hidden: total(arrays | {"input": hidden}))
    assert _num_products(frozen, arrays["input"]) == num_products - 1
    # Of tokens that fit into one chunk, "auto" keeps the logits: nothing is computed twice.
    options |= {"implementation": "auto", "chunk_size": None}
    assert _num_products(jax.value_and_grad(total), arrays) == 3


def test_a_third_derivative_equals_the_references():
    # Linearizing the loop's second derivative drops the rules of custom_jvp functions in it.
    arrays, target, _ = jax_problem({}, "labels")

    def third(implementation):
        loss = loss_of_arrays(implementation, target)
        derivative = lambda scale: jnp.sin(loss(arrays | {"input": scale * arrays["input"]}))  # noqa: E731
        for _ in range(3):
            derivative = jax.grad(derivative)
        return jax.jit(derivative)(0.3)

    assert_within(third("chunked"), third("reference"), VALUE_EPS_OF_MAX)


RNG = np.random.default_rng(0)
HIDDEN, HEAD = jnp.asarray(RNG.standard_normal((7, 2))), jnp.asarray(RNG.standard_normal((5, 2)))
LABELS = jnp.asarray([0, 4, 3, 2, -100, 3, 1])
CHUNKED = {"implementation": "chunked", "chunk_size": 3}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_value_alone_adds_up_over_the_chunks(reduction):
    value = linear_cross_entropy(HIDDEN, HEAD, LABELS, reduction=reduction, **CHUNKED)
    whole = linear_cross_entropy(HIDDEN, HEAD, LABELS, reduction=reduction, implementation="reference")
    assert_within(value, whole, VALUE_EPS_OF_MAX)


def test_a_vocabulary_beyond_the_blocks_of_the_weights_gradient():
    # On CPU the gradient is added to in blocks of 1,024 rows at most: here of 821, one of which overlaps.
    head, labels = jnp.asarray(RNG.standard_normal((4101, 2))), LABELS * 1024
    gradients = [
        jax.grad(lambda w, o=options: linear_cross_entropy(HIDDEN, w, labels, ignore_index=-102400, **o))(
            head
        )
        for options in (CHUNKED, {"implementation": "reference"})
    ]
    assert_within(*gradients, VALUE_EPS_OF_MAX)
    assert jnp.any(gradients[0][4096:] != 0)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_statistics_have_no_derivative(reduction):
    def total(head):
        options = {"reduction": reduction, "return_statistics": True} | CHUNKED
        _, statistics = linear_cross_entropy(HIDDEN, head, LABELS, **options)
        return jnp.sum(statistics.logsumexp + statistics.entropy)

    assert_same(jax.grad(total)(HEAD), np.zeros(HEAD.shape))


def test_a_label_out_of_range_is_never_correct():
    hidden, head = jnp.ones((2, 1)), jnp.array([[1.0], [0.0]])
    options = {"return_statistics": True, "implementation": "chunked", "chunk_size": 1}
    _, statistics = linear_cross_entropy(hidden, head, jnp.array([0, 5]), **options)
    assert_same(statistics.is_correct, [True, False])


def test_heads_of_width_zero_have_a_loss():
    arrays = {"input": HIDDEN[:, :0], "linear_weight": HEAD[:, :0], "linear_bias": HEAD[:, 0]}
    for reduction in ("mean", "none"):
        actual = value_and_gradients(LABELS, reduction, chunk_size=3)(arrays)
        assert_trees_within(actual, value_and_gradients(LABELS, reduction, "reference")(arrays))


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float4_e2m1fn"])
def test_states_of_few_bits_are_multiplied_in_sixteen(dtype):
    # XLA has no product of some of these dtypes, and a chunk's part of a gradient would underflow in them.
    narrow = {"input": HIDDEN.astype(dtype), "linear_weight": HEAD.astype(dtype)}
    value, gradients = value_and_gradients(LABELS, "none", chunk_size=2)(narrow)
    wide = jax.tree.map(lambda a: a.astype(jnp.bfloat16), narrow)
    expected, wide_gradients = value_and_gradients(LABELS, "none", chunk_size=2)(wide)
    assert_same(value, expected)
    for name, gradient in gradients.items():
        assert_same(gradient.astype(jnp.float32), wide_gradients[name].astype(dtype).astype(jnp.float32))


def test_operands_may_be_variables_of_flax():
    arrays = {"input": HIDDEN, "linear_weight": HEAD, "target": jax.nn.softmax(HIDDEN @ HEAD.T)}
    for names in ([], ["target"], list(arrays)):
        held = arrays | {name: nnx.Variable(arrays[name]) for name in names}
        value, gradients = jax.value_and_grad(lambda held: linear_cross_entropy(**held, **CHUNKED))(held)
        gradients = {k: g[...] if k in names else g for k, g in gradients.items()}
        expected = jax.value_and_grad(lambda arrays: linear_cross_entropy(**arrays, **CHUNKED))(arrays)
        jax.tree.map(assert_same, (value, gradients), expected)
