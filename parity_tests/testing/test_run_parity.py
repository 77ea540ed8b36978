"""Runs of both frameworks are the same or not, by what one eps makes of one; Model 5's are in runs_parity."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch.optim import SGD, AdamW

from jaxloss.losses import cross_entropy
from jaxloss.testing import Run, assert_run_parity, check_run_parity, compare_runs, integers, normal

BATCHES = [(normal(8, 5), integers(8, high=3))] * 8


def _module():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))


MODULE = _module()
PARAMS = {
    str(i): {"kernel": MODULE[i].weight.detach().numpy().T, "bias": MODULE[i].bias.detach().numpy()}
    for i in (0, 2)
}


def jax_loss(params, x, y, hidden=jnp.tanh):
    x = hidden(x @ params["0"]["kernel"] + params["0"]["bias"])
    return cross_entropy(x @ params["2"]["kernel"] + params["2"]["bias"], y)


def torch_loss(module, x, y):
    return torch.nn.functional.cross_entropy(module(x), y)


def _check(ours=jax_loss, theirs=torch_loss, batches=BATCHES, **changes):
    options = {
        "params": PARAMS,
        "torch_module": MODULE,
        "optax_optimizer": optax.adamw(1e-2, weight_decay=0.01),
        "torch_optimizer": lambda parameters: AdamW(parameters, lr=1e-2),
    }
    return check_run_parity(ours, theirs, batches, **{**options, **changes})


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_right_port_trains_the_same(dtype):
    before = [parameter.clone() for parameter in MODULE.parameters()]
    report = _check(dtype=dtype)
    assert report.passed, report.text()
    named = [comparison.what for comparison in report.comparisons]
    assert named[0] == "loss of step 1"
    assert "losses of steps 2 to 8" in named
    assert sum(name.startswith("after step 8: ") for name in named) == 4
    assert all(map(torch.equal, before, MODULE.parameters()))
    assert all(
        parameter.dtype == torch.float32 and parameter.grad is None for parameter in MODULE.parameters()
    )


@pytest.mark.parametrize(
    ("first", "hidden"),
    [
        ("loss of step 1", jnp.sin),
        ("gradient of step 1 of 0.weight", lambda x: jax.lax.stop_gradient(jnp.tanh(x))),
    ],
)
def test_fault_of_the_model_is_placed_before_the_first_update(first, hidden):
    report = _check(lambda params, x, y: jax_loss(params, x, y, hidden))
    failed = [comparison.what for comparison in report.comparisons if not comparison.passed]
    assert failed[0] == first
    assert report.cause is None


def test_optimizer_that_differs_is_named():
    with pytest.raises(AssertionError, match=r"worst in float64: loss of step 2") as caught:
        assert_run_parity(
            jax_loss,
            torch_loss,
            BATCHES[:3],
            params=PARAMS,
            torch_module=MODULE,
            optax_optimizer=optax.adamw(1e-2),
            torch_optimizer=AdamW(MODULE.parameters(), lr=1e-2),
        )
    assert "likely cause: weight decay: JAX's is 0.0001, torch's 0.01" in str(caught.value)


def test_fault_after_the_first_step_has_its_step_and_no_cause_of_the_optimizer():
    """As of dropout masks that come one step late."""
    batches = [(*batch, np.int32(step)) for step, batch in enumerate(BATCHES)]
    report = _check(
        lambda params, x, y, step: jax_loss(params, x, y) * jnp.where(step == 4, 1.001, 1.0),
        lambda module, x, y, step: torch_loss(module, x, y),
        batches,
    )
    failed = [comparison.what for comparison in report.comparisons if not comparison.passed]
    assert failed[0] == "loss of step 5"
    assert report.cause is None


def test_chaos_is_told_from_a_fault():
    """A rate at which one eps grows over a hundred steps until it is all of the loss."""
    report = _check(
        batches=BATCHES[:1] * 100,
        optax_optimizer=optax.sgd(300.0),
        torch_optimizer=lambda parameters: SGD(parameters, lr=300.0),
    )
    assert report.passed
    assert "not judged, since one eps has grown to chaos" in report.name
    assert not any(comparison.what.startswith("after") for comparison in report.comparisons)


def _run(losses, gradient=(1.0,)):
    arrays = {"weight": np.array(gradient)}
    return Run(np.array(losses), arrays, arrays)


@pytest.mark.parametrize(("ours", "theirs"), [(1e-17, 0.1), (0.1, 1e-17)])
def test_noise_on_one_side_is_no_measure_of_the_other(ours, theirs):
    moved = _run([1.0], [-ours if ours < 1e-9 else ours * (1 + 2**-52)])
    assert not compare_runs(_run([1.0], [ours]), _run([1.0], [theirs]), [moved], "float64").passed
    if ours < theirs:
        noise = compare_runs(_run([1.0], [ours]), _run([1.0], [2e-17]), [moved], "float64")
        assert noise.passed
        assert "not judged" in noise.text()


def test_loss_that_nothing_can_be_told_from_is_refused():
    with pytest.raises(ValueError, match=r"torch's loss must stay finite; that of step 2 is not"):
        compare_runs(_run([1.0, 2.0]), _run([1.0, np.nan]), [_run([1.0, 2.0])], "float64")
    with pytest.raises(ValueError, match=r"it does in step 1, so that no comparison means anything"):
        compare_runs(_run([1.0]), _run([1.0]), [_run([2.0])], "float64")
    assert not compare_runs(_run([1.0, np.nan]), _run([1.0, 2.0]), [_run([1.0, np.nan])], "float64").passed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batches": []}, "batches must hold one tuple of arrays for each step; got none"),
        ({"ours": lambda params, x, y: x}, r"jax_loss must return a scalar; got shape \[8, 5\]"),
        ({"theirs": lambda module, x, y: module(x)}, r"torch_loss must return a scalar tensor; got .*8, 3"),
        ({"torch_module": torch_loss}, "torch_module must be an nn.Module; got function"),
        ({"torch_module": torch.nn.Sequential(MODULE, torch.nn.Dropout())}, "drops at random in 1"),
        ({"params": {"0": PARAMS["0"]}}, r"only in the torch module: 2\.bias, 2\.weight"),
        ({"dtype": "bfloat16"}, "dtype must be one of 'float64', 'float32'"),
        ({"optax_optimizer": AdamW}, "optax_optimizer must be an optax optimizer"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    with pytest.raises((TypeError, ValueError), match=message):
        _check(**changes)
