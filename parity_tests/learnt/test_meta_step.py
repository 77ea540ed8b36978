"""The gradient of how training ends: differences, torch, closed forms, evolution strategies."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import torch_ref.learnt
from jaxloss import cross_entropy, learnt, mse_loss
from parity_tests.compare import assert_within

rng = np.random.default_rng(0)
STEPS, RATE = 5, 0.3
MODEL = [0.5 * rng.standard_normal((3, 4)), 0.5 * rng.standard_normal((5, 4))]
BATCHES = rng.standard_normal((2, 7, 3)), rng.integers(0, 5, (2, 7))
HELD_OUT = rng.standard_normal((6, 3)), rng.integers(0, 5, 6)
START = {"gce": {"q": np.array(0.3)}, "taylor": jax.tree.map(np.float64, learnt.taylor().params)}


def momentum(zeros):
    def update(grads, state, params):
        state = [0.9 * mean + grad for mean, grad in zip(state, grads, strict=True)]
        return [-RATE * mean for mean in state], state

    return SimpleNamespace(init=lambda params: [zeros(param) for param in params], update=update)


def adam(zeros):
    """With the root of the epsilon inside, as Adam needs it to be differentiated."""

    def init(params):
        return 0, [zeros(param) for param in params], [zeros(param) for param in params]

    def update(grads, state, params):
        step, means, squares = state[0] + 1, *state[1:]
        means = [0.9 * mean + 0.1 * grad for mean, grad in zip(means, grads, strict=True)]
        squares = [0.999 * square + 0.001 * grad**2 for square, grad in zip(squares, grads, strict=True)]
        corrected = zip(means, squares, strict=True)
        updates = [
            -0.1 * m / (1 - 0.9**step) / ((v / (1 - 0.999**step) + 1e-8) ** 0.5 + 1e-8) for m, v in corrected
        ]
        return updates, (step, means, squares)

    return SimpleNamespace(init=init, update=update)


OPTIMIZERS = {
    "momentum": (optax.sgd(RATE, momentum=0.9), momentum(torch.zeros_like)),
    "adam": (optax.adam(0.1, eps_root=1e-8), adam(torch.zeros_like)),
}


def apply_fn(params, inputs):
    xp = jnp if isinstance(inputs, jax.Array) else torch
    return xp.tanh(inputs @ params[0]) @ params[1].T


def meta_step(side, family, optimizer, steps=STEPS, *options, outer_loss=None, **named):
    is_jax = side is learnt
    outer_loss = outer_loss or (cross_entropy if is_jax else torch.nn.functional.cross_entropy)
    optimizer = OPTIMIZERS[optimizer][0 if is_jax else 1]
    return side.make_meta_step(
        getattr(side, family)(), optimizer, outer_loss, steps, *options, apply_fn=apply_fn, **named
    )


def tensors(tree):
    return jax.tree.map(torch.tensor, tree)


@pytest.mark.parametrize(
    ("family", "optimizer", "options"),
    [
        ("gce", "momentum", {}),
        ("taylor", "adam", {}),
        ("taylor", "momentum", {"estimator": "truncated", "truncation": 2}),
    ],
)
def test_gradient_is_that_of_differences_and_of_torchs_unroll(family, optimizer, options):
    step = meta_step(learnt, family, optimizer, **options)
    task = jax.tree.map(jnp.asarray, (MODEL, BATCHES, HELD_OUT))
    value, gradient = step(START[family], *task)
    theirs = meta_step(torch_ref.learnt, family, optimizer, **options)
    expected, expected_gradient = theirs(tensors(START[family]), *map(tensors, (MODEL, BATCHES, HELD_OUT)))
    assert_within(value, expected, 64)
    for name in gradient:
        np.testing.assert_allclose(gradient[name], expected_gradient[name], rtol=1e-9, atol=1e-12)
    if options:
        return
    flat, unravel = jax.flatten_util.ravel_pytree(START[family])
    moves = 1e-5 * np.eye(len(flat))
    values = [[step(unravel(flat + sign * move), *task)[0] for sign in (1, -1)] for move in moves]
    differences = -np.diff(values, axis=1)[:, 0] / 2e-5
    flat_gradient = jax.flatten_util.ravel_pytree(gradient)[0]
    np.testing.assert_allclose(flat_gradient, differences, rtol=0, atol=1e-6 * abs(differences).max())


def test_gradient_through_the_fused_head_is_that_of_its_logits():
    task = jax.tree.map(jnp.asarray, (MODEL, BATCHES, HELD_OUT))

    def hidden_and_head(params, inputs):
        return jnp.tanh(inputs @ params[0]), params[1]

    def of_logits(y_hat, y):
        return cross_entropy(y_hat[0] @ y_hat[1].T, y)

    params, loss = learnt.make_linear_family(learnt.gce())
    fused = params, lambda params, y_hat, y: loss(params, y_hat, y, implementation="chunked", chunk_size=3)
    step = learnt.make_meta_step(fused, OPTIMIZERS["momentum"][0], of_logits, STEPS, apply_fn=hidden_and_head)
    found = step(START["gce"], *task)
    expected = meta_step(learnt, "gce", "momentum")(START["gce"], *task)
    for ours, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert_within(ours, wanted, 256)


def test_unroll_keeps_weights_and_no_activations():
    """By far: the activations of one update are larger than the weights of all."""
    num_steps, batch = 64, 4096
    step = meta_step(learnt, "gce", "momentum", num_steps)
    model = jax.tree.map(jnp.asarray, MODEL)
    batches = jnp.zeros((1, batch, 3)), jnp.zeros((1, batch), int)
    program = jax.jit(step).lower(START["gce"], model, batches, (batches[0][0], batches[1][0])).compile()
    activations = 8 * batch * (4 + 5)
    assert program.memory_analysis().temp_size_in_bytes < num_steps * activations / 2


# Weights that are pulled to noisy targets a, and are to be near the right ones b: after N updates from 0 at
# the rate r, with the loss times w, they are (1 - (1 - 2 r w)^N) a, and nearest to b where that factor is the
# slope of b on a.
NOISY = rng.standard_normal(50)
RIGHT = 0.6 * NOISY + 0.3 * rng.standard_normal(50)
QUADRATIC = (jnp.zeros(50), (jnp.zeros((1, 1)), jnp.asarray(NOISY)[None]), (jnp.zeros(1), jnp.asarray(RIGHT)))


def of_quadratic(side, family, *options, num_steps=3, **named):
    optimizer = SimpleNamespace(
        init=lambda params: (), update=lambda g, state, params: ([-0.1 * x for x in g], state)
    )
    is_jax = side is learnt
    optimizer = optax.sgd(0.1) if is_jax else optimizer
    return side.make_meta_step(
        family,
        optimizer,
        lambda y_hat, y: ((y_hat - y) ** 2).mean(),
        num_steps,
        *options,
        apply_fn=lambda params, inputs: params if is_jax else params[0],
        **named,
    )


def test_the_best_scale_of_a_loss_is_found():
    slope = NOISY @ RIGHT / (NOISY @ NOISY)
    best = (1 - (1 - slope) ** (1 / 3)) / 0.2
    family = learnt.mixture({"l2": lambda y_hat, y: mse_loss(y_hat, y, "sum")})
    step, optimizer = of_quadratic(learnt, family), optax.adam(0.1)
    params = family.params

    def update(carry, _):
        params, state = carry
        _, gradient = step(params, *QUADRATIC)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(update, (params, optimizer.init(params)), length=150)
    assert abs(float(jnp.exp(params["l2"])) / best - 1) < 0.01


def weighted(params, y_hat, y):
    return (params["w"] * (y_hat - y) ** 2).sum()


def test_evolution_strategies_are_unbiased():
    """After one update the outer loss is quadratic in the parameters, and blurring moves no gradient."""
    weights = {"w": jnp.asarray(rng.uniform(0.5, 1.5, 50))}
    _, wanted = of_quadratic(learnt, (weights, weighted), num_steps=1)(weights, *QUADRATIC)
    step = of_quadratic(learnt, (weights, weighted), "es", num_steps=1, num_pairs=2, sigma=0.1)
    keys = jax.random.split(jax.random.key(0), 4000)
    _, drawn = jax.vmap(lambda key: step(weights, *QUADRATIC, key))(keys)
    _assert_mean_is(drawn["w"], wanted["w"])


def _assert_mean_is(drawn, wanted):
    # Along the gradient, and as a whole: the sum of squares of independent errors.
    along = np.asarray(drawn) @ np.asarray(wanted) / np.linalg.norm(wanted)
    error = along.std() / len(along) ** 0.5
    assert error < 0.05 * np.linalg.norm(wanted)
    assert abs(along.mean() - np.linalg.norm(wanted)) < 4 * error
    scores = (np.mean(drawn, 0) - wanted) / (np.std(drawn, 0) / len(drawn) ** 0.5)
    assert np.mean(scores**2) < 1 + 4 * (2 / scores.size) ** 0.5


def test_torchs_evolution_strategies_are_unbiased_too():
    weights = {"w": torch.tensor(rng.uniform(0.5, 1.5, 50))}
    _, batches, held_out = jax.tree.map(lambda a: torch.tensor(np.asarray(a)), QUADRATIC)
    model = [torch.zeros(50, dtype=torch.float64)]
    _, wanted = of_quadratic(torch_ref.learnt, (weights, weighted), num_steps=1)(
        weights, model, batches, held_out
    )
    step = of_quadratic(torch_ref.learnt, (weights, weighted), "es", num_steps=1, num_pairs=2, sigma=0.1)
    generator = torch.Generator().manual_seed(0)
    drawn = [step(weights, model, batches, held_out, generator)[1]["w"].numpy() for _ in range(500)]
    _assert_mean_is(np.array(drawn), wanted["w"].numpy())


GOOD = {
    "family": learnt.gce(), "inner_optimizer": optax.sgd(0.1), "outer_loss": cross_entropy,
    "num_inner_steps": 3, "apply_fn": apply_fn,
}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "unrol"}, "estimator must be one of .* got 'unrol'. Did you mean 'unroll'"),
        ({"num_inner_steps": 0}, "num_inner_steps must be at least 1; got 0"),
        ({"family": cross_entropy}, "family must be a pair .params, loss.*got function"),
        ({"inner_optimizer": 0.1}, "inner_optimizer must be one of optax; got 0.1"),
        ({"outer_loss": "cross_entropy"}, "outer_loss must be a function; got 'cross_entropy'"),
        ({"estimator": "truncated"}, 'truncation must be given with estimator="truncated" alone; got None'),
        ({"truncation": 2}, 'truncation must be given with estimator="truncated" alone; got 2'),
        ({"estimator": "truncated", "truncation": 4}, r"truncation must be in \[1, 3\]; got 4"),
        ({"sigma": 0}, r"sigma must be in \(0, inf\)"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        learnt.make_meta_step(**(GOOD | options))


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        ({"estimator": "es"}, {}, 'key must be given with estimator="es"'),
        ({}, {"loss_params": {"p": jnp.zeros(())}}, "loss_params must have the structure of the family's"),
        ({}, {"batches": BATCHES[0]}, r"batches must be a pair .inputs, targets.*got ndarray"),
        ({}, {"batches": (BATCHES[0], BATCHES[1][0])}, r"shapes begin with \[2\], \[7\]"),
        ({}, {"held_out": None}, "held_out must be a pair"),
        ({"outer_loss": lambda y_hat, y: y_hat}, {}, r"outer_loss must return a scalar; got float64\[6, 5\]"),
        (
            {"family": ({}, lambda params, y_hat, y: cross_entropy(y_hat, y, reduction="none"))},
            {"loss_params": {}}, r"the family's loss must return a scalar; got float64\[7\]",
        ),
    ],
)  # fmt: skip
def test_bad_arguments_are_named_before_anything_is_compiled(options, arguments, message):
    step = learnt.make_meta_step(**(GOOD | options))
    given = {
        "loss_params": START["gce"], "model_params": MODEL, "batches": BATCHES, "held_out": HELD_OUT,
    }  # fmt: skip
    with pytest.raises((ValueError, TypeError), match=message):
        step(**(given | arguments))
