"""Training settings: the article's defaults, and bad values refused by name."""

import re

import pytest

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
