"""What ends a run between two steps: a signal, and a loss that is not finite."""

import signal

import pytest

from jaxloss.runs import stopping
from jaxloss.runs.stopping import EarlyStop


def make():
    return EarlyStop(guess=4.0, learning_rates=lambda update: 0.01 * (update + 1))


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_asks_to_stop_and_sets_the_exit_code(signum, code, capfd):
    before = signal.getsignal(signum)
    with make() as stop:
        assert not stop.requested
        assert stop.exit_code == 0
        signal.raise_signal(signum)
        assert stop.requested
    assert stop.exit_code == code
    assert signal.getsignal(signum) == before
    assert "stopping after this step" in capfd.readouterr().err


def test_second_signal_ends_the_process_at_once(monkeypatch, capfd):
    codes = []
    monkeypatch.setattr(stopping.os, "_exit", codes.append)
    with make() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    assert codes == [stop.exit_code] == [130]
    assert "Ctrl-C: stopping after this step; again to quit at once" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("loss", "norm", "what"),
    [
        (float("nan"), float("nan"), "the loss is nan"),
        (2.0, float("inf"), "the gradient's norm is inf"),
        (2.0, 1.0, None),
    ],
)
def test_value_that_is_not_finite_is_a_divergence_at_a_step_and_a_learning_rate(loss, norm, what, capfd):
    stop = make()
    assert stop.has_diverged("all", 7, loss=loss, grad_norm=norm) == stop.requested == (what is not None)
    assert stop.reason == (f"all diverged at step 7, at a learning rate of 0.07: {what}" if what else "")
    assert (stop.exit_code, stop.diverged) == ((1, "all") if what else (0, ""))
    tries = "try --train.learning-rate 0.007, --train.warmup-ratio 0.1 or --train.clip-norm 1"
    assert (tries in capfd.readouterr().err) == (what is not None)


def test_loss_above_that_of_guessing_is_a_divergence_once_it_stays_there():
    stop, losses = make(), [9.0] * (stopping.WINDOW - 1)
    assert not any(stop.has_diverged("all", i, loss=loss, grad_norm=1.0) for i, loss in enumerate(losses, 1))
    assert not stop.has_diverged("final", 1, loss=9.0, grad_norm=1.0)
    assert stop.has_diverged("all", stopping.WINDOW, loss=9.0, grad_norm=1.0)
    assert stop.reason.endswith("over 20 steps the mean loss is 9.0, that of guessing 4.0")
    assert [stop.is_worth_keeping(loss) for loss in (8.0, 8.1, float("nan"))] == [True, False, False]
