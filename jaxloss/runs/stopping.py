"""Why a run stops early: a signal, obeyed between two steps, or a training that diverges."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable
from types import FrameType

import jax
import numpy as np

WINDOW = 20
"""Steps over which the mean loss decides whether a training diverges."""
_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class EarlyStop:
    """Whether a run is to stop before its last step, and why.

    While entered, Ctrl-C (SIGINT) and SIGTERM ask the loop to stop between two steps. A second signal ends
    the process at once, also while XLA compiles. Outside the main thread, where Python allows no handlers,
    none is set. Of several processes, all stop where one is asked to.

    Args:
        guess: loss of guessing, in nats: a training whose loss stays above twice of it has diverged.
        learning_rates: number of an update, counted from 0 -> its learning rate.

    >>> with EarlyStop(guess=8.3, learning_rates=lambda update: 0.1) as stop:
    ...     stop.has_diverged("all", step=7, loss=float("nan"), grad_norm=1.0)
    ...     stop.requested, stop.exit_code
    True
    (True, 1)
    """

    def __init__(self, *, guess: float, learning_rates: Callable[[int], float]) -> None:
        self.reason = ""
        """Why, in words; empty as long as the run goes on."""
        self.exit_code = 0
        """0; 130 after Ctrl-C, 143 after SIGTERM, as shells have it; 1 after a divergence."""
        self.diverged = ""
        """Which training did; empty if none."""
        self._guess, self._learning_rates = guess, learning_rates
        self._losses: dict[str, deque[float]] = {}
        self._previous: dict[int, object] = {}
        self._heard, self._is_alone = 0, True

    @property
    def requested(self) -> bool:
        """Whether to make no further step."""
        return bool(self.reason)

    def agreed(self) -> bool:
        """Whether to make no further step, which several processes decide together: each asks before each."""
        if not self._is_alone:
            from jax.experimental.multihost_utils import process_allgather

            heard = int(np.max(process_allgather(np.int32(self._heard))))
            if heard:
                self._stop_by(heard)
        return self.requested

    def has_diverged(self, name: str, step: int, *, loss: float, grad_norm: float) -> bool:
        """Whether a training diverges, which ends the run and is said on stderr.

        It does where a loss or gradient is NaN or infinite, or the mean loss of the last `WINDOW` steps is
        more than twice that of guessing.

        Args:
            name: which training.
            step: number of the step, from 1.
            loss: its loss.
            grad_norm: the norm of its gradient.
        """
        losses = self._losses.setdefault(name, deque(maxlen=WINDOW))
        losses.append(loss)
        mean = sum(losses) / len(losses)
        if not math.isfinite(loss):
            what = f"the loss is {loss}"
        elif not math.isfinite(grad_norm):
            what = f"the gradient's norm is {grad_norm}"
        elif len(losses) == WINDOW and mean > 2 * self._guess:
            what = f"over {WINDOW} steps the mean loss is {mean:.1f}, that of guessing {self._guess:.1f}"
        else:
            return False
        rate = float(self._learning_rates(step - 1))
        self.reason = f"{name} diverged at step {step}, at a learning rate of {rate:.2g}: {what}"
        self.exit_code, self.diverged = 1, name
        tries = f"--train.learning-rate {rate / 10:.1g}, --train.warmup-ratio 0.1"
        print(f"\n{self.reason}\ntry {tries} or --train.clip-norm 1", file=sys.stderr, flush=True)
        return True

    def is_worth_keeping(self, loss: float) -> bool:
        """Whether a state that gave this loss is one to go back to."""
        return loss <= 2 * self._guess

    def __enter__(self) -> EarlyStop:
        self._is_alone = jax.process_count() == 1
        if threading.current_thread() is threading.main_thread():
            self._watch()
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._previous:
            return
        while self._previous:
            signal.signal(*self._previous.popitem())  # type: ignore[arg-type]
        signal.set_wakeup_fd(self._previous_fd)
        os.close(self._write_fd)
        self._watcher.join()

    def _watch(self) -> None:
        # Python calls a handler when XLA has compiled, half a minute late; the system writes the signal's
        # number to a descriptor at once, and a thread can read it there.
        read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._write_fd, False)
        for number in _NAMES:
            self._previous[number] = signal.signal(number, self._on_signal)
        self._previous_fd = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        self._watcher = threading.Thread(target=_obey, args=(read_fd,), daemon=True)
        self._watcher.start()

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self._heard = signum
        if self._is_alone:
            self._stop_by(signum)

    def _stop_by(self, signum: int) -> None:
        if not self.requested:
            self.reason, self.exit_code = f"stopped by {_NAMES[signal.Signals(signum)]}", 128 + signum


def quit_now(code: int) -> None:
    """End the process without taking the interpreter down.

    XLA's threads may still compile or compute; what they touch would be gone, which is a segmentation fault.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _obey(read_fd: int) -> None:
    """Say that the first signal was heard, and end the process at the second."""
    is_asked = False
    with open(read_fd, "rb", buffering=0) as signals:
        while byte := signals.read(1):
            if byte[0] not in _NAMES:
                continue
            if is_asked:
                quit_now(128 + byte[0])
            is_asked = True
            name = _NAMES[signal.Signals(byte[0])]
            print(f"\n{name}: stopping after this step; again to quit at once", file=sys.stderr, flush=True)
