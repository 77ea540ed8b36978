"""How Model 5 is trained, checked when it is set."""

from dataclasses import dataclass
from typing import Literal

from jaxloss._checks import check_choice, check_integer, check_number

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
    ValueError: steps must be at least 1; got 0.
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
            check_integer(name, getattr(self, name), low=1)
        check_integer("seed", self.seed, low=0)
        check_choice("compute_dtype", self.compute_dtype, ("float32", "bfloat16"))
        check_number("learning_rate", self.learning_rate, low=0, open_low=True, open_high=True)
        check_number("weight_decay", self.weight_decay, low=0, open_high=True)
