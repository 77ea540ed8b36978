"""Hybrid losses against torch, and what their weights do."""

import inspect
import pickle
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from jaxloss.losses import compose, make_checked
from jaxloss.losses.regression import l1_loss, mse_loss
from parity_tests.compare import assert_same, assert_within
from parity_tests.tolerances import VALUE_EPS_OF_MAX
from torch_ref.losses import compose as torch_side
from torch_ref.losses.regression import l1_loss as torch_l1_loss
from torch_ref.losses.regression import mse_loss as torch_mse_loss

LOSSES, TORCH_LOSSES = {"l1": l1_loss, "l2": mse_loss}, {"l1": torch_l1_loss, "l2": torch_mse_loss}
rng = np.random.default_rng(0)
Y_HAT, Y = rng.standard_normal((2, 6))


@pytest.mark.parametrize("step", [0, 25, 100, 1000])
def test_scheduled_weights_match_torch(step):
    schedule = optax.linear_schedule(2.0, 1.0, 100)
    ours = compose.make_hybrid_loss(LOSSES, {"l1": 0.5, "l2": schedule})
    theirs = torch_side.make_hybrid_loss(TORCH_LOSSES, {"l1": 0.5, "l2": lambda step: float(schedule(step))})
    value, gradient = jax.value_and_grad(lambda x: ours(x, jnp.asarray(Y), step=step))(jnp.asarray(Y_HAT))
    y_hat = torch.tensor(Y_HAT, requires_grad=True)
    expected = theirs(y_hat, torch.tensor(Y), step=step)
    expected.backward()
    assert_within(value, expected, VALUE_EPS_OF_MAX)
    assert_within(gradient, y_hat.grad, VALUE_EPS_OF_MAX)


def test_learnt_weights_match_torch():
    likelihoods = {"l1": "softmax", "l2": "gaussian"}
    ours = compose.make_uncertainty_weighted_loss(LOSSES, likelihoods)
    theirs = torch_side.make_uncertainty_weighted_loss(TORCH_LOSSES, likelihoods)
    logs = {"l1": 0.3, "l2": -1.2}
    value, (gradient, log_gradient) = jax.value_and_grad(
        lambda x, logs: ours(x, jnp.asarray(Y), logs), (0, 1)
    )(jnp.asarray(Y_HAT), {name: jnp.asarray(value) for name, value in logs.items()})
    y_hat = torch.tensor(Y_HAT, requires_grad=True)
    tensors = {
        name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in logs.items()
    }
    expected = theirs(y_hat, torch.tensor(Y), tensors)
    expected.backward()
    assert_within(value, expected, VALUE_EPS_OF_MAX)
    assert_within(gradient, y_hat.grad, VALUE_EPS_OF_MAX)
    for name, tensor in tensors.items():
        assert_within(log_gradient[name], tensor.grad, VALUE_EPS_OF_MAX)


def test_terms_come_back_unweighted_beside_the_sum():
    hybrid = compose.make_hybrid_loss(LOSSES, {"l1": 2.0, "l2": jnp.asarray(3.0)})
    total, terms = hybrid(jnp.asarray(Y_HAT), jnp.asarray(Y), return_terms=True)
    expected = {name: loss(jnp.asarray(Y_HAT), jnp.asarray(Y)) for name, loss in LOSSES.items()}
    assert_same(terms["l1"], expected["l1"])
    assert_same(terms["l2"], expected["l2"])
    assert_within(total, 2 * expected["l1"] + 3 * expected["l2"], VALUE_EPS_OF_MAX)
    (_, terms), _ = jax.value_and_grad(lambda x: hybrid(x, jnp.asarray(Y), return_terms=True), has_aux=True)(
        jnp.asarray(Y_HAT)
    )
    assert set(terms) == {"l1", "l2"}


def test_options_reach_every_loss():
    mask = jnp.arange(6) < 4
    hybrid = compose.make_hybrid_loss(LOSSES, {"l1": 1.0, "l2": 1.0})
    masked = hybrid(jnp.asarray(Y_HAT).at[4:].set(jnp.nan), jnp.asarray(Y), where=mask)
    assert_within(masked, hybrid(jnp.asarray(Y_HAT[:4]), jnp.asarray(Y[:4])), VALUE_EPS_OF_MAX)


def test_a_hybrid_is_a_loss_that_can_be_combined_again():
    inner = compose.make_hybrid_loss(LOSSES, {"l1": 1.0, "l2": 2.0})
    outer = compose.make_hybrid_loss({"inner": inner, "l1": l1_loss}, {"inner": 0.5, "l1": 0.5})
    expected = compose.make_hybrid_loss(LOSSES, {"l1": 1.0, "l2": 1.0})
    arguments = jnp.asarray(Y_HAT), jnp.asarray(Y)
    assert_within(outer(*arguments), expected(*arguments), VALUE_EPS_OF_MAX)


def test_learnt_weights_reach_the_noise_of_each_loss():
    # At the optimum s = log(L) for a Gaussian and log(2 L) for a softmax likelihood.
    hybrid = compose.make_uncertainty_weighted_loss(LOSSES, {"l1": "softmax", "l2": "gaussian"})
    logs = compose.init_log_variances(LOSSES)
    step = jax.jit(
        lambda logs: jax.tree.map(
            lambda s, g: s - 0.5 * g,
            logs,
            jax.grad(lambda logs: hybrid(jnp.asarray(Y_HAT), jnp.asarray(Y), logs).astype(jnp.float32))(logs),
        )
    )
    for _ in range(200):
        logs = step(logs)
    np.testing.assert_allclose(logs["l1"], np.log(2 * np.abs(Y_HAT - Y).mean()), atol=1e-5)
    np.testing.assert_allclose(logs["l2"], np.log(np.square(Y_HAT - Y).mean()), atol=1e-5)


def test_step_and_weights_may_be_traced():
    weight = optax.linear_schedule(0.0, 1.0, 10)

    @jax.jit
    def loss(y_hat, step, fixed):
        hybrid = compose.make_hybrid_loss(LOSSES, {"l1": fixed, "l2": weight})
        return hybrid(y_hat, jnp.asarray(Y), step=step)

    for step in (0, 5, 20):
        expected = 3.0 * l1_loss(jnp.asarray(Y_HAT), jnp.asarray(Y)) + min(step / 10, 1) * mse_loss(
            jnp.asarray(Y_HAT), jnp.asarray(Y)
        )
        assert_within(loss(jnp.asarray(Y_HAT), step, 3.0), expected, VALUE_EPS_OF_MAX)


def _explode(y_hat, y):
    raise AssertionError("computed")


@pytest.mark.parametrize("zero", [0, np.float32(0), np.float64(0), np.array(0.0)])
def test_a_loss_whose_weight_is_the_number_0_is_not_computed(zero):
    hybrid = compose.make_hybrid_loss({"l1": l1_loss, "off": _explode}, {"l1": 1.0, "off": zero})
    assert_same(hybrid(jnp.asarray(Y_HAT), jnp.asarray(Y)), l1_loss(jnp.asarray(Y_HAT), jnp.asarray(Y)))


def _log_barrier(y_hat, y):
    """Infinite at 0, with an infinite gradient."""
    return -jnp.sum(jnp.log(y_hat)) + jnp.sum(y)


@pytest.mark.parametrize("at", [0.0, np.float32(0), jnp.float32(0)], ids=["number", "numpy", "array"])
@pytest.mark.parametrize("compile", [jax.jit, lambda f: f], ids=["jit", "eager"])
def test_an_infinite_loss_annealed_to_weight_0_adds_nothing(at, compile):
    losses = {"l2": mse_loss, "barrier": _log_barrier}
    annealed = compose.make_hybrid_loss(losses, {"l2": 1.0, "barrier": lambda step: at * step})
    fixed = compose.make_hybrid_loss(losses, {"l2": 1.0, "barrier": 0})
    y = jnp.asarray(Y)

    def run(hybrid):
        def loss(x, step):
            return hybrid(x, y, step=step, return_terms=True)

        return compile(jax.value_and_grad(loss, has_aux=True))(jnp.zeros(6), 3.0)

    (value, terms), gradient = run(annealed)
    (expected, _), expected_gradient = run(fixed)
    assert_same(terms["barrier"], np.inf)
    assert_same(value, expected)
    assert_same(gradient, expected_gradient)
    along = partial(annealed, y=y, step=3.0)
    tangent = jax.jvp(along, (jnp.zeros(6),), (jnp.ones(6),))[1]
    assert_within(tangent, jnp.sum(expected_gradient), VALUE_EPS_OF_MAX)


def test_a_weight_of_0_can_be_learnt():
    def loss(weight):
        return compose.make_hybrid_loss({"l2": mse_loss}, {"l2": weight})(jnp.asarray(Y_HAT), jnp.asarray(Y))

    assert_same(jax.grad(loss)(0.0), mse_loss(jnp.asarray(Y_HAT), jnp.asarray(Y)))


def test_weights_do_not_widen_the_loss():
    for weight in (jnp.ones(()), np.float64(1), np.ones(()), lambda step: np.float64(step)):
        hybrid = compose.make_hybrid_loss({"l1": l1_loss}, {"l1": weight})
        assert hybrid(jnp.ones(3, jnp.float32), jnp.zeros(3, jnp.float32), step=1).dtype == jnp.float32


def test_what_the_factories_return_can_be_pickled():
    x, y, logs = jnp.asarray(Y_HAT), jnp.asarray(Y), compose.init_log_variances(LOSSES)
    hybrid = compose.make_hybrid_loss(LOSSES, {"l1": 0.5, "l2": jnp.ones(())})
    learnt = compose.make_uncertainty_weighted_loss(LOSSES, {"l1": "softmax", "l2": "gaussian"})
    for loss, arguments in ((hybrid, (x, y)), (learnt, (x, y, logs)), (make_checked(l1_loss), (x, y))):
        copy = pickle.loads(pickle.dumps(loss))
        assert_same(copy(*arguments), loss(*arguments))
        assert_within(jax.jit(loss)(*arguments), loss(*arguments), VALUE_EPS_OF_MAX)
        assert str(inspect.signature(copy)) == str(inspect.signature(loss))
    assert [*inspect.signature(hybrid).parameters] == ["y_hat", "y", "step", "return_terms", "options"]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: compose.make_hybrid_loss({}, {}), ValueError, "losses must hold at least one"),
        (
            lambda: compose.make_hybrid_loss({"a": 1}, {"a": 1.0}),
            TypeError,
            r"'a'\] must be callable",
        ),
        (
            lambda: compose.make_hybrid_loss(LOSSES, {"l1": 1.0}),
            ValueError,
            r"weights must have the names",
        ),
        (
            lambda: compose.make_hybrid_loss({"a": l1_loss}, {"a": "1"}),
            TypeError,
            r"weights\['a'\] must be a number",
        ),
        (
            lambda: compose.make_hybrid_loss({"a": l1_loss}, {"a": jnp.ones(2)}),
            ValueError,
            r"weights\['a'\] must be a number or an array without axes; got float64\[2\]",
        ),
        (
            lambda: compose.make_hybrid_loss({"a": l1_loss}, {"a": np.ones})(
                jnp.ones(2), jnp.ones(2), step=2
            ),
            ValueError,
            r"weights\['a'\] at the step must be a number or an array without axes; got float64\[2\]",
        ),
        (
            lambda: compose.make_uncertainty_weighted_loss({"a": l1_loss}, {"a": "normal"}),
            ValueError,
            r"likelihoods\['a'\] must be one of 'gaussian', 'softmax'",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_bad_calls_are_named():
    hybrid = compose.make_hybrid_loss({"a": l1_loss}, {"a": optax.linear_schedule(0, 1, 5)})
    with pytest.raises(ValueError, match="step must be given: the weight of 'a' depends on it"):
        hybrid(jnp.asarray(Y_HAT), jnp.asarray(Y))
    elementwise = compose.make_hybrid_loss({"a": l1_loss}, {"a": 1.0})
    with pytest.raises(ValueError, match=r"losses\['a'\] must return a scalar; got float64\[6\]"):
        elementwise(jnp.asarray(Y_HAT), jnp.asarray(Y), reduction="none")
    learnt = compose.make_uncertainty_weighted_loss({"a": l1_loss}, {"a": "softmax"})
    with pytest.raises(ValueError, match=r"names of losses, \['a'\]; got \['b'\]"):
        learnt(jnp.asarray(Y_HAT), jnp.asarray(Y), {"b": 0.0})
