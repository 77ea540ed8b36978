"""What a training loop says after each step: on disk, and on the terminal."""

from __future__ import annotations

import statistics
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxloss.model5.config import Model5Config
from jaxloss.runs.folder import METRICS, TIMES, RunFolder
from jaxloss.runs.loggers import Logger
from jaxloss.runs.settings import OBJECTIVES, TrainConfig
from jaxloss.runs.utilisation import memory_bytes, peak_flops, training_flops
from jaxloss.training import make_mesh
from jaxloss.training.evaluation import Estimate

_LEARNT = ("loss", "grad_norm", "learning_rate")
_TAKEN = ("seconds", "tokens_per_second", "memory_bytes", "mfu")


class Recorder:
    """Records every update and evaluation of trainings that run side by side.

    `metrics.jsonl` gets a line for each, as it happens, and `times.jsonl` one for what each update took: two
    runs of one seed write the same metrics, but not the same times. The loggers get both. stdout gets a
    readable line for each evaluation, and stderr a live progress bar where it is a terminal.

    Args:
        folder: holds both; a run that is resumed goes on from what is there.
        test_losses: objective of each training, in their order -> the test loss that the terminal shows.
        model: what is trained.
        settings: of the trainings.
        mesh: the devices that they take; None means what `init_state` takes for None.
        loggers: closed at the end.
        seed: what the trainings were started from, in every record; the settings' if None.
        steps_after: steps of what is recorded after this, which the time left counts.
    """

    def __init__(
        self,
        folder: RunFolder,
        test_losses: Mapping[str, str],
        model: Model5Config,
        settings: TrainConfig,
        *,
        mesh: Mesh | None = None,
        loggers: Sequence[Logger] = (),
        seed: int | None = None,
        steps_after: int = 0,
    ):
        from tqdm import tqdm

        self._folder, self._test_losses = folder, test_losses
        self._steps, self._steps_after, self._loggers = settings.steps, steps_after, loggers
        self._seed = settings.seed if seed is None else seed
        self._schedule = settings.learning_rates()
        self._rates: dict[int, float] = {}
        crops = settings.crops_per_step
        self._tokens = crops * model.context_length
        self._flops = {name: training_flops(model, crops, OBJECTIVES[name][1]) for name in test_losses}
        mesh = make_mesh(batch_size=settings.batch_size) if mesh is None else mesh
        self._devices = mesh.devices.ravel().tolist()
        self._peak = peak_flops(self._devices)
        self._width = max(map(len, test_losses))
        self._started: tuple[float, int] | None = None
        self._losses: dict[str, deque[float]] = {name: deque(maxlen=80) for name in test_losses}
        self._seconds: dict[str, deque[float]] = {name: deque(maxlen=80) for name in test_losses}
        done = self._take_up()
        self._bar = tqdm(
            total=settings.steps,
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
        for logger in self._loggers:
            logger.close()

    def update(self, name: str, step: int, *, loss: float, grad_norm: float, seconds: float) -> None:
        """Record one update of one training.

        Args:
            name: which training.
            step: number of the update, from 1.
            loss: train loss of its batch, in nats.
            grad_norm: Euclidean norm of the whole gradient.
            seconds: time that it took.
        """
        learnt = {"loss": loss, "grad_norm": grad_norm, "learning_rate": self._learning_rate(step - 1)}
        record = self._append(METRICS, name, step, kind="train", **learnt)
        self._log(record, self._append(TIMES, name, step, **self._what_it_took(name, seconds)))
        self._losses[name].append(loss)
        self._seconds[name].append(seconds)
        if name == list(self._test_losses)[-1]:
            # The first step compiles: neither the rate nor the time left should count it.
            self._started = self._started or (time.monotonic(), step)
            losses = [recent[-1] for recent in self._losses.values() if recent]
            shown = [*(f"{loss:.2f}" for loss in losses), f"{self._rate(name):,.0f} tokens/s"]
            self._bar.set_postfix_str(" ".join(shown), refresh=False)
            self._bar.update(step - self._bar.n)

    def test(self, name: str, step: int, losses: Mapping[str, Estimate]) -> None:
        """Record one evaluation of one training.

        Args:
            name: which training.
            step: number of updates made before it.
            losses: test losses by name.
        """
        measured = {loss: estimate._asdict() for loss, estimate in losses.items()}
        self._log(self._append(METRICS, name, step, kind="test", losses=measured), {})
        # The bar is taken off the screen first, or the line would be written into it.
        self._bar.clear()
        print(self._line(name, step, losses[self._test_losses[name]]), flush=True)
        self._bar.refresh()

    def _learning_rate(self, update: int) -> float:
        """Learning rates a thousand at a time: asked at each step, the device would compute one number."""
        if update not in self._rates:
            # The same thousand wherever a run is resumed, or vectors' ends might round otherwise.
            updates = np.arange(1000) + update // 1000 * 1000
            rates = np.broadcast_to(self._schedule(updates), updates.shape).tolist()
            self._rates = dict(zip(updates.tolist(), rates, strict=True))
        return self._rates[update]

    def _take_up(self) -> int:
        """Take up what a resumed run has recorded, and tell the loggers what they lack; its last step."""
        last = 0
        times = {(r["objective"], r["step"]): r for r in self._read(TIMES)}
        for record in self._read(METRICS):
            name, step = record["objective"], record["step"]
            taken = times.get((name, step), {})
            if record["kind"] == "train":
                last = step
                self._losses[name].append(record["loss"])
                self._seconds[name] += [taken["seconds"]] if taken else []
            self._log(record, taken)
        return last

    def _read(self, file: str) -> list[dict[str, Any]]:
        return [record for record in self._folder.read(file) if record["seed"] == self._seed]

    def _append(self, file: str, name: str, step: int, **measured: Any) -> dict[str, Any]:
        record = {"objective": name, "seed": self._seed, "step": step, **measured}
        self._folder.append(file, record)
        return record

    def _log(self, record: Mapping[str, Any], taken: Mapping[str, Any]) -> None:
        """Tell the loggers a line of `metrics.jsonl`, and for an update that of `times.jsonl`."""
        if record["kind"] == "test":
            found = {f"test/{loss}": estimate["mean"] for loss, estimate in record["losses"].items()}
        else:
            found = {f"train/{key}": record[key] for key in _LEARNT if key in record}
            found |= {f"time/{key}": taken[key] for key in _TAKEN if key in taken}
        prefix = f"{record['objective']}/" if len(self._test_losses) > 1 else ""
        scalars = {f"{prefix}{key}": value for key, value in found.items()}
        for logger in self._loggers:
            if record["step"] >= logger.first_step:
                logger.log(record["step"], scalars)

    def _what_it_took(self, name: str, seconds: float) -> dict[str, float]:
        """What an update took, by `_TAKEN`."""
        taken = {"seconds": seconds, "tokens_per_second": self._tokens / seconds}
        if (held := memory_bytes(self._devices)) is not None:
            taken["memory_bytes"] = held
        if self._peak is not None:
            taken["mfu"] = self._flops[name] / seconds / self._peak
        return taken

    def _rate(self, name: str) -> float:
        """Tokens a second: by the median, because the first of the steps compiled."""
        return self._tokens / statistics.median_high(self._seconds[name])

    def _line(self, name: str, step: int, test: Estimate) -> str:
        losses = self._losses[name]
        train = f"{sum(losses) / len(losses):6.3f}" if losses else "     -"
        line = (
            f"{name:<{self._width}} {step:>{len(str(self._steps))}}/{self._steps}  loss {train}  "
            f"test {test.mean:6.3f} ± {test.standard_error:.3f}"
        )
        if self._started is None or step <= self._started[1]:
            return line
        start, first = self._started
        steps_left = self._steps - step + self._steps_after
        left = round((time.monotonic() - start) / (step - first) * steps_left)
        return f"{line}  {self._rate(name):7,.0f} tokens/s  ETA {left // 60}:{left % 60:02}"
