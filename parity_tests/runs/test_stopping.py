"""What ends a run between two steps: a signal, and a loss that is not finite."""

import signal

import pytest

from jaxloss.runs.stopping import EarlyStop


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_asks_to_stop_and_sets_the_exit_code(signum, code, capfd):
    before = signal.getsignal(signum)
    with EarlyStop() as stop:
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
        with pytest.raises(KeyboardInterrupt), EarlyStop():  # noqa: PT012 - the second signal is the one
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("loss", "norm", "what"),
    [
        (float("nan"), float("nan"), "the loss is nan"),
        (2.0, float("inf"), "the gradient's norm is inf"),
        (2.0, 1.0, None),
    ],
)
def test_value_that_is_not_finite_ends_the_run_naming_the_step(loss, norm, what):
    stop = EarlyStop()
    assert stop.is_not_finite("all", 7, loss, norm) == stop.requested == (what is not None)
    assert stop.reason == (f"all: {what} at step 7, and that update was not made" if what else "")
    assert stop.exit_code == (1 if what else 0)
