"""The training loop: sample, update, evaluate, report.

Shapes: B batch, T time.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np

from jaxloss.runs.measures import Estimate
from jaxloss.runs.progress import Progress
from jaxloss.runs.stopping import NonFiniteLossError
from jaxloss.training.state import TrainState
from jaxloss.training.step import TrainStep


def train(
    state: TrainState,
    train_step: TrainStep,
    sample: Callable[[int], tuple[np.ndarray, np.ndarray]],
    key: jax.Array,
    *,
    steps: int,
    evaluate: Callable[[TrainState], Mapping[str, Estimate]] | None = None,
    eval_every: int = 80,
) -> Iterator[Progress[TrainState]]:
    """Train, yielding after every step: the caller reports, and stops by asking for no more.

    Several trainings advance side by side when their iterators are zipped, so that a machine that slows down
    slows all of them.

    Args:
        state: where to start; a state at step 500 goes on with step 501. It is consumed.
        train_step: from `make_train_step`.
        sample: the batch of a step, as a function of the step's number alone, from 0.
        key: dropout's randomness; each step folds its number into it.
        steps: number of the last step.
        evaluate: measures the test losses of a state, before the first step, after every `eval_every`-th and
            after the last.
        eval_every: steps between two evaluations.

    Yields:
        Progress, first of the state as it was given; its `state` lasts until the next one is asked for.

    Raises:
        NonFiniteLossError: the loss or its gradient is not finite; the error's `state` is the one from before
            that step.
    """
    first = int(state.step)
    yield Progress(first, state, test=evaluate(state) if evaluate else None)
    for step in range(first + 1, steps + 1):
        inputs_BT, targets_BT = sample(step - 1)
        start = time.perf_counter()
        state, device_loss, device_norm = train_step(state, inputs_BT, targets_BT, key)
        loss, grad_norm = float(device_loss), float(device_norm)
        seconds = time.perf_counter() - start
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise NonFiniteLossError(step, loss, grad_norm, state)
        is_due = step % eval_every == 0 or step == steps
        yield Progress(
            step, state, loss, grad_norm, seconds, evaluate(state) if evaluate and is_due else None
        )
