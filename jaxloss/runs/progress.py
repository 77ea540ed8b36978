"""What a training loop of either framework says after each step, and the terminal's view of it."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from jaxloss.runs.measures import Estimate

State = TypeVar("State")


@dataclass(frozen=True)
class Progress(Generic[State]):
    """One step of training, done.

    Args:
        step: its number, from 1; 0 before training.
        state: the state after it, until the next step consumes it.
        loss: train loss of its batch, in nats.
        grad_norm: Euclidean norm of the whole gradient.
        seconds: time that the update took.
        test: test losses by name, where they were measured.
    """

    step: int
    state: State
    loss: float | None = None
    grad_norm: float | None = None
    seconds: float | None = None
    test: Mapping[str, Estimate] | None = None

    def records(self, **labels: Any) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`: one for the update, one for the evaluation if there was one."""
        records: list[dict[str, Any]] = []
        if self.loss is not None:
            update = {"loss": self.loss, "grad_norm": self.grad_norm, "seconds": self.seconds}
            records.append({"kind": "train", **labels, "step": self.step, **update})
        if self.test is not None:
            losses = {name: estimate._asdict() for name, estimate in self.test.items()}
            records.append({"kind": "test", **labels, "step": self.step, "losses": losses})
        return records


class Reporter:
    """Readable lines on stdout, one per evaluation, and a live progress bar where stderr is a terminal.

    Args:
        names: the trainings that run side by side, in order.
        steps: number of the last step.
        tokens_per_step: tokens in a batch.
    """

    def __init__(self, names: Sequence[str], steps: int, tokens_per_step: int):
        from tqdm import tqdm

        self._names, self._steps, self._tokens = names, steps, tokens_per_step
        self._width = max(map(len, names))
        self._started: tuple[float, int] | None = None
        self._recent: dict[str, deque[tuple[float, float]]] = {name: deque(maxlen=80) for name in names}
        self._bar = tqdm(
            total=steps,
            ncols=79,
            leave=False,
            disable=not sys.stderr.isatty(),
            bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}",
        )

    def update(self, name: str, progress: Progress[Any], test_loss: str) -> None:
        """Show one step of one training.

        Args:
            name: which training.
            progress: its step.
            test_loss: name of the test loss to show.
        """
        if progress.loss is not None and progress.seconds is not None:
            # The first step compiles: neither the rate nor the time left should count it.
            if self._started is None and name == self._names[-1]:
                self._started = time.monotonic(), progress.step
            self._recent[name].append((progress.loss, progress.seconds))
        if progress.test is not None:
            self._print(self._line(name, progress.step, progress.test[test_loss]))
        if name == self._names[-1]:
            losses = [self._recent[other][-1][0] for other in self._names if self._recent[other]]
            self._bar.set_postfix_str(" ".join(f"{loss:.2f}" for loss in losses), refresh=False)
            self._bar.update(progress.step - self._bar.n)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()

    def _line(self, name: str, step: int, test: Estimate) -> str:
        losses, seconds = zip(*self._recent[name], strict=True) if self._recent[name] else ((), ())
        train = f"{sum(losses) / len(losses):6.3f}" if losses else "     -"
        line = (
            f"{name:<{self._width}} {step:>{len(str(self._steps))}}/{self._steps}  loss {train}  "
            f"test {test.mean:6.3f} ± {test.standard_error:.3f}"
        )
        if self._started is None or step <= self._started[1]:
            return line
        # The median, because the first of the steps compiled.
        rate = self._tokens / sorted(seconds)[len(seconds) // 2]
        start, first = self._started
        left = round((time.monotonic() - start) / (step - first) * (self._steps - step))
        return f"{line}  {rate:7,.0f} tokens/s  ETA {left // 60}:{left % 60:02}"

    def _print(self, line: str) -> None:
        # The bar is taken off the screen first, or the line would be written into it.
        self._bar.clear()
        print(line, flush=True)
        self._bar.refresh()
