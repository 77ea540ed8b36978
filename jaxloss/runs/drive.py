"""Run trainings side by side to their end, a signal or a loss that is not finite, with every step on disk."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jaxloss.runs.folder import RunFolder
from jaxloss.runs.progress import Progress, Reporter
from jaxloss.runs.stopping import NonFiniteLossError, StopOnSignal


@dataclass
class Outcome:
    """Where the trainings ended.

    Args:
        states: the last state of each.
        steps: the number of steps that each made.
        exit_code: 0 if all finished, 130 after Ctrl-C, 143 after SIGTERM, 1 after a loss that is not finite.
        reason: why they stopped early, in words; empty if they finished.
    """

    states: dict[str, Any]
    steps: dict[str, int]
    exit_code: int = 0
    reason: str = ""


def drive(
    trainings: Mapping[str, Iterator[Progress[Any]]],
    folder: RunFolder,
    *,
    steps: int,
    tokens_per_step: int,
    test_losses: Mapping[str, str],
) -> Outcome:
    """Advance the trainings in turn, a step each, so that a machine that slows down slows all of them.

    Args:
        trainings: name -> iterator from `train`.
        folder: its `metrics.jsonl` gets a line for every update and every evaluation, as they happen.
        steps: number of the last step.
        tokens_per_step: tokens in a batch.
        test_losses: name of the training -> the test loss that the terminal shows for it.

    Returns:
        The last states, and whether and why the trainings stopped early.
    """
    outcome = Outcome({}, {})
    reporter = Reporter(list(trainings), steps, tokens_per_step)
    with StopOnSignal() as stop:
        try:
            while not stop.requested and min(outcome.steps.values(), default=-1) < steps:
                for name, training in trainings.items():
                    progress = next(training)
                    outcome.states[name], outcome.steps[name] = progress.state, progress.step
                    for record in progress.records(objective=name):
                        folder.append_metrics(record)
                    reporter.update(name, progress, test_losses[name])
        except NonFiniteLossError as error:
            outcome.states[name], outcome.steps[name] = error.state, error.step - 1
            outcome.exit_code, outcome.reason = 1, f"{name}: {error}"
        finally:
            reporter.close()
    if stop.requested:
        reached = max(outcome.steps.values(), default=0)
        outcome.exit_code, outcome.reason = stop.exit_code, f"stopped on request after step {reached}"
    if outcome.reason:
        print(outcome.reason, file=sys.stderr)
    return outcome
