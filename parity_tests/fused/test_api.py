"""The chunked head equals the whole one: every option, reduction and transform, and nothing of N x V in
memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import torch_ref.fused.api as torch_api
from jaxloss.fused import linear_cross_entropy, linear_log_prob
from parity_tests.compare import assert_same, assert_within
from parity_tests.fused.problems import NUM_CLASSES, NUM_TOKENS, OPTIONS, jax_problem, torch_problem
from parity_tests.tolerances import VALUE_EPS_OF_MAX


def _loss(implementation, target, reduction="mean", chunk_size=5, **kwargs):
    """The loss of differentiable arrays, and with "none" its product with a fixed cotangent."""

    def loss(arrays):
        losses = linear_cross_entropy(
            arrays["input"],
            arrays["linear_weight"],
            target,
            linear_bias=arrays.get("linear_bias"),
            reduction=reduction,
            implementation=implementation,
            chunk_size=chunk_size,
            **kwargs,
        )
        cotangent = np.random.default_rng(1).uniform(0.5, 2.0, losses.shape)
        return jnp.sum(losses * jnp.asarray(cotangent, losses.dtype))

    return loss


def _assert_trees_within(actual, expected, eps_of_max=VALUE_EPS_OF_MAX):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert_within(a, b, eps_of_max)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("target_kind", ["labels", "probabilities"])
def test_chunked_equals_torch(options, target_kind):
    for reduction in ("mean", "none"):
        arrays, target, kwargs = jax_problem(OPTIONS[options], target_kind)
        value, gradients = jax.jit(jax.value_and_grad(_loss("chunked", target, reduction, **kwargs)))(arrays)
        tensors, torch_target, torch_kwargs = torch_problem(OPTIONS[options], target_kind)
        losses = torch_api.linear_cross_entropy(
            tensors["input"],
            tensors["linear_weight"],
            torch_target,
            linear_bias=tensors["linear_bias"],
            reduction=reduction,
            implementation="chunked",
            chunk_size=8,
            **torch_kwargs,
        )
        cotangent = np.random.default_rng(1).uniform(0.5, 2.0, tuple(losses.shape))
        expected = (losses * torch.asarray(cotangent)).sum()
        expected.backward()
        assert_within(value, expected, VALUE_EPS_OF_MAX, what=reduction)
        for name, gradient in gradients.items():
            assert_within(gradient, tensors[name].grad, VALUE_EPS_OF_MAX, what=f"{reduction} {name}")


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_any_chunk_size_and_scale_give_the_same(dtype):
    # On a grid of integers the logits are exact, so that huge ones do not magnify a rounding of the product.
    arrays = jax.tree.map(lambda a: jnp.round(2 * a), jax_problem({}, "labels", dtype)[0])
    target = jax_problem({}, "labels")[1]
    expected = jax.jit(jax.value_and_grad(_loss("reference", target)))
    for chunk_size in (1, 4, 100):
        actual = jax.jit(jax.value_and_grad(_loss("chunked", target, chunk_size=chunk_size)))
        for scale in (2.0**-6, 1.0, 2.0**8):
            scaled = arrays | {"linear_weight": arrays["linear_weight"] * scale}
            _assert_trees_within(actual(scaled), expected(scaled))


@pytest.mark.parametrize("num_tokens", [1, 7])
def test_token_counts_that_are_prime(num_tokens):
    arrays, target, _ = jax_problem({}, "labels")
    arrays["input"] = arrays["input"][:num_tokens]
    expected = jax.value_and_grad(_loss("reference", target[:num_tokens]))(arrays)
    _assert_trees_within(
        jax.value_and_grad(_loss("chunked", target[:num_tokens], chunk_size=3))(arrays), expected
    )


def test_small_operands_have_gradients():
    arrays, target, kwargs = jax_problem(OPTIONS["masks and weights"], "labels")

    def gradients(implementation):
        def loss(weight, token_weight, logit_scale):
            options = {"weight": weight, "token_weight": token_weight, "logit_scale": logit_scale}
            return _loss(implementation, target, **(kwargs | options))(arrays)

        return jax.grad(loss, (0, 1, 2))(kwargs["weight"], kwargs["token_weight"], jnp.asarray(0.7))

    _assert_trees_within(gradients("chunked"), gradients("reference"))


def test_probabilities_have_gradients():
    arrays, target, _ = jax_problem({}, "probabilities")
    actual, expected = (
        jax.grad(lambda p, i=i: _loss(i, p, label_smoothing=0.1)(arrays))(target)
        for i in ("chunked", "reference")
    )
    assert_within(actual, expected, VALUE_EPS_OF_MAX)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_every_transform_equals_the_reference(reduction):
    arrays, target, _ = jax_problem({}, "labels")
    del arrays["linear_bias"]
    tangents = jax.tree.map(lambda a: jnp.asarray(np.random.default_rng(2).standard_normal(a.shape)), arrays)

    def transformed(implementation):
        f = _loss(implementation, target, reduction)

        def in_scan(weight):
            def step(w, _):
                return 0.9 * w, f(arrays | {"linear_weight": w})

            return jnp.sum(jax.lax.scan(step, weight, None, length=2)[1])

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
            "grad of vmap": jax.grad(lambda both: jnp.sum(jax.vmap(f)(both)))(both),
            "checkpoint": jax.grad(jax.checkpoint(f))(arrays),
            "scan": jax.grad(in_scan)(arrays["linear_weight"]),
            "jacfwd": jax.jacfwd(
                lambda row: f(arrays | {"linear_weight": arrays["linear_weight"].at[0].set(row)})
            )(arrays["linear_weight"][0]),
        }

    actual, expected = jax.jit(lambda: transformed("chunked"))(), jax.jit(lambda: transformed("reference"))()
    for name in expected:
        for a, b in zip(jax.tree.leaves(actual[name]), jax.tree.leaves(expected[name]), strict=True):
            assert_within(a, b, VALUE_EPS_OF_MAX, what=name)


def test_masked_tokens_may_hold_nan():
    arrays, target, kwargs = jax_problem(OPTIONS["masks and weights"], "labels")
    hole = arrays["input"].at[~kwargs["where"]].set(jnp.nan)
    clean = jax.value_and_grad(_loss("chunked", target, **kwargs))(arrays)
    dirty = jax.value_and_grad(_loss("chunked", target, **kwargs))(arrays | {"input": hole})
    jax.tree.map(assert_same, dirty, clean)


def test_no_token_gives_nan_and_zero():
    arrays, target, _ = jax_problem({}, "labels")
    for implementation in ("chunked", "reference"):
        nobody = jnp.full_like(target, -100)
        mean, gradients = jax.value_and_grad(_loss(implementation, nobody))(arrays)
        total = _loss(implementation, nobody, "sum")(arrays)
        assert jnp.isnan(mean)
        assert total == 0.0
        assert all(jnp.all(g == 0.0) for g in jax.tree.leaves(gradients))
    empty = jax_problem({}, "labels")[0] | {"input": jnp.zeros((0, 6))}
    assert _loss("chunked", jnp.zeros(0, int), "sum")(empty) == 0.0


@pytest.mark.parametrize("label", [-1, NUM_CLASSES])
def test_a_label_out_of_range_poisons(label):
    arrays, target, _ = jax_problem({}, "labels")
    for options in ({}, {"label_smoothing": 0.1}, {"reduction": "none"}):
        value, gradients = jax.value_and_grad(_loss("chunked", target.at[9].set(label), **options))(arrays)
        assert jnp.isnan(value)
        assert jnp.all(jnp.isnan(gradients["input"][9]))


def test_confident_logits_keep_their_accuracy():
    margins = jnp.array([5.0, 20.0, 40.0, 80.0], jnp.float32)
    weight = jnp.array([[1.0], [0.0]], jnp.float32)
    labels = jnp.zeros(4, int)

    def losses(hidden):
        return linear_cross_entropy(
            hidden, weight, labels, reduction="none", implementation="chunked", chunk_size=2
        )

    def total(hidden):
        return linear_cross_entropy(
            hidden, weight, labels, reduction="sum", implementation="chunked", chunk_size=2
        )

    wide = np.asarray(margins, np.float64)
    np.testing.assert_allclose(losses(margins[:, None]), np.log1p(np.exp(-wide)), rtol=4 * 2**-23)
    gradient = jax.grad(total)(margins[:, None])[:, 0]
    np.testing.assert_allclose(gradient, -np.exp(-wide) / (1 + np.exp(-wide)), rtol=8 * 2**-23)


def test_bfloat16_error_does_not_grow_as_the_chunk_shrinks():
    rng = np.random.default_rng(3)
    exact = {
        "input": jnp.asarray(rng.standard_normal((256, 16)), jnp.bfloat16),
        "linear_weight": jnp.asarray(rng.standard_normal((32, 16)), jnp.bfloat16),
    }
    target = jnp.asarray(rng.integers(0, 32, 256))
    wide = jax.tree.map(lambda a: a.astype(jnp.float64), exact)
    for reduction in ("mean", "none"):
        expected = jax.jit(jax.value_and_grad(_loss("reference", target, reduction)))(wide)
        for chunk_size in (256, 1):
            actual = jax.jit(jax.value_and_grad(_loss("chunked", target, reduction, chunk_size)))(exact)
            assert actual[0].dtype == jnp.float32
            assert actual[1]["linear_weight"].dtype == jnp.bfloat16
            assert_within(actual[0], expected[0], 256.0, what="value, in eps of float32")
            for name in exact:
                assert_within(actual[1][name], expected[1][name], 2.0, "bfloat16", what=name)


def _shapes(jaxpr):
    for equation in jaxpr.eqns:
        yield from (tuple(v.aval.shape) for v in equation.outvars if hasattr(v.aval, "shape"))
        for parameter in jax.tree.leaves(
            equation.params, is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")
        ):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from _shapes(inner)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_no_array_has_all_tokens_and_all_classes(reduction):
    arrays = {"input": jnp.ones((64, 4), jnp.float32), "linear_weight": jnp.ones((50, 4), jnp.float32)}
    loss = _loss("chunked", jnp.zeros(64, int), reduction, chunk_size=8, label_smoothing=0.1, z_loss=0.1)
    for function in (jax.value_and_grad(loss), jax.grad(lambda a: jax.jvp(loss, (a,), (a,))[1])):
        sizes = [np.prod(shape, dtype=int) for shape in _shapes(jax.make_jaxpr(function)(arrays).jaxpr)]
        assert max(sizes) < 64 * 50


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compiled_programs_keep_no_logits(reduction):
    arrays = {"input": jnp.ones((512, 4), jnp.float32), "linear_weight": jnp.ones((300, 4), jnp.float32)}
    loss = _loss("chunked", jnp.zeros(512, int), reduction, chunk_size=8)

    def gradient_norm(arrays):
        return sum(jnp.sum(g**2) for g in jax.tree.leaves(jax.grad(loss)(arrays)))

    for function in (jax.grad(loss), jax.grad(gradient_norm)):
        memory = jax.jit(function).lower(arrays).compile().memory_analysis()
        assert memory.temp_size_in_bytes < 512 * 300 * 4 / 4


def test_a_frozen_weight_costs_no_third_product():
    arrays, target, _ = jax_problem({}, "labels")
    hidden, head = arrays["input"], arrays["linear_weight"]

    def flops(argnums):
        gradient = jax.grad(lambda h, w: _loss("chunked", target)({"input": h, "linear_weight": w}), argnums)
        return jax.jit(gradient).lower(hidden, head).compile().cost_analysis()["flops"]

    product = 2 * 5 * hidden.shape[1] * NUM_CLASSES  # of one chunk, which is what the loop's body counts
    assert flops((0, 1)) - flops(0) > 0.9 * product
    assert flops((0, 1)) - flops(1) > 0.9 * product


def test_statistics_equal_the_references():
    arrays, target, kwargs = jax_problem(OPTIONS["masks and weights"], "labels")
    for chosen in (target, jax_problem({}, "probabilities")[1]):
        results = [
            linear_cross_entropy(
                arrays["input"],
                arrays["linear_weight"],
                chosen,
                implementation=implementation,
                chunk_size=5,
                return_statistics=True,
                **kwargs,
            )
            for implementation in ("chunked", "reference")
        ]
        for actual, expected in zip(*(jax.tree.leaves(result) for result in results), strict=True):
            assert_within(actual, expected, VALUE_EPS_OF_MAX, "float64")


def test_log_prob_is_minus_the_loss():
    arrays, target, _ = jax_problem({}, "labels")
    log_probs = linear_log_prob(arrays["input"], arrays["linear_weight"], target, chunk_size=5)
    expected = jax.nn.log_softmax(arrays["input"] @ arrays["linear_weight"].T)[jnp.arange(NUM_TOKENS), target]
    assert_within(log_probs, jnp.where(target == -100, 0.0, expected), VALUE_EPS_OF_MAX)


BAD = {
    "input must have shape": {"input": jnp.ones(())},
    "linear_weight must have shape [V, 6], the width of input": {"linear_weight": jnp.ones((11, 5))},
    "linear_weight must have shape [V, D]": {"linear_weight": jnp.ones(6)},
    "linear_bias must have shape [11]": {"linear_bias": jnp.ones(10)},
    "target must have shape [23]": {"target": jnp.zeros((23, 1), int)},
    "target must have shape [23, 11]": {"target": jnp.zeros(23)},
    "weight must have shape [11]": {"weight": jnp.ones(23)},
    "where must have shape [23]": {"where": jnp.ones(1, bool)},
    "token_weight must have shape [23]": {"token_weight": jnp.ones((23, 1))},
    "chunk_size must be at least 1": {"chunk_size": 0},
    "implementation must be one of": {"implementation": "chunk"},
    "reduction must be one of": {"reduction": "avg"},
    "label_smoothing must be in [0, 1]": {"label_smoothing": 1.5},
    "z_loss must be in [0, inf)": {"z_loss": -1.0},
    "logit_softcap must be in (0, inf)": {"logit_softcap": 0.0},
    "logit_scale must have shape []": {"logit_scale": jnp.ones(3)},
    "ignore_index must be None": {"target": jnp.ones((23, 11)), "ignore_index": 3},
    "axis_name must be a mesh axis": {"axis_name": "model"},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arguments_are_named(message):
    arrays, target, _ = jax_problem({}, "labels")
    arguments = arrays | {"target": target} | BAD[message]
    with pytest.raises(ValueError) as error:  # noqa: PT011
        linear_cross_entropy(**arguments)
    assert str(error.value).startswith(message)
