"""The chunked head equals the whole one and torch's: every option and reduction, extremes, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import torch_ref.fused.api as torch_api
from jaxloss.fused import (
    linear_cross_entropy,
    linear_final_token_loss,
    linear_log_prob,
    linear_next_token_loss,
)
from jaxloss.losses import cross_entropy, final_token_loss, next_token_loss
from parity_tests.compare import assert_same, assert_within
from parity_tests.fused.problems import (
    NUM_CLASSES,
    NUM_TOKENS,
    OPTIONS,
    assert_trees_within,
    cotangent,
    jax_problem,
    loss_of_arrays,
    torch_problem,
    value_and_gradients,
)
from parity_tests.tolerances import VALUE_EPS_OF_MAX


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("target_kind", ["labels", "probabilities"])
def test_values_and_gradients_equal_torchs(options, target_kind):
    for implementation, reduction in (("chunked", "mean"), ("chunked", "none"), ("reference", "sum")):
        arrays, target, kwargs = jax_problem(OPTIONS[options], target_kind)
        value, gradients = value_and_gradients(target, reduction, implementation, **kwargs)(arrays)
        tensors, torch_target, torch_kwargs = torch_problem(OPTIONS[options], target_kind)
        expected = torch_api.linear_cross_entropy(
            **tensors,
            target=torch_target,
            reduction=reduction,
            implementation=implementation,
            chunk_size=8,
            **torch_kwargs,
        )
        expected.backward(torch.asarray(cotangent(tuple(expected.shape))))
        what = f"{implementation} {reduction}"
        assert_within(value, expected, VALUE_EPS_OF_MAX, what=what)
        for name, gradient in gradients.items():
            assert_within(gradient, tensors[name].grad, VALUE_EPS_OF_MAX, what=f"{what} {name}")


@pytest.mark.parametrize("target_kind", ["labels", "probabilities"])
def test_equals_cross_entropy_of_the_logits(target_kind):
    # The other oracle: the head's two implementations share the loss of a token.
    arrays, target, kwargs = jax_problem(OPTIONS["class weights and smoothing"], target_kind)

    def of_logits(arrays):
        logits = arrays["input"] @ arrays["linear_weight"].T + arrays["linear_bias"][None]
        return cross_entropy(logits, target, **kwargs)

    def of_hidden(arrays):
        return linear_cross_entropy(**arrays, target=target, implementation="chunked", chunk_size=5, **kwargs)

    assert_trees_within(jax.value_and_grad(of_hidden)(arrays), jax.value_and_grad(of_logits)(arrays))


def test_small_operands_have_gradients():
    arrays, target, kwargs = jax_problem(OPTIONS["masks and weights"], "labels")

    def gradients(implementation):
        def loss(weight, sample_weight, logit_scale):
            options = {"weight": weight, "sample_weight": sample_weight, "logit_scale": logit_scale}
            options["z_loss"] = 0.1
            return loss_of_arrays(implementation, target, **(kwargs | options))(arrays)

        return jax.grad(loss, (0, 1, 2))(kwargs["weight"], kwargs["sample_weight"], jnp.asarray(0.7))

    assert_trees_within(gradients("chunked"), gradients("reference"))


def test_probabilities_have_gradients():
    arrays, target, _ = jax_problem({}, "probabilities")
    actual, expected = (
        jax.grad(lambda p, i=i: loss_of_arrays(i, p, label_smoothing=0.1)(arrays))(target)
        for i in ("chunked", "reference")
    )
    assert_within(actual, expected, VALUE_EPS_OF_MAX)


def test_masked_tokens_may_hold_nan():
    arrays, target, kwargs = jax_problem(OPTIONS["masks and weights"], "labels")
    hole = arrays["input"].at[~kwargs["where"]].set(jnp.nan)
    clean = jax.value_and_grad(loss_of_arrays("chunked", target, **kwargs))(arrays)
    dirty = jax.value_and_grad(loss_of_arrays("chunked", target, **kwargs))(arrays | {"input": hole})
    jax.tree.map(assert_same, dirty, clean)


@pytest.mark.parametrize("implementation", ["chunked", "reference"])
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_masked_tokens_may_have_any_label_and_loss(implementation, reduction):
    # A label that is no class, and one whose logit is -inf: neither reaches any gradient.
    arrays = {
        "input": jnp.ones((3, 2)),
        "linear_weight": jnp.arange(8.0).reshape(4, 2),
        "linear_bias": jnp.array([-jnp.inf, 0.0, 1.0, 0.0]),
        "weight": jnp.array([0.5, 1.0, 2.0, 1.5]),
        "sample_weight": jnp.ones(3),
    }

    def total(arrays, rows, target, where):
        of_rows = {k: arrays[k][rows] for k in ("input", "sample_weight")}
        options = {"implementation": implementation, "chunk_size": 1, "reduction": reduction}
        return jnp.sum(linear_cross_entropy(**arrays | of_rows, target=target, where=where, **options))

    masked = jax.grad(total)(arrays, slice(None), jnp.array([2, 9999, 0]), jnp.array([True, False, False]))
    alone = jax.grad(total)(arrays, slice(0, 1), jnp.array([2]), None)
    for name, gradient in masked.items():
        assert_within(gradient, alone[name], VALUE_EPS_OF_MAX, what=name)


@pytest.mark.parametrize("weight", [[1.0, 0.0, 0.0], [0.0, 1.0, 2.0]])
def test_smoothing_with_class_weights_keeps_confident_logits_and_zero_weights(weight):
    logits, labels = jnp.array([[40.0, 0.0, 0.0], [1.0, 2.0, 0.5]]), jnp.array([0, 1])

    def of_head(logits, weight):
        options = {"weight": weight, "label_smoothing": 0.1, "reduction": "none"}
        return linear_cross_entropy(logits, jnp.eye(3), labels, **options)

    def of_logits(logits, weight):
        return cross_entropy(logits, labels, weight, label_smoothing=0.1, reduction="none")

    (actual, pull_back), (expected, pull_back_too) = (
        jax.vjp(loss, logits, jnp.array(weight)) for loss in (of_head, of_logits)
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-14)
    assert_trees_within(pull_back(jnp.ones(2)), pull_back_too(jnp.ones(2)))


def test_no_token_gives_nan_and_zero():
    arrays, target, _ = jax_problem({}, "labels")
    for implementation in ("chunked", "reference"):
        nobody = jnp.full_like(target, -100)
        mean, gradients = jax.value_and_grad(loss_of_arrays(implementation, nobody))(arrays)
        total = loss_of_arrays(implementation, nobody, "sum")(arrays)
        assert jnp.isnan(mean)
        assert total == 0.0
        assert all(jnp.all(g == 0.0) for g in jax.tree.leaves(gradients))
    for shape in ((0,), (0, 3)):
        empty = arrays | {"input": jnp.zeros((*shape, 6))}
        assert loss_of_arrays("chunked", jnp.zeros(shape, int), "sum")(empty) == 0.0


@pytest.mark.parametrize("label", [-1, NUM_CLASSES])
def test_a_label_out_of_range_poisons(label):
    arrays, target, _ = jax_problem({}, "labels")
    for options in ({}, {"label_smoothing": 0.1}, {"reduction": "none"}):
        value, gradients = jax.value_and_grad(loss_of_arrays("chunked", target.at[9].set(label), **options))(
            arrays
        )
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


@pytest.mark.parametrize("target_kind", ["labels", "probabilities"])
def test_statistics_equal_torchs(target_kind):
    arrays, target, kwargs = jax_problem(OPTIONS["masks and weights"], target_kind)

    def loss(arrays, implementation):
        options = {"implementation": implementation, "chunk_size": 5, "return_statistics": True}
        return linear_cross_entropy(**arrays, target=target, **options, **kwargs)

    tensors, torch_target, torch_kwargs = torch_problem(OPTIONS["masks and weights"], target_kind)
    _, expected = torch_api.linear_cross_entropy(
        **tensors, target=torch_target, return_statistics=True, **torch_kwargs
    )
    for implementation in ("chunked", "reference"):
        (_, statistics), _ = jax.jit(
            lambda a, i=implementation: jax.value_and_grad(loss, has_aux=True)(a, i)
        )(arrays)
        assert statistics.is_correct.dtype == bool
        for name in statistics._fields:
            actual, wanted = getattr(statistics, name), getattr(expected, name)
            assert_within(actual, wanted, VALUE_EPS_OF_MAX, "float64", what=f"{implementation} {name}")


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
    "sample_weight must have shape [23]": {"sample_weight": jnp.ones((23, 1))},
    "chunk_size must be at least 1": {"chunk_size": 0},
    "implementation must be one of": {"implementation": "chunk"},
    "reduction must be one of": {"reduction": "avg"},
    "label_smoothing must be in [0, 1]": {"label_smoothing": 1.5},
    "z_loss must be in [0, inf)": {"z_loss": -1.0},
    "logit_softcap must be in (0, inf)": {"logit_softcap": 0.0},
    "logit_scale must be a number or an array without axes": {"logit_scale": jnp.ones(3)},
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


RNG = np.random.default_rng(5)
HIDDEN, HEAD = RNG.standard_normal((4, 6, 5)), RNG.standard_normal((9, 5))
TARGET = RNG.integers(0, 9, (4, 6))
TARGET[1, -1] = -100
WHERE = RNG.random((4, 6)) > 0.2
OBJECTIVES = {
    "next": (linear_next_token_loss, next_token_loss, torch_api.linear_next_token_loss),
    "final": (linear_final_token_loss, final_token_loss, torch_api.linear_final_token_loss),
}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_objectives_equal_those_of_the_logits_and_torchs(objective):
    fused, from_logits, in_torch = OBJECTIVES[objective]
    target, where = jnp.asarray(TARGET), jnp.asarray(WHERE)

    def loss(hidden, head):
        options = {"logit_scale": 0.5, "where": where, "implementation": "chunked", "chunk_size": 8}
        return fused(hidden, head, target, **options)

    def expected(hidden, head):
        return from_logits(0.5 * hidden @ head.T, target, where=where)

    hidden, head = jnp.asarray(HIDDEN), jnp.asarray(HEAD)
    actual = jax.value_and_grad(loss, (0, 1))(hidden, head)
    whole = jax.value_and_grad(expected, (0, 1))(hidden, head)
    tensors = [torch.tensor(a, requires_grad=True) for a in (HIDDEN, HEAD)]
    torch_loss = in_torch(*tensors, torch.asarray(TARGET), logit_scale=0.5, where=torch.asarray(WHERE))
    torch_loss.backward()
    in_torch_too = (torch_loss, tuple(t.grad for t in tensors))
    for other in (whole, in_torch_too):
        for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(other), strict=True):
            assert_within(a, b, VALUE_EPS_OF_MAX)
    one_sequence = from_logits(hidden[0] @ head.T, target[0])
    assert_within(fused(hidden[0], head, target[0]), one_sequence, VALUE_EPS_OF_MAX)


def test_final_token_does_not_look_at_earlier_positions():
    hidden = jnp.asarray(HIDDEN).at[:, :-1].set(jnp.nan)
    gradient = jax.grad(lambda h: linear_final_token_loss(h, jnp.asarray(HEAD), jnp.asarray(TARGET)))(hidden)
    assert jnp.all(gradient[:, :-1] == 0.0)
    assert jnp.all(jnp.isfinite(gradient[:, -1]))


def test_bad_shapes_of_a_language_models_arrays_are_named():
    with pytest.raises(ValueError, match=r"input must have shape \[..., T, D\]"):
        linear_next_token_loss(jnp.ones(5), jnp.asarray(HEAD), jnp.asarray(TARGET))
    with pytest.raises(ValueError, match=r"linear_weight must have shape \[V, D\]"):
        linear_next_token_loss(jnp.asarray(HIDDEN), jnp.ones((9, 2, 5)), jnp.asarray(TARGET))
    with pytest.raises(ValueError, match="input must have at least one position"):
        linear_final_token_loss(jnp.ones((2, 0, 5)), jnp.asarray(HEAD), jnp.zeros((2, 0), int))
    with pytest.raises(ValueError, match=r"target must have shape \[4, 6\]"):
        linear_final_token_loss(jnp.asarray(HIDDEN), jnp.asarray(HEAD), jnp.zeros((4, 5), int))
