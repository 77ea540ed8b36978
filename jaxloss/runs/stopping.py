"""Why a run stops early: a signal, obeyed between two steps, or a loss that is no longer a number."""

from __future__ import annotations

import math
import signal
import sys
import threading
from types import FrameType


class EarlyStop:
    """Whether a run is to stop before its last step, and why.

    While entered, Ctrl-C (SIGINT) and SIGTERM ask the loop to stop between two steps. A second signal
    interrupts at once. Outside the main thread, where Python allows no handlers, none is set.

    >>> with EarlyStop() as stop:
    ...     stop.is_not_finite("all", step=7, loss=float("nan"), grad_norm=1.0)
    ...     stop.requested, stop.reason, stop.exit_code
    True
    (True, 'all: the loss is nan at step 7, and that update was not made', 1)
    """

    def __init__(self) -> None:
        self.reason = ""
        """Why, in words; empty as long as the run goes on."""
        self.exit_code = 0
        """0; 130 after Ctrl-C, 143 after SIGTERM, as shells have it; 1 after a loss that is not finite."""
        self._previous: dict[int, object] = {}

    @property
    def requested(self) -> bool:
        """Whether to make no further step."""
        return bool(self.reason)

    def is_not_finite(self, name: str, step: int, loss: float, grad_norm: float) -> bool:
        """Whether a step's loss or gradient is NaN or infinite, which ends the run.

        Args:
            name: which training.
            step: number of the step, from 1.
            loss: its loss.
            grad_norm: the norm of its gradient.
        """
        if math.isfinite(loss) and math.isfinite(grad_norm):
            return False
        what = f"the gradient's norm is {grad_norm}" if math.isfinite(loss) else f"the loss is {loss}"
        self.reason = f"{name}: {what} at step {step}, and that update was not made"
        self.exit_code = 1
        print(self.reason, file=sys.stderr)
        return True

    def __enter__(self) -> EarlyStop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self._restore()
        name = "Ctrl-C" if signum == signal.SIGINT else "SIGTERM"
        self.reason, self.exit_code = f"stopped by {name}", 128 + signum
        print(f"\n{name}: stopping after this step; again to quit at once", file=sys.stderr, flush=True)

    def _restore(self) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())  # type: ignore[arg-type]
