"""The training loop: sample, update, evaluate, report.

Shapes: B batch, T time.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from torch import Generator

from jaxloss.runs.measures import Estimate
from jaxloss.runs.progress import Progress
from jaxloss.runs.stopping import NonFiniteLossError
from torch_ref.training.state import TrainState
from torch_ref.training.step import TrainStep


def train(
    state: TrainState,
    train_step: TrainStep,
    sample: Callable[[int], tuple[np.ndarray, np.ndarray]],
    generator: Generator,
    *,
    steps: int,
    evaluate: Callable[[TrainState], Mapping[str, Estimate]] | None = None,
    eval_every: int = 80,
) -> Iterator[Progress[TrainState]]:
    """Train, yielding after every step: the caller reports, and stops by asking for no more.

    Args:
        state: where to start; a state at step 500 goes on with step 501. It is changed in place.
        train_step: from `make_train_step`.
        sample: the batch of a step, as a function of the step's number alone, from 0.
        generator: dropout's randomness; each step mixes its number with the generator's seed.
        steps: number of the last step.
        evaluate: measures the test losses of a state, before the first step, after every `eval_every`-th and
            after the last.
        eval_every: steps between two evaluations.

    Yields:
        Progress, first of the state as it was given.

    Raises:
        NonFiniteLossError: the loss or its gradient is not finite; the error's `state` is the one from before
            that step.
    """
    yield Progress(state.step, state, test=evaluate(state) if evaluate else None)
    while state.step < steps:
        inputs_BT, targets_BT = sample(state.step)
        start = time.perf_counter()
        step = state.step + 1
        state, value, norm = train_step(state, inputs_BT, targets_BT, generator)
        loss, grad_norm = value.item(), norm.item()
        seconds = time.perf_counter() - start
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise NonFiniteLossError(step, loss, grad_norm, state)
        is_due = step % eval_every == 0 or step == steps
        yield Progress(
            step, state, loss, grad_norm, seconds, evaluate(state) if evaluate and is_due else None
        )
