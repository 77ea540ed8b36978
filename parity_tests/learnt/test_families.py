"""Families of losses against torch, and what their parameters make of them."""

import doctest
from functools import partial

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

import torch_ref.learnt
import torch_ref.losses
from jaxloss import cross_entropy, learnt, losses
from jaxloss.learnt import families, meta_step
from parity_tests.compare import assert_within
from parity_tests.losses.promises import EACH_REDUCTION, assert_masking_deletes, assert_matches_torch
from parity_tests.tolerances import ACCURATE_GRADIENT_ULP, ACCURATE_VALUE_ULP, EPS

rng = np.random.default_rng(0)
LOGITS = {"y_hat": 2 * rng.standard_normal((6, 5)), "y": rng.integers(0, 5, 6)}
REALS = {"y_hat": rng.standard_normal((3, 2)), "y": rng.standard_normal((3, 2))}
HYBRID = {"cross_entropy": 0.3, "focal_loss": -0.5}


def mixtures(side):
    return {name: getattr(side, name) for name in HYBRID}


# (the family of either side, arrays)
FAMILIES = {
    "gce": (learnt.gce(0.7), torch_ref.learnt.gce(0.7), LOGITS),
    "gce at 0": (learnt.gce(), torch_ref.learnt.gce(), LOGITS),
    "taylor": (learnt.taylor(4), torch_ref.learnt.taylor(4), LOGITS),
    "taylor, real": (learnt.taylor(3, kind="real"), torch_ref.learnt.taylor(3, kind="real"), REALS),
    "mlp": (learnt.mlp(jax.random.key(0), [4]), torch_ref.learnt.mlp(torch.Generator(), [4]), LOGITS),
    "mlp, real": (
        learnt.mlp(jax.random.key(0), [4], kind="real"),
        torch_ref.learnt.mlp(torch.Generator(), [4], kind="real"), REALS,
    ),
    "mixture": (
        learnt.mixture(mixtures(losses)), torch_ref.learnt.mixture(mixtures(torch_ref.losses)), LOGITS,
    ),
}  # fmt: skip


def of_named(name):
    """Both losses as functions of arrays by name, p0 and so on for the parameters; and the arrays."""
    ours, theirs, arrays = FAMILIES[name]
    leaves, tree = jax.tree.flatten(ours.params)
    _, torch_tree = pytree.tree_flatten(theirs.params)

    def call(loss, unflatten, **named):
        params = unflatten([named.pop(f"p{i}") for i in range(len(leaves))])
        return loss(params, named.pop("y_hat"), named.pop("y"), **named)

    moved = [np.array(leaf, np.float64) for leaf in leaves]
    if "gce" not in name:
        moved = [leaf + 0.1 * rng.standard_normal(leaf.shape) for leaf in moved]
    arrays = arrays | {f"p{i}": np.array(leaf) for i, leaf in enumerate(moved)}
    unflatten = partial(jax.tree.unflatten, tree)
    return (
        partial(call, ours.loss, unflatten),
        partial(call, theirs.loss, lambda leaves: pytree.tree_unflatten(leaves, torch_tree)),
        arrays,
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_matches_torch_by_prediction_and_parameters(name):
    ours, theirs, arrays = of_named(name)
    cases = EACH_REDUCTION[:1] if name == "mixture" else EACH_REDUCTION
    wrt = [key for key in arrays if arrays[key].dtype.kind == "f" and key != "y"]
    assert_matches_torch(ours, theirs, arrays, cases, wrt=wrt)


@pytest.mark.parametrize("name", ["gce", "taylor", "mlp, real"])
def test_masking_deletes(name):
    ours, theirs, arrays = of_named(name)
    mask = rng.random(arrays["y"].shape) > 0.4
    assert_masking_deletes(ours, theirs, arrays, mask, wrt=["y_hat", "p0"])


def test_parameters_to_begin_with_are_the_twins():
    for ours, theirs, _ in FAMILIES.values():
        pairs = zip(jax.tree.leaves(ours.params), pytree.tree_leaves(theirs.params), strict=True)
        for mine, other in pairs:
            assert mine.dtype == jnp.float32
            assert mine.shape == tuple(other.shape)
            if mine.ndim < 2:
                assert mine.tolist() == other.tolist()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_gce_and_its_derivative_by_q_are_exact_as_q_goes_through_0_and_p_to_0_and_1(dtype):
    _, loss = learnt.gce()
    qs = jnp.array([-0.3, 0.0, 1e-12, 1e-4, 0.1, 0.5, 1.0], dtype)
    margins = jnp.array([-80.0, -8.0, -1.0, 0.0, 1.0, 8.0, 30.0], dtype)

    def of(q, margin):
        return loss({"q": q}, jnp.stack([margin, jnp.zeros((), dtype)]), jnp.array(0))

    grid = jax.vmap(jax.vmap(jax.value_and_grad(of, (0, 1)), (None, 0)), (0, None))
    values, (by_q, by_margin) = jax.jit(grid)(qs, margins)
    with mpmath.workdps(120):
        for i, q in enumerate(map(mpmath.mpf, map(float, qs))):
            for j, margin in enumerate(map(mpmath.mpf, map(float, margins))):
                n = mpmath.log1p(mpmath.exp(-margin))
                p, wrong = mpmath.exp(-n), 1 / (1 + mpmath.exp(margin))
                value = (1 - p**q) / q if q else n
                slope = ((1 + q * n) * p**q - 1) / q**2 if q else -(n**2) / 2
                # q's own rounding, times n, is an error of the exponent.
                exponent = 1 + abs(float(q * n))
                for got, want, ulp in (
                    (values[i, j], value, ACCURATE_VALUE_ULP),
                    (by_q[i, j], slope, ACCURATE_GRADIENT_ULP),
                    (by_margin[i, j], -wrong * p**q, ACCURATE_GRADIENT_ULP),
                ):
                    assert abs(float(got) - want) <= ulp * exponent * EPS[dtype] * abs(want), (q, margin)


@jax.jit
def losses_and_wrong():
    """What families begin as, of each row, and the probability that its other classes have."""
    logits, labels = jnp.asarray(LOGITS["y_hat"]), jnp.asarray(LOGITS["y"])
    rows = {
        "cross entropy": (lambda *arguments, **options: cross_entropy(*arguments[1:], **options), {}),
        "q = 0": (learnt.gce().loss, learnt.gce(0).params),
        "q = 1": (learnt.gce().loss, learnt.gce(1).params),
        "taylor": (learnt.taylor(4).loss, learnt.taylor(4).params),
    }
    wrong = 1 - jnp.take_along_axis(jax.nn.softmax(logits), labels[:, None], 1)[:, 0]
    return wrong, {name: loss(p, logits, labels, reduction="none") for name, (loss, p) in rows.items()}


def test_gce_holds_cross_entropy_and_1_minus_p_and_taylor_begins_as_an_expansion_of_cross_entropy():
    wrong, rows = losses_and_wrong()
    assert_within(rows["q = 0"], rows["cross entropy"], 4)
    assert_within(rows["q = 1"], wrong, 8)
    assert_within(rows["taylor"], wrong + wrong**2 / 2 + wrong**3 / 3, 16)


def test_taylor_begins_as_the_squared_error():
    params, loss = learnt.taylor(2, kind="real")
    x, y = map(jnp.asarray, REALS.values())
    assert_within(loss(params, x, y, reduction="none") + y**2, (x - y) ** 2, 16)


def test_gce_of_a_probability_of_0_is_1_over_q_without_a_slope():
    logits, labels = jnp.array([[-jnp.inf, 0.0]]), jnp.array([0])
    of_params = jax.jit(jax.value_and_grad(learnt.gce().loss, (0, 1)))
    value, (by_params, by_logits) = of_params({"q": 0.5}, logits, labels)
    assert (value, by_params["q"]) == (2.0, -4.0)
    assert by_logits.tolist() == [[0.0, 0.0]]


def test_second_derivatives_of_gce_are_differences_of_the_first():
    logits, labels = jnp.asarray(LOGITS["y_hat"][:2]), jnp.asarray(LOGITS["y"][:2])
    gradient = jax.grad(lambda x: learnt.gce().loss({"q": x[0]}, x[1:].reshape(2, 5), labels))
    second = jax.jit(lambda x: (jax.jacfwd(gradient)(x), gradient(x)))
    for q in (0.0, 0.4):
        x = jnp.concatenate([jnp.array([q]), logits.reshape(-1)])
        steps = 1e-5 * np.eye(len(x))
        differences = [(second(x + step)[1] - second(x - step)[1]) / 2e-5 for step in steps]
        np.testing.assert_allclose(second(x)[0], differences, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", ["gce", "mlp"])
def test_a_linear_family_is_the_family_of_its_logits(name):
    family, theirs, _ = FAMILIES[name]
    hidden, head = jnp.asarray(rng.standard_normal((7, 3))), jnp.asarray(rng.standard_normal((5, 3)))
    labels = jnp.asarray(rng.integers(0, 5, 7))
    linear = learnt.make_linear_family(family)

    def fused(params, hidden, head):
        return linear.loss(params, (hidden, head), labels, implementation="chunked", chunk_size=3)

    def whole(params, hidden, head):
        return family.loss(params, hidden @ head.T, labels)

    found, expected = (
        jax.jit(jax.value_and_grad(f, (0, 1, 2)))(family.params, hidden, head) for f in (fused, whole)
    )
    for ours, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert_within(ours, wanted, 64)
    hidden, head, labels = (torch.tensor(np.asarray(a)) for a in (hidden, head, labels))
    if name != "mlp":
        ours, _ = expected
        twin = torch_ref.learnt.make_linear_family(theirs)
        params = pytree.tree_map(torch.Tensor.double, twin.params)
        params = {key: torch.tensor(np.asarray(family.params[key], np.float64)) for key in params}
        assert_within(ours, twin.loss(params, (hidden, head), labels), 64)


def test_half_precision_parameters_and_logits_give_a_float32_loss():
    labels = jnp.asarray(LOGITS["y"])
    for name in ("gce", "taylor", "mlp"):
        family = FAMILIES[name][0]
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), family.params)
        value, gradient = jax.eval_shape(
            jax.value_and_grad(family.loss, 1), params, jnp.zeros((6, 5), jnp.bfloat16), labels
        )
        assert (value.dtype, gradient.dtype) == (jnp.float32, jnp.bfloat16)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: learnt.gce(1.5), r"q must be in \[0, 1\]; got 1.5"),
        (lambda: learnt.taylor(1), "order must be at least 2; got 1"),
        (lambda: learnt.taylor(kind="class"), "got 'class'. Did you mean 'classes'"),
        (lambda: learnt.mlp(jax.random.key(0), [0]), "hidden_sizes must be at least 1; got 0"),
        (lambda: learnt.mlp(0), "key must be a JAX key, such as jax.random.key.0.; got 0"),
        (lambda: learnt.mixture({}), "losses must hold at least one loss; got none"),
        (lambda: learnt.gce().loss(learnt.gce().params, jnp.zeros((2, 3)), jnp.zeros(3, int)), "target must"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


@pytest.mark.parametrize("module", [families, meta_step], ids=lambda module: module.__name__)
def test_doctests_run(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
