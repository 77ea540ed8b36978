"""Why a run stops early: a signal, obeyed between two steps, or a loss that is no longer a number."""

from __future__ import annotations

import math
import signal
import sys
import threading
from types import FrameType
from typing import Any


class NonFiniteLossError(ArithmeticError):
    """The loss or its gradient became NaN or infinite.

    Args:
        step: the step, counted from 1, whose update was refused.
        loss: its loss.
        grad_norm: the norm of its gradient.
        state: the state from before that step.
    """

    def __init__(self, step: int, loss: float, grad_norm: float, state: Any):
        self.step, self.loss, self.grad_norm, self.state = step, loss, grad_norm, state
        what = f"the gradient's norm is {grad_norm}" if math.isfinite(loss) else f"the loss is {loss}"
        super().__init__(f"{what} at step {step}: that update was not made, and training stops")


class StopOnSignal:
    """While entered, Ctrl-C (SIGINT) and SIGTERM set `requested`, for the loop to stop between two steps.

    A second signal interrupts at once. Outside the main thread, where Python allows no handlers, none is set.

    >>> with StopOnSignal() as stop:
    ...     stop.requested
    False
    """

    def __init__(self):
        self.signum: int | None = None
        self._previous: dict[int, object] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal came."""
        return self.signum is not None

    @property
    def exit_code(self) -> int:
        """0, or what a shell shows for a program ended by the signal: 130 after Ctrl-C, 143 after SIGTERM."""
        return 0 if self.signum is None else 128 + self.signum

    def __enter__(self) -> StopOnSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        self._restore()
        name = "Ctrl-C" if signum == signal.SIGINT else "SIGTERM"
        print(f"\n{name}: stopping after this step; again to quit at once", file=sys.stderr, flush=True)

    def _restore(self) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())  # type: ignore[arg-type]
