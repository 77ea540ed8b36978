"""Signals that stop a run between two steps."""

import signal

import pytest

from jaxloss.runs.stopping import NonFiniteLossError, StopOnSignal


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_asks_to_stop_and_sets_the_exit_code(signum, code, capfd):
    before = signal.getsignal(signum)
    with StopOnSignal() as stop:
        assert not stop.requested
        assert stop.exit_code == 0
        signal.raise_signal(signum)
        assert stop.requested
    assert stop.exit_code == code
    assert signal.getsignal(signum) == before
    assert "stopping after this step" in capfd.readouterr().err


def test_second_ctrl_c_interrupts_at_once(capfd):
    # A shell starts what runs in the background with Ctrl-C ignored, and Python then leaves it so.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), StopOnSignal():  # noqa: PT012 - the second signal is the one
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("loss", "norm", "message"),
    [
        (float("nan"), float("nan"), "the loss is nan at step 7: that update was not made"),
        (2.0, float("inf"), "the gradient's norm is inf at step 7: that update was not made"),
    ],
)
def test_error_names_the_step_and_what_is_not_finite(loss, norm, message):
    assert message in str(NonFiniteLossError(7, loss, norm, None))
