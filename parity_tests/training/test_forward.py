"""Any Flax, NNX or plain apply function trains with its own loss."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxloss import training

X = np.linspace(-1, 1, 16)[:, None]
Y = 3 * X


def log_cosh(y_hat, y):
    return jnp.mean(jnp.logaddexp(y_hat - y, y - y_hat) - jnp.log(2.0))


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dropout(0.5, deterministic=not train)(nn.Dense(1)(x))


def linen():
    model = Linen()
    return model.apply, model.init(jax.random.key(0), X, train=False)["params"]


class Wrapped(nn.Module):
    @nn.compact
    def __call__(self, x, **mode):
        return Inner()(x, **mode)


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic=True):
        return nn.Dropout(0.5, deterministic=deterministic)(nn.Dense(1)(x))


def linen_that_hands_on_keywords():
    model = Wrapped()
    return model.apply, model.init(jax.random.key(0), X)["params"]


def nnx_with_dropout():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.dense, self.dropout = nnx.Linear(1, 1, rngs=rngs), nnx.Dropout(0.5)

        def __call__(self, x, rngs):
            return self.dropout(self.dense(x), deterministic=rngs is None, rngs=rngs)

    graphdef, params = nnx.split(Model(nnx.Rngs(0)))

    def apply_fn(params, x, key):
        return nnx.merge(graphdef, params)(x, None if key is None else nnx.Rngs(dropout=key))

    return apply_fn, params


def plain():
    def apply_fn(params, x, deterministic):
        return params["w"] * x * (1.0 if deterministic else 0.5) + params["b"]

    return apply_fn, {"w": np.zeros(1), "b": np.zeros(1)}


@pytest.mark.parametrize("make", [linen, linen_that_hands_on_keywords, nnx_with_dropout, plain])
def test_it_learns_in_training_mode_and_is_evaluated_without_dropout(make):
    apply_fn, params = make()
    state = training.init_state(apply_fn, params, optax.adam(0.1), batch_size=16)
    train_step, key = training.make_train_step(log_cosh), jax.random.key(0)
    eval_step = training.make_eval_step({"loss": log_cosh})
    measured = [eval_step(state, X, Y)["loss"] for _ in range(2)]
    np.testing.assert_array_equal(*measured)
    for _ in range(40):
        state, loss, _ = train_step(state, X, Y, key)
    after = eval_step(state, X, Y)["loss"].mean()
    assert after < 0.8 * measured[0].mean()
    # Training differs from evaluation: half of the outputs are dropped, or halved.
    assert abs(float(loss) - float(after)) > 1e-3


def test_hidden_states_are_asked_of_linen_models_only():
    apply_fn, params = plain()
    state = training.init_state(apply_fn, params, optax.sgd(0.1), batch_size=16)
    with pytest.raises(TypeError, match="from_hidden needs the apply of a Linen model"):
        training.make_train_step(log_cosh, from_hidden=True)(state, X, Y, jax.random.key(0))


def test_parameters_may_be_one_array():
    train_step, trained = training.make_train_step(log_cosh), []
    for params in (np.zeros(1), {"w": np.zeros(1)}):
        state = training.init_state(
            lambda p, x: jax.tree.leaves(p)[0] * x, params, optax.sgd(0.1), batch_size=16
        )
        state, *measured = train_step(state, X, Y, jax.random.key(0))
        trained.append([int(state.step), *jax.tree.leaves(state.params), *measured])
    assert trained[0] == trained[1]
    assert trained[0][0] == 1
