"""Optimizers of optax's take torch's steps, and each difference between the two is called by its name."""

import jax
import numpy as np
import optax
import pytest
import torch
from torch.optim import SGD, Adagrad, Adam, AdamW, RMSprop, lr_scheduler

from jaxloss.testing import assert_step_parity, check_step_parity, normal
from parity_tests.runs_parity.paired import OPTIMIZERS


def _of(optimizer, **settings):
    return lambda parameters: optimizer(parameters, **settings)


def _is_matrix(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _decayed_matrices(parameters):
    matrices, vectors = ([p for p in parameters if (p.ndim > 1) is is_matrix] for is_matrix in (True, False))
    return AdamW([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}])


def _decaying_rate(parameters):
    optimizer = SGD(parameters, lr=0.1)
    return optimizer, lr_scheduler.ExponentialLR(optimizer, 0.9)


adamw = {"learning_rate": 1e-3, "weight_decay": 0.01}
clipped_adamw = optax.chain(optax.clip_by_global_norm(0.1), optax.adamw(**adamw))

RIGHT = {
    **{name: (ours, theirs, {"max_norm": norm}) for name, (ours, theirs, norm) in OPTIMIZERS.items()},
    "optax's clipping": (clipped_adamw, AdamW, {"max_norm": 0.1, "clip_eps": 0.0}),
    "RMSprop": (optax.rmsprop(1e-2, decay=0.99, eps_in_sqrt=False), RMSprop, {}),
    "an optimizer in use": (optax.adamw(**adamw), AdamW([torch.nn.Parameter(torch.ones(2))]), {}),
    "groups": (optax.adamw(**adamw, mask=_is_matrix), _decayed_matrices, {}),
    "a schedule": (optax.sgd(lambda step: 0.1 * 0.9**step), _decaying_rate, {}),
}


@pytest.mark.parametrize("name", RIGHT)
def test_optimizer_takes_torchs_steps(name):
    ours, theirs, options = RIGHT[name]
    assert assert_step_parity(ours, theirs, **options).passed


DIFFERENCES = {
    "weight decay: JAX's is 0.0001, torch's 0.01": (optax.adamw(1e-3), AdamW),
    "weight decay: JAX's is 0, torch's 0.01": (optax.adam(1e-3), AdamW),
    "weight decay: JAX's spares the arrays of one axis": (optax.adamw(**adamw, mask=_is_matrix), AdamW),
    "weight decay: JAX's is 0.01 for all parameters": (optax.adamw(**adamw), _decayed_matrices),
    "weight decay: JAX adds it to the gradient (L2)": (
        optax.chain(optax.add_decayed_weights(0.01), optax.adam(1e-3)),
        AdamW,
    ),
    "weight decay: JAX takes it off the weights (decoupled)": (
        optax.adamw(**adamw),
        _of(Adam, weight_decay=0.01),
    ),
    "eps: JAX's is 1e-07, torch's 1e-08": (optax.adamw(**adamw, eps=1e-7), AdamW),
    "weight decay: JAX's is 0.0001, torch's 0.01; eps: JAX's is 1e-07": (optax.adamw(1e-3, eps=1e-7), AdamW),
    "weight decay: JAX's is 0.0001, torch's 0.01; weight decay: JAX's spares": (
        optax.adamw(1e-3, mask=_is_matrix),
        AdamW,
    ),
    "eps: JAX adds it inside the square root": (optax.adamw(**adamw, eps=0.0, eps_root=1e-8), AdamW),
    "decay of squares: JAX's is 0.9, torch's 0.99; eps: JAX adds it inside": (optax.rmsprop(1e-2), RMSprop),
    "initial accumulator: JAX's is 0.1, torch's 0; eps: JAX's is 1e-07": (optax.adagrad(1e-2), Adagrad),
    "Nesterov: only JAX's": (optax.adamw(**adamw, nesterov=True), AdamW),
    "Nesterov: only torch's": (optax.sgd(0.1, 0.9), _of(SGD, lr=0.1, momentum=0.9, nesterov=True)),
    "dampening: JAX's momentum averages": (
        optax.chain(optax.ema(0.9, debias=False), optax.scale(-0.1)),
        _of(SGD, lr=0.1, momentum=0.9),
    ),
    "bias correction: only torch": (
        optax.chain(optax.scale_by_rms(0.999, eps=1e-8, eps_in_sqrt=False), optax.scale(-1e-3)),
        _of(Adam, betas=(0.0, 0.999)),
    ),
    "learning rate: JAX's is 0.1 times torch's": (optax.sgd(0.01), _of(SGD, lr=0.1)),
    "schedule: JAX's learning rate is one step ahead": (
        optax.sgd(lambda step: 0.1 * 0.9 ** (step + 1)),
        _decaying_rate,
    ),
}


@pytest.mark.parametrize("cause", DIFFERENCES)
def test_difference_is_seen_and_named(cause):
    report = check_step_parity(*DIFFERENCES[cause])
    assert not report.passed
    assert report.cause is not None
    assert report.cause.startswith(cause)


@pytest.mark.parametrize(
    ("cause", "ours"),
    [
        ("clipping: torch adds 1e-06 to the norm", clipped_adamw),
        (
            "clipping: JAX clips the updates after the optimizer",
            optax.chain(optax.adamw(**adamw), optax.clip_by_global_norm(0.001)),
        ),
        ("clipping: only torch's gradients are clipped", optax.adamw(**adamw)),
    ],
)
def test_difference_in_clipping_is_seen_and_named(cause, ours):
    max_norm = 0.001 if "updates" in cause else 0.1
    report = check_step_parity(ours, AdamW, max_norm=max_norm)
    assert not report.passed
    assert report.cause.startswith(cause)


def test_no_cause_is_named_for_another_algorithm_or_where_torchs_is_not_known():
    for ours, theirs in ((optax.lion(1e-3), AdamW), (optax.adam(1e-3), _of(Adam, amsgrad=True))):
        report = check_step_parity(ours, theirs)
        assert (report.passed, report.cause) == (False, None)
        assert "likely cause: none" in report.text()


def test_failure_names_the_parameter_and_the_step():
    params = {"net": {"kernel": normal(3, 2), "bias": np.zeros(2)}}
    late = optax.sgd(lambda step: 0.1 * (step < 2))
    with pytest.raises(AssertionError, match=r"net\.bias after step 3") as caught:
        assert_step_parity(late, _of(SGD, lr=0.1), params=params)
    assert "net.kernel after step 3" in str(caught.value)


def test_optimizer_given_is_left_as_it_is():
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = AdamW([weight], lr=1e-3)
    check_step_parity(optax.adamw(**adamw), optimizer)
    assert not optimizer.state
    assert weight.grad is None
    assert weight.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((AdamW, AdamW), {}, "optax_optimizer must be an optax optimizer.*got AdamW"),
        ((optax.sgd(0.1), 0.1), {}, "torch_optimizer must be a function.*got float"),
        ((optax.sgd(0.1), lambda p: p), {}, "torch_optimizer must be a function.*it returned list"),
        ((optax.sgd(0.1), SGD), {"params": {"ids": np.arange(3)}}, "params must hold.*others at ids"),
        ((optax.sgd(0.1), SGD), {"params": {}}, "params must hold.*got none"),
        ((optax.sgd(0.1), SGD), {"num_steps": 0}, "num_steps must be at least 1; got 0"),
        ((optax.sgd(0.1), SGD), {"max_norm": 0.0}, "max_norm must be in"),
        ((optax.sgd(0.1), _of(SGD, lr=1e308)), {}, "torch's weights must stay finite"),
    ],
)
def test_bad_arguments_are_named(arguments, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        check_step_parity(*arguments, **options)
