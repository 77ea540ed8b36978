"""The benchmark of DPO and GRPO at a toy size, whose contenders must agree before they are timed."""

import importlib.util
from functools import partial

import pytest

from parity_tests.scripts import ROOT, load

SIZE = ["--sizes", "32x8x64", "--rounds", "2"]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = load("post_training", "benchmarks")
    monkeypatch.setattr(module, "ask_own_process", lambda *_: 0.0)
    return module


def test_every_contender_agrees_and_is_timed(script, capsys):
    script.main(SIZE)
    printed = capsys.readouterr().out
    peers = ["JAX + optax, logits whole", "torch, logits whole"]
    if importlib.util.find_spec("liger_kernel"):
        peers.append("Liger-Kernel")
    else:
        assert "Liger-Kernel is left out: No module named 'liger_kernel'" in printed
    rows = [line.split(" | ")[0].removeprefix("| ") for line in printed.splitlines() if "(" in line]
    assert [row for row in rows if row in peers] == 2 * peers
    for first in ("jaxloss, make_linear_preference_loss", "jaxloss, make_linear_loss"):
        assert f"\n| {first} | " in printed


def test_what_does_not_agree_is_not_timed(script, monkeypatch, capsys):
    another = partial(script.torch_whole, lambda logps, *_: -logps.mean())
    monkeypatch.setattr(script, "JAX_LOSSES", {"DPO": {"jaxloss": script.jaxloss_dpo}})
    monkeypatch.setattr(script, "TORCH_LOSSES", {"DPO": {"another": another}})
    with pytest.raises(SystemExit, match=r"DPO: another and jaxloss differ by .* in the value: nothing"):
        script.main(SIZE)
    assert "| ms |" not in capsys.readouterr().out


def test_memory_of_a_torch_step_is_printed_for_the_process_that_asks(script, capsys):
    script.main(["--memory-of", "DPO", "torch, logits whole", *SIZE])
    assert float(capsys.readouterr().out) >= 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sizes", "40x8x64"], "the tokens a multiple of 16, as 4096x768x50257; got '40x8x64'"),
        (["--sizes", "32x8"], "must be tokens x width x vocabulary"),
        (["--rounds", "0"], "--rounds must be at least 1; got 0"),
    ],
)
def test_bad_flags_are_one_line(script, flags, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        script.main(flags)
    assert message in capsys.readouterr().err
