"""Training settings: the article's defaults, and bad values refused by name."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxloss.runs.settings import TrainConfig


def test_defaults_are_the_articles():
    config = TrainConfig()
    assert (config.steps, config.batch_size, config.eval_every) == (1234, 64, 80)
    assert (config.learning_rate, config.weight_decay) == (1e-3, 0.01)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("steps", 0, "steps must be at least 1; got 0."),
        ("batch_size", -1, "batch_size must be at least 1; got -1."),
        ("eval_every", 0, "eval_every must be at least 1; got 0."),
        ("eval_crops", 0, "eval_crops must be at least 1; got 0."),
        ("seed", -1, "seed must be in [0, 4294967295]; got -1."),
        ("seed", 2**32, "seed must be in [0, 4294967295]; got 4294967296."),
        ("learning_rate", 0.0, "learning_rate must be in (0, inf); got 0.0."),
        ("learning_rate", float("nan"), "learning_rate must be in (0, inf); got nan."),
        ("weight_decay", -0.1, "weight_decay must be in [0, inf); got -0.1."),
        ("warmup_ratio", 1.0, "warmup_ratio must be in [0, 1); got 1.0."),
        ("clip_norm", 0.0, "clip_norm must be in (0, inf); got 0.0."),
        (
            "schedule",
            "cosin",
            "schedule must be one of 'constant', 'cosine', 'linear'; got 'cosin'. Did you mean 'cosine'?",
        ),
        (
            "compute_dtype",
            "bfloat",
            "compute_dtype must be one of 'float32', 'bfloat16'; got 'bfloat'. Did you mean 'bfloat16'?",
        ),
    ],
)
def test_value_out_of_range_is_refused_by_name(field, value, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        TrainConfig(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"), [("steps", 1.5), ("batch_size", True), ("learning_rate", "fast")]
)
def test_value_of_the_wrong_type_is_refused_by_name(field, value):
    with pytest.raises(TypeError, match=f"^{field} must be"):
        TrainConfig(**{field: value})


@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_learning_rates_are_torchs(schedule, warmup):
    config = TrainConfig(steps=10, learning_rate=0.5, schedule=schedule, warmup_ratio=warmup / 10)
    rate = config.learning_rates()
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=0.5)
    schedulers = torch.optim.lr_scheduler
    after = {
        "constant": lambda: schedulers.ConstantLR(optimizer, factor=1.0),
        "cosine": lambda: schedulers.CosineAnnealingLR(optimizer, T_max=10 - warmup),
        "linear": lambda: schedulers.LinearLR(optimizer, 1.0, 0.0, total_iters=10 - warmup),
    }[schedule]()
    expected = [0.5 * (step + 1) / (warmup + 1) for step in range(warmup)]
    for _ in range(warmup, 10):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        after.step()
    np.testing.assert_allclose([rate(jnp.int32(step)) for step in range(10)], expected, rtol=1e-6)
    assert min(expected) > 0


def test_a_longer_gradient_is_scaled_down_as_torch_does():
    optimizer = TrainConfig(clip_norm=1.0, weight_decay=0.0).optimizer()
    gradient = jnp.array([3e-9, 4e-9])  # so small that AdamW's epsilon tells lengths apart
    scaled = TrainConfig(clip_norm=2.5e-9, weight_decay=0.0).optimizer()
    whole, _ = optimizer.update(gradient, optimizer.init(gradient), gradient)
    half, _ = scaled.update(gradient, scaled.init(gradient), gradient)
    expected = [-1e-3 * g / (g + 1e-8) for g in np.array([[3e-9, 4e-9], [1.5e-9, 2e-9]])]
    np.testing.assert_allclose([whole, half], expected, rtol=1e-6)
