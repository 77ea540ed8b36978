"""The table of the comparison, from records whose numbers are known."""

import pytest

from jaxloss.runs.comparison import compare, comparison_table, summarise
from jaxloss.runs.plots import plot_losses


def records(objective, steps=160, seed=0):
    """A test loss that falls by one nat in 80 steps, and a train loss that alternates by 0.1."""
    found = []
    for step in range(steps + 1):
        if step:
            loss = 8 - step / 80 + 0.1 * (-1) ** step
            update = {"loss": loss, "grad_norm": 1.0}
            found.append({"kind": "train", "objective": objective, "seed": seed, "step": step, **update})
        if step % 80 == 0:
            losses = {name: {"mean": 8 - step / 80, "standard_error": 0.01} for name in ("all", "final")}
            found.append(
                {"kind": "test", "objective": objective, "seed": seed, "step": step, "losses": losses}
            )
    return found


def times(objective, steps=160):
    """The first step compiles."""
    return [{"objective": objective, "seconds": 0.02 if step else 5.0} for step in range(steps)]


def test_summary():
    found = [*records("all"), *records("final", steps=80)]
    summary = summarise(found, [*times("all"), *times("final", steps=80)], "all")
    assert summary["steps"] == 160
    assert summary["loss_drop_per_100_steps"] == pytest.approx(1.25)
    assert summary["steps_to_drop_1_nat"] == 80
    assert summary["steps_to_drop_2_nats"] == 160
    assert summary["fluctuation"] == pytest.approx(0.1, rel=0.05)
    assert summary["largest_rise_of_test_loss"] == 0
    assert summary["step_milliseconds"] == pytest.approx(20)


def test_summary_of_a_run_stopped_at_once():
    summary = summarise(records("all", steps=0), [], "all")
    assert summary["train_loss"] is summary["step_milliseconds"] is summary["fluctuation"] is None


LABELS = {"all": "all tokens", "final": "final token"}
TEXT = {"tokens_with_space": 0.5, "word_length": 5.0, "repeated_ngrams": 0.1}


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("steps", [160, 0])
def test_table_has_every_line_of_the_trade_off_within_80_columns(steps, seeds):
    text = {"text": TEXT | {"perplexity_under_other": 99999.0}}
    summaries = {
        name: [summarise(records(name, steps), times(name, steps), name) | text] * seeds for name in LABELS
    }
    table = comparison_table(summaries, LABELS, TEXT)
    for heading in ("speed of learning", "stability", "fit to generation", "cost"):
        assert f"**{heading}**" in table
    assert max(map(len, table.splitlines())) <= 80
    assert "nan" not in table
    loss = f"{8 - steps / 80:.2f}"
    assert f"{loss} ± 0.01" in table if seeds == 1 else f"{loss} ± 0.00" in table


def test_findings_are_of_several_seeds_and_a_curve_that_falls_too_little_counts_as_slow():
    summary = summarise(records("all"), times("all"), "all")
    slow = {"steps_to_drop_1_nat": None, "fluctuation": 0.5, "step_milliseconds": 10.0}
    slow["test_losses"] = {"all": {"mean": 7.0, "standard_error": 0.1}}
    higher, fluctuating = (
        finding.verdict for finding in compare({"all": [summary] * 3, "final": [summary | slow] * 3}, 160)
    )
    assert (higher, fluctuating) == ("holds", "holds")
    verdicts = [f.verdict for f in compare({"all": [summary], "final": [summary | slow]}, 160)]
    assert verdicts == ["does not hold"] * 2


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("steps", [160, 1, 0])
def test_plot_is_a_png_however_short_the_run(tmp_path, steps, seeds):
    found = [record for name in LABELS for seed in range(seeds) for record in records(name, steps, seed)]
    title = "Losses: $\\no$ " + 20 * "a long name " + "\udcff.txt"
    plot_losses(tmp_path / "loss.png", found, title=title, labels=LABELS, test_loss="all")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
