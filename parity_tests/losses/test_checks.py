"""What arguments may be: wrong ones are named at once, labels of any dtype are never wrapped round."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxloss.losses
import torch_ref.losses
from jaxloss import _checks
from jaxloss.losses import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    focal_loss,
    hinge_embedding_loss,
    l1_loss,
    make_checked,
    mse_loss,
    nll_loss,
    poly_loss,
    soft_margin_loss,
)
from parity_tests.cases import CASES
from parity_tests.compare import assert_same

N, C = 7, 5
GRID = np.random.default_rng(0).integers(-1, 2, (N, C)).astype(np.float64)


def test_any_integer_dtype_serves_as_label():
    labels = np.array([0, 4, 3, 2, 1, 3, 1])
    expected = cross_entropy(jnp.asarray(GRID), jnp.asarray(labels))
    for dtype in ("int8", "uint8", "int16", "int32", "uint32", "uint64"):
        assert_same(cross_entropy(jnp.asarray(GRID), jnp.asarray(labels, dtype)), expected)


def test_small_label_dtype_does_not_limit_the_classes():
    logits = jnp.asarray(np.random.default_rng(5).standard_normal((3, 300)))
    labels = np.array([0, 44, 127])
    assert_same(
        cross_entropy(logits, jnp.asarray(labels, "int8")), cross_entropy(logits, jnp.asarray(labels))
    )


@pytest.mark.parametrize("dtype", ["int64", "uint64", "uint32"])
def test_without_64_bits_labels_do_not_wrap_round(dtype):
    beyond = [2**31, 2**32 - 100] if dtype == "uint32" else [2**31, 2**32 + 1, 2**63 - 1, 2**32 - 100]
    below = [-(2**31) - 1, -(2**32) + 1] if dtype == "int64" else []
    with jax.enable_x64(False):
        labels = _checks.as_labels("target", np.array([1, *beyond, *below], dtype))
        assert labels.dtype == jnp.int32
        assert_same(labels, [1] + [2**31 - 1] * len(beyond) + [-(2**31)] * len(below))
        loss = cross_entropy(jnp.zeros((2, 4)), np.array([1, beyond[-1]], dtype), reduction="none")
        assert_same(jnp.isnan(loss), [False, True])
        with pytest.raises(ValueError, match=rf"target\[1\] is {beyond[-1]}, outside \[0, 4\)"):
            make_checked(cross_entropy)(jnp.zeros((2, 4)), np.array([1, beyond[-1]], dtype))
    assert jnp.isnan(cross_entropy(jnp.zeros(4), np.array(beyond[-1], dtype)))


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("array", [np.array, jnp.array])
@pytest.mark.parametrize(
    ("label", "ignore_index", "ignored"),
    [(2**32 - 1, 2**32 - 1, True), (2**32 - 1, 2**31 - 1, False), (2**31 - 1, 2**31 - 1, True)],
)
def test_ignore_index_is_compared_with_the_label_as_it_came(x64, array, label, ignore_index, ignored):
    with jax.enable_x64(x64):
        labels = array([1, label], "uint32")
        loss = cross_entropy(
            jnp.zeros((2, 4), jnp.float32), labels, ignore_index=ignore_index, reduction="none"
        )
        assert_same(loss[1], 0.0 if ignored else np.nan)


def test_a_softmax_over_no_class_is_refused():
    none, labels = jnp.zeros((2, 0)), jnp.array([0, -100])
    for loss in (cross_entropy, focal_loss, poly_loss, partial(cross_entropy, target=none)):
        target = () if isinstance(loss, partial) else (labels,)
        with pytest.raises(ValueError, match=r"input must have at least one class; got float64\[2, 0\]"):
            loss(none, *target)
    assert_same(nll_loss(none, labels, jnp.zeros(0), reduction="none"), [np.nan, 0.0])


def test_a_number_has_no_dtype_of_its_own():
    x, y = jnp.zeros((2, 3), jnp.float32), jnp.ones((2, 3), jnp.float32)
    for options in ({"pos_weight": 2.0}, {"pos_weight": 2}, {"weight": 0.5}):
        loss = binary_cross_entropy_with_logits(x, y, reduction="sum", **options)
        assert loss.dtype == jnp.float32
        assert not loss.weak_type
        np.testing.assert_allclose(loss, 6 * np.log(2) * next(iter(options.values())), rtol=1e-6)
    assert mse_loss(jnp.float32(2), 5.0).dtype == jnp.float32
    assert mse_loss(2.0, 5).dtype == jnp.float64
    assert soft_margin_loss(jnp.float32(0.5), 1).dtype == jnp.float32


def _arguments_with_a_real_target(name):
    """A loss's sample arguments by name, if its target is floating point and torch has the loss."""
    parameters = inspect.signature(getattr(jaxloss.losses, name)).parameters
    named = dict(zip(parameters, CASES[name][0].arguments("float32"), strict=False)) if name in CASES else {}
    is_real = hasattr(torch.nn.functional, name) and _checks.has_dtype(named.get("target"), np.floating)
    return named if is_real else None


@pytest.mark.parametrize("name", [*filter(_arguments_with_a_real_target, jaxloss.losses.__all__)])
def test_integers_serve_as_real_targets_where_torch_takes_them(name):
    loss, theirs = (CASES[name][0].loss(name, side) for side in (jaxloss.losses, torch_ref.losses))
    arguments = _arguments_with_a_real_target(name)
    arguments["target"] = np.sign(arguments["target"]).astype("int64")
    is_array = {key: hasattr(value, "dtype") for key, value in arguments.items()}
    tensors = {key: torch.tensor(np.asarray(value)) for key, value in arguments.items() if is_array[key]}
    try:
        expected = theirs(**(arguments | tensors))
    except (RuntimeError, NotImplementedError):
        with pytest.raises(TypeError, match=r"target must be floating point; got int64.*astype\(float\)"):
            loss(**arguments)
        return
    for dtype in ("int64", "int8"):
        value = loss(**(arguments | {"target": jnp.asarray(arguments["target"], dtype)}))
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, expected.numpy(), rtol=1e-6)
    with pytest.raises(TypeError, match="target must be floating point; got bool"):
        loss(**(arguments | {"target": arguments["target"] > 0}))


def test_an_integer_target_is_not_wrapped_and_does_not_widen_the_loss():
    big = np.array([2**40 + 1, -(2**33)])
    with jax.enable_x64(False):
        assert_same(mse_loss(jnp.zeros(2), big, "none"), np.square(big.astype(np.float32)))
    assert_same(l1_loss(jnp.zeros(2), big, "sum"), 2.0**40 + 1 + 2**33)
    assert mse_loss(jnp.zeros(2, "bfloat16"), big).dtype == jnp.float32


SCALARS = [1, 1.0, np.int64(1), np.float16(1), np.float64(1), np.array(1), np.array(1.0, "float32")]


def test_an_option_is_a_number_or_a_jax_array_without_axes():
    for scalar in SCALARS:
        assert type(_checks.as_scalar("gamma", scalar)) is float
        assert type(_checks.check_number("gamma", scalar)) is float
    assert [_checks.check_integer("axis", scalar) for scalar in (1, np.int8(1), np.array(1))] == [1] * 3
    for dtype in ("int32", "bfloat16", "float64"):
        assert _checks.as_scalar("gamma", jnp.ones((), dtype), low=1.0) == 1.0
    value, gradient = jax.jit(jax.value_and_grad(lambda g: _checks.as_scalar("gamma", g, high=1.0)))(0.5)
    assert (value, gradient) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("scalar", "limits"),
    [
        (-0.1, {"low": 0.0}),
        (0.0, {"low": 0.0, "open_low": True}),
        (1.1, {"high": 1.0}),
        (np.inf, {"open_high": True}),
        (np.nan, {"low": 0.0}),
    ],
)
def test_an_option_out_of_range_raises_or_is_nan(scalar, limits):
    with pytest.raises(ValueError, match="gamma must be in"):
        _checks.as_scalar("gamma", scalar, **limits)
    assert np.isnan(jax.value_and_grad(lambda g: _checks.as_scalar("gamma", g, **limits))(scalar)).all()


@pytest.mark.parametrize(
    ("check", "value", "error", "message"),
    [
        (_checks.as_scalar, np.ones(1), ValueError, r"without axes; got float64\[1\]"),
        (_checks.as_scalar, jnp.ones((2, 3)), ValueError, r"without axes; got float64\[2, 3\]"),
        (_checks.as_scalar, jnp.array(True), TypeError, r"a real number; got bool\[\]"),
        (_checks.as_scalar, np.True_, TypeError, "a number; got .*True"),
        (_checks.as_scalar, torch.ones(2), TypeError, "a number; got tensor"),
        (_checks.check_number, jnp.ones(()), TypeError, r"the array float64\[\]. It decides how"),
        (_checks.check_integer, jnp.array(1), TypeError, r"the array int64\[\]. It decides how"),
        (_checks.check_integer, np.True_, TypeError, "an int; got .*True"),
        (jax.jit(_checks.check_integer, static_argnums=0), 1, TypeError, r"array int64\[\]. It decides how"),
    ],
)
def test_what_is_no_such_number_is_refused_by_name(check, value, error, message):
    with pytest.raises(error, match=f"gamma must be .*{message}"):
        check("gamma", value)


def test_an_int_in_place_of_an_array_counts_as_a_real_number():
    x, y = jnp.zeros(3, jnp.float32), jnp.ones(3, jnp.float32)

    def loss(pos_weight):
        return binary_cross_entropy_with_logits(x, y, pos_weight=pos_weight)

    expected = loss(2.0)
    for value in (loss(2), loss(np.int64(2)), jax.jit(loss)(2), jax.jit(loss)(2.0)):
        assert_same(value, expected)
        assert value.dtype == jnp.float32


@pytest.mark.parametrize("name", ["weight", "pos_weight"])
def test_booleans_are_no_numbers(name):
    with pytest.raises(TypeError, match=f"{name} must be floating point"):
        binary_cross_entropy_with_logits(jnp.zeros(3), jnp.zeros(3), **{name: True})


GOOD = {"input": np.zeros((2, 3)), "target": np.array([0, 1])}
BAD = [
    ({"target": np.array([0])}, ValueError, r"target must have shape \[2\].*got int64\[1\]"),
    ({"target": np.zeros(2)}, ValueError, r"target must have the shape of input, \[2, 3\].*float64\[2\]"),
    ({"target": np.zeros((2, 3), int)}, ValueError, r"target must have shape \[2\].*got int64\[2, 3\]"),
    ({"target": np.zeros(2, bool)}, TypeError, r"target must hold class indices.*bool\[2\]"),
    ({"target": [0, 1]}, TypeError, "target must be an array of class indices; got list"),
    ({"input": np.zeros((2, 3), int)}, TypeError, r"input must be floating point; got int64\[2, 3\]"),
    ({"input": None}, TypeError, "input must be .*; got NoneType"),
    ({"input": torch.zeros(2, 3)}, TypeError, "input must be .* torch tensor"),
    ({"input": np.zeros(())}, ValueError, r"input must have a class axis.*float64\[\]"),
    ({"weight": np.ones(2)}, ValueError, r"weight must have shape \[3\].*float64\[2\]"),
    ({"weight": np.ones(3, int)}, TypeError, "weight must be floating point"),
    (
        {"reduction": "average"},
        ValueError,
        "reduction must be one of 'none', 'mean', 'sum', 'parts'; got 'avera",
    ),
    ({"reduction": "Mean"}, ValueError, "Did you mean 'mean'"),
    ({"reduction": None}, ValueError, "reduction must be one of"),
    ({"ignore_index": 1.0}, TypeError, "ignore_index must be an int; got 1.0"),
    ({"label_smoothing": -0.1}, ValueError, r"label_smoothing must be in \[0, 1\]; got -0.1"),
    ({"label_smoothing": 1.1}, ValueError, r"label_smoothing must be in \[0, 1\]; got 1.1"),
    ({"label_smoothing": float("nan")}, ValueError, "label_smoothing must be in"),
    ({"label_smoothing": "0.1"}, TypeError, "label_smoothing must be a number"),
    ({"where": np.ones(2)}, TypeError, "where must be boolean"),
    ({"where": np.ones((2, 3), bool)}, ValueError, r"where must have shape \[2\]"),
    ({"axis": 2}, ValueError, r"axis must be in \[-2, 2\)"),
    ({"target": np.zeros((2, 3)), "ignore_index": 0}, ValueError, "ignore_index must be negative"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
@pytest.mark.parametrize("loss", [cross_entropy, nll_loss])
def test_bad_input_is_named_at_trace_time(loss, change, error, message):
    wants_probabilities = "target" in change and change["target"] is not None and "of input" in message
    if loss is nll_loss and (
        wants_probabilities or not set(change) <= set(inspect.signature(loss).parameters)
    ):
        return
    if loss is nll_loss and "must be negative" in message:
        return
    with pytest.raises(error, match=message):
        loss(**(GOOD | change))


def test_nll_loss_refuses_floating_point_labels():
    with pytest.raises(TypeError, match=r"target must hold class indices.*float64\[2\]"):
        nll_loss(np.zeros((2, 3)), np.zeros(2))


@pytest.mark.parametrize(
    "loss", [cross_entropy, soft_margin_loss, hinge_embedding_loss, make_checked(nll_loss)]
)
def test_a_torch_tensor_is_refused_with_the_way_to_convert_it(loss):
    for target in (torch.tensor([0, 1]), torch.zeros(2, 3)):
        with pytest.raises(TypeError, match=r"target .* torch tensor. Pass jnp.asarray\(target.detach\(\)"):
            loss(jnp.zeros((2, 3)), target)
