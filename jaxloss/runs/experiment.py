"""What the configs of all experiments on a claim have in common."""

from __future__ import annotations

import dataclasses

from jaxloss._checks import check_integer, check_number


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """How often an experiment is repeated, and where its results go; each script adds its own fields.

    Raises:
        ValueError: a count is below 1, a number is negative or not finite, or the learning rate is 0.
        TypeError: one of them is not a number.

    >>> ExperimentConfig(seeds=0)
    Traceback (most recent call last):
        ...
    ValueError: seeds must be at least 1; got 0.
    """

    seeds: int = 3
    """Number of repetitions, each with its own examples, batches and initial weights; all that is compared
    shares them."""
    out: str | None = None
    """New folder for table, numbers and plot; runs/<experiment>-<time> if not given."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type in (int, "int"):
                check_integer(field.name, value, low=1)
            elif field.type in (float, "float"):
                is_rate = field.name == "learning_rate"
                check_number(field.name, value, low=0, open_low=is_rate, open_high=True)
