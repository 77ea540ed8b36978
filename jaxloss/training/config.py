"""How Model 5 is trained, checked when it is set."""

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal

from jaxloss._checks import check_choice

COMPUTE_DTYPES = ("bfloat16", "float16", "float32", "float64")


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run; the defaults are those of the article on final-token training.

    Raises:
        TypeError: a field has the wrong type.
        ValueError: a field is out of range.

    >>> TrainConfig(steps=0)
    Traceback (most recent call last):
        ...
    ValueError: steps must be at least 1, got 0
    """

    steps: int = 1234
    """Number of updates."""
    batch_size: int = 64
    """Crops in a batch."""
    learning_rate: float = 1e-3
    """AdamW's step size, constant."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay, on every parameter."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the forward and backward pass; weights and AdamW's averages are float32."""
    eval_every: int = 80
    """Updates between two evaluations."""
    eval_crops: int = 512
    """Held-out crops that the test loss is the mean of."""
    seed: int = 0
    """Decides the initial weights, the batches and the dropout."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "eval_every", "eval_crops"):
            _check_integer(name, getattr(self, name), 1)
        _check_integer("seed", self.seed, 0)
        check_choice("compute_dtype", self.compute_dtype, ("float32", "bfloat16"))
        _check_number("learning_rate", self.learning_rate)
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ValueError(f"learning_rate must be positive and finite, got {self.learning_rate}")
        _check_number("weight_decay", self.weight_decay)
        if not (self.weight_decay >= 0 and math.isfinite(self.weight_decay)):
            raise ValueError(f"weight_decay must be at least 0 and finite, got {self.weight_decay}")


def _check_integer(name: str, value: object, least: int) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def _check_number(name: str, value: object) -> None:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value!r}")
