"""Each experiment on a claim, at its least size: it runs, and leaves findings, figures and one plot."""

import json
import shutil
from functools import cache

import jax
import pytest

from jaxloss.model5 import Model5Config
from jaxloss.runs.cli import run_cli
from parity_tests.scripts import load

claims = load("claims")
TEXT = {"corpus": "{folder}/web.jsonl", "tokenizer": "bytes"}
BOTH_TEXTS = {"book": "{folder}/book.txt", "web": "{folder}/web.jsonl"}
LEAST = {
    "correlation": {"seeds": 2, "steps": 3, "raters": 3, "items": 4},
    "bias": {"seeds": 2, "steps": 3, "examples": 50},
    "overfitting": {"seeds": 2, "steps": 20, "examples": 20},
    "unequal_classes": {"seeds": 2, "steps": 3, "examples": 202},
    "check_a_loss": {"seeds": 2, "steps": 3, "examples": 16},
    "learnt_loss": {"seeds": 2, "outer-steps": 1, "inner-steps": 1, "records": 1},
    "hybrid_loss": {"seeds": 2, "steps": 2, "examples": 20},
    "l1_l2_huber": {"seeds": 2, "steps": 200},
    "missing_log_softmax": TEXT | {"seeds": 2, "steps": 2, "eval-every": 1},
    "eval_dropout": TEXT | {"seeds": 2, "steps": 2},
    "steering": TEXT | {"seeds": 2, "steps": 2, "steering-steps": 1, "texts": 2},
    "supervised_tokens": TEXT | {"seeds": 2, "steps": 2, "eval-every": 1},
    "final_token_recipes": TEXT | {"seeds": 2, "steps": 2, "evaluations": 1},
    "book_vs_web": BOTH_TEXTS | {"seeds": 2, "steps": 2, "texts": 2},
    "gradient_noise": BOTH_TEXTS | {"sequences": 16, "steps": 2},
}
# What only multiplies the programs to compile.
FEWER = {
    ("steering", "FACTORS"): {"fewer repeats": (1.0,), "no capitals": (1.0,), "more capitals": (1.0,)},
    ("supervised_tokens", "KEPT"): (1, 64),
    ("gradient_noise", "LENGTHS"): (4, 8, 16),
    ("final_token_recipes", "CONTEXT"): 16,
    ("check_a_loss", "CHECKS"): ("gradient_size",),
    ("check_a_loss", "CASES"): dict([*load("check_a_loss").CASES.items()][5:7]),
}
SENTENCE = "The quick brown Fox jumps over the lazy dog, and {} runs away from it. "


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Texts to train on, and a cache of token files; all seeds of a script share its programs."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "book.txt").write_text("\n\n".join(SENTENCE.format(i) * 4 for i in range(40)))
    lines = [json.dumps({"text": SENTENCE.format(f"number {i}") * 5}) for i in range(200)]
    (folder / "web.jsonl").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch, jax.enable_x64(False):
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        for (name, constant), value in FEWER.items():
            patch.setattr(load(name), constant, value)
        recipes = load("final_token_recipes")
        few = {"final": recipes.Recipe(learning_rate=1e-3), "averaged": recipes.Recipe((16, 1), average=0.5)}
        patch.setattr(recipes, "RECIPES", few)
        patch.setattr(recipes, "ARTICLES", "final")
        patch.setattr(recipes, "SHOWN", ("final", "averaged"))
        learnt = load("learnt_loss")
        few = {name: learnt.FAMILIES[name] for name in (learnt.BASE, "GCE, q = 0.7", "learnt GCE")}
        patch.setattr(learnt, "FAMILIES", few)
        for kind in ("FIXED", "LEARNT"):
            patch.setattr(learnt, kind, {k: v for k, v in getattr(learnt, kind).items() if k in few})
        for name, least in LEAST.items():
            if "corpus" in least or "book" in least:
                patch.setattr(load(name), "Model5Config", tiny_model)
            for made in ("Model5", "make_optimizer"):
                if hasattr(load(name), made):
                    patch.setattr(load(name), made, cache(getattr(load(name), made)))
        yield folder


def tiny_model(**options):
    return Model5Config(**options | {"embed_dim": 16, "num_heads": 1, "num_blocks": 1})


def run(name, out, folder, **options):
    script = load(name)
    values = {key: str(value).format(folder=folder) for key, value in options.items()}
    argv = [part for key, value in values.items() for part in (f"--{key}", value)]
    return run_cli(script.main, script.Config, argv=[*argv, "--out", str(out)])


@pytest.mark.parametrize("name", LEAST)
def test_experiment_leaves_findings_figures_and_one_plot(name, folder, tmp_path, capsys):
    assert run(name, tmp_path / "run", folder, **LEAST[name]) == 0
    files = {file.name for file in (tmp_path / "run").iterdir()}
    assert {"config.json", "table.md", "results.json"} < files
    assert len([file for file in files if file.endswith(".png")]) == 1
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    for finding in results["findings"]:
        assert claims.CLAIMS[finding["claim"]][1] == name
        assert finding["verdict"] in ("holds", "holds in part", "does not hold")
    assert {c for c, (_, where) in claims.CLAIMS.items() if where == name} == {
        finding["claim"] for finding in results["findings"]
    }
    assert (tmp_path / "run" / "table.md").read_text().strip() in capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name in LEAST if "seeds" in LEAST[name]])
def test_no_seed_is_refused_in_one_line(name, tmp_path, capsys):
    assert run(name, tmp_path / "run", "", seeds=0) == 2
    assert capsys.readouterr().err == "error: --seeds must be at least 1; got 0.\n"
    assert not (tmp_path / "run").exists()


def test_every_claim_is_measured_by_a_script_or_a_test_that_exists_or_said_to_be_open():
    for _, where in claims.CLAIMS.values():
        if where != claims.OPEN:
            file = where if where.startswith(claims.TEST) else f"experiments/{where}.py"
            assert (claims.ROOT / file).exists(), file


def test_the_page_shows_what_the_runs_found(folder, tmp_path, monkeypatch):
    for name, path in (("RUNS", "runs"), ("PLOTS", "docs/claims"), ("PAGE", "docs/claims.md")):
        monkeypatch.setattr(claims, name, tmp_path / path)
    (tmp_path / "docs").mkdir()
    assert run("l1_l2_huber", tmp_path / "runs" / "l1_l2_huber", folder, **LEAST["l1_l2_huber"]) == 0
    claims.write_page()
    page = (tmp_path / "docs" / "claims.md").read_text()
    rows = {
        line.split(" | ")[0].removeprefix("| "): line for line in page.splitlines() if line.startswith("| ")
    }
    assert set(claims.CLAIMS) <= set(rows)
    (finding,) = json.loads((tmp_path / "runs" / "l1_l2_huber" / "results.json").read_text())["findings"]
    assert f"{finding['result']} | {finding['verdict']} | [plot](claims/l1_l2_huber.png)" in rows["L6"]
    assert (tmp_path / "docs" / "claims" / "l1_l2_huber.png").exists()
    assert "| open |" in rows["L8"]
    assert "not measured yet | open" in rows["L7, bias"]
    shutil.rmtree(tmp_path / "runs")
    claims.write_page()
    assert rows["L6"] in (tmp_path / "docs" / "claims.md").read_text(), (
        "a row stays where nothing is measured anew"
    )


def test_a_mistyped_experiment_is_named_with_the_nearest(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["claims.py", "corelation"])
    with pytest.raises(SystemExit) as stop:
        claims.main()
    assert stop.value.code == 2
    assert "no experiment is called 'corelation': did you mean correlation?" in capsys.readouterr().err
