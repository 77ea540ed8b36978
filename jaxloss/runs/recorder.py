"""What a training loop says after each step: on disk, and on the terminal."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Mapping

from jaxloss.runs.folder import RunFolder
from jaxloss.training.evaluation import Estimate


class Recorder:
    """Records every update and evaluation of trainings that run side by side.

    `metrics.jsonl` gets a line for each, as it happens. stdout gets a readable line for each evaluation, and
    stderr a live progress bar where it is a terminal.

    Args:
        folder: holds `metrics.jsonl`.
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
        self._recent: dict[str, deque[tuple[float, float]]] = {name: deque(maxlen=80) for name in test_losses}
        self._bar = tqdm(
            total=steps,
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
        measured = {"loss": loss, "grad_norm": grad_norm, "seconds": seconds}
        self._append("train", name, step, **measured)
        self._recent[name].append((loss, seconds))
        if name == list(self._test_losses)[-1]:
            # The first step compiles: neither the rate nor the time left should count it.
            self._started = self._started or (time.monotonic(), step)
            losses = [recent[-1][0] for recent in self._recent.values() if recent]
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
        self._append("test", name, step, losses=measured)
        # The bar is taken off the screen first, or the line would be written into it.
        self._bar.clear()
        print(self._line(name, step, losses[self._test_losses[name]]), flush=True)
        self._bar.refresh()

    def _append(self, kind: str, name: str, step: int, **measured: object) -> None:
        record = {"kind": kind, "objective": name, "seed": self._seed, "step": step, **measured}
        self._folder.append_metrics(record)

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
        steps_left = self._steps - step + self._steps_after
        left = round((time.monotonic() - start) / (step - first) * steps_left)
        return f"{line}  {rate:7,.0f} tokens/s  ETA {left // 60}:{left % 60:02}"
