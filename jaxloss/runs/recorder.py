"""What a training loop says after each step: on disk, and on the terminal."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Mapping

from jaxloss.runs.folder import METRICS, TIMES, RunFolder
from jaxloss.training.evaluation import Estimate


class Recorder:
    """Records every update and evaluation of trainings that run side by side.

    `metrics.jsonl` gets a line for each, as it happens, and `times.jsonl` one for the time that each update
    took: two runs of one seed write the same metrics, but not the same times. stdout gets a readable line for
    each evaluation, and stderr a live progress bar where it is a terminal.

    Args:
        folder: holds both; a run that is resumed goes on from what is there.
        test_losses: name of each training, in their order -> the test loss that the terminal shows for it.
        steps: number of the last step.
        tokens_per_step: tokens in a batch.
        seed: what the trainings were started from, in every record.
        steps_after: steps of what is recorded after this, which the time left counts.
    """

    def __init__(
        self,
        folder: RunFolder,
        test_losses: Mapping[str, str],
        *,
        steps: int,
        tokens_per_step: int,
        seed: int = 0,
        steps_after: int = 0,
    ):
        from tqdm import tqdm

        self._folder, self._test_losses = folder, test_losses
        self._steps, self._tokens, self._seed, self._steps_after = steps, tokens_per_step, seed, steps_after
        self._width = max(map(len, test_losses))
        self._started: tuple[float, int] | None = None
        self._losses: dict[str, deque[float]] = {name: deque(maxlen=80) for name in test_losses}
        self._seconds: dict[str, deque[float]] = {name: deque(maxlen=80) for name in test_losses}
        done = self._take_up(METRICS, "loss", self._losses)
        self._take_up(TIMES, "seconds", self._seconds)
        self._bar = tqdm(
            total=steps,
            initial=done,
            ncols=79,
            leave=False,
            disable=not sys.stderr.isatty(),
            bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}",
        )

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def update(self, name: str, step: int, *, loss: float, grad_norm: float, seconds: float) -> None:
        """Record one update of one training.

        Args:
            name: which training.
            step: number of the update, from 1.
            loss: train loss of its batch, in nats.
            grad_norm: Euclidean norm of the whole gradient.
            seconds: time that it took.
        """
        self._append(METRICS, name, step, kind="train", loss=loss, grad_norm=grad_norm)
        self._append(TIMES, name, step, seconds=seconds)
        self._losses[name].append(loss)
        self._seconds[name].append(seconds)
        if name == list(self._test_losses)[-1]:
            # The first step compiles: neither the rate nor the time left should count it.
            self._started = self._started or (time.monotonic(), step)
            losses = [recent[-1] for recent in self._losses.values() if recent]
            self._bar.set_postfix_str(" ".join(f"{loss:.2f}" for loss in losses), refresh=False)
            self._bar.update(step - self._bar.n)

    def test(self, name: str, step: int, losses: Mapping[str, Estimate]) -> None:
        """Record one evaluation of one training.

        Args:
            name: which training.
            step: number of updates made before it.
            losses: test losses by name.
        """
        measured = {loss: estimate._asdict() for loss, estimate in losses.items()}
        self._append(METRICS, name, step, kind="test", losses=measured)
        # The bar is taken off the screen first, or the line would be written into it.
        self._bar.clear()
        print(self._line(name, step, losses[self._test_losses[name]]), flush=True)
        self._bar.refresh()

    def _take_up(self, file: str, number: str, recent: dict[str, deque[float]]) -> int:
        """Take up what a run that is resumed has recorded; the last step of it."""
        last = 0
        for record in self._folder.read(file):
            if record["seed"] == self._seed and number in record:
                recent[record["objective"]].append(record[number])
                last = record["step"]
        return last

    def _append(self, file: str, name: str, step: int, **measured: object) -> None:
        self._folder.append(file, {"objective": name, "seed": self._seed, "step": step, **measured})

    def _line(self, name: str, step: int, test: Estimate) -> str:
        losses, seconds = self._losses[name], self._seconds[name]
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
        steps_left = self._steps - step + self._steps_after
        left = round((time.monotonic() - start) / (step - first) * steps_left)
        return f"{line}  {rate:7,.0f} tokens/s  ETA {left // 60}:{left % 60:02}"
