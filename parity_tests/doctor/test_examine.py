"""What the doctor does with losses that cannot be examined, and how it reports."""

import itertools
import json
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss
from jaxloss.doctor import Finding, InputSpec, __main__, examine
from jaxloss.runs.cli import run_cli


def quick(loss, kind="real", checks=("invariances",), **options):
    return examine(loss, kind, checks=list(checks), dtypes=["float32"], **{"budget_seconds": 600, **options})


counter = itertools.count()


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (
            lambda x, y: jaxloss.multi_margin_loss(x, y),
            r"called with float32\[8\], float32\[8\], it raised TypeError: target must hold class indices",
        ),
        (lambda x, y: jnp.stack([x, y]), r"it returns a vector, of shape \[2, 8\], where a scalar is due"),
        (lambda x, y: None, "it returns NoneType, not a scalar"),
        (lambda x, y: "high", "it returns str, not a scalar"),
        (lambda x, y: next(counter) * jnp.mean(x), "two calls with the same arguments differ by 0."),
        (
            lambda x, y: sys.exit(3) if isinstance(x, jax.core.Tracer) else jnp.mean(x),
            "JAX .*: SystemExit: 3",
        ),
        (lambda x, y: np.mean(np.asarray(x) - np.asarray(y)), "JAX cannot trace and differentiate it"),
    ],
)
def test_a_loss_that_cannot_be_examined_is_told_apart(loss, says):
    report = quick(loss)
    (finding,) = report.findings
    assert (finding.check, finding.severity) == ("call", "error")
    assert pytest.raises(ValueError, match=says).matches(ValueError(finding.message))
    assert list(report.left_out) == ["invariances"]
    with pytest.raises(ValueError, match="no value to draw"):
        report.picture("loss.png")


def test_a_loss_of_each_example_is_examined_by_its_mean():
    report = quick(lambda x, y: (x - y) ** 2)
    assert [finding.message for finding in report.findings] == [
        "it returns one value for each example, [8]; their mean is examined"
    ]
    assert report.measured["invariances"]["power of the scale of both"] == 2


def test_a_loss_that_prints_does_so_to_the_report_only(capsys):
    def loud(x, y):
        print("loss of", x.shape)
        return jnp.mean((x - y) ** 2)

    (finding,) = quick(loud).findings
    assert finding.message == "it prints: 'loss of (8,)'"
    assert capsys.readouterr().out == ""


def test_a_slow_loss_is_timed_and_left_alone():
    def slow(x, y):
        time.sleep(0.3)
        return jnp.mean((x - y) ** 2)

    report = quick(slow, budget_seconds=2.0)
    assert "one call takes 0." in report.findings[0].message
    assert report.left_out["invariances"].startswith("a call takes 0.")
    report = quick(slow, budget_seconds=0.1)
    assert report.findings[0].message == "one call did not end within 0.1 s"
    assert quick(slow, budget_seconds=1e-9).findings[0].message == "one call did not end within 1e-09 s"


def test_a_check_that_the_budget_ends_is_named(monkeypatch):
    monkeypatch.setattr("jaxloss.doctor.examination.CHECKS", {"a": _spend, "b": _spend})
    report = examine(jaxloss.mse_loss, "real")
    assert report.left_out == dict.fromkeys("ab", "the budget of seconds was spent")
    assert "nothing found; examined in part, 0 of 2 checks" in str(report)
    assert not report.errors
    assert not report.passed


def _keeping(x, y, kept=[]):  # noqa: B006
    kept.append(jnp.mean(jnp.square(x - y)))
    return kept[-1] + 0 * kept[-2] if len(kept) > 2 else kept[-1]


def _leaving(x, y):
    if isinstance(x, jax.core.Tracer) and jax.config.jax_enable_x64:
        raise SystemExit(3)
    return jnp.mean(jnp.square(x - y))


@pytest.mark.parametrize(
    ("loss", "says"), [(_keeping, "UnexpectedTracerError: "), (_leaving, "SystemExit: 3")]
)
def test_a_loss_that_fails_in_the_checks_is_an_error_told_once(loss, says):
    report = quick(loss, checks=["gradient_size", "kinks"])
    (finding,) = report.findings
    assert (finding.severity, list(report.left_out)) == ("error", ["gradient_size", "kinks"])
    assert finding.message.startswith(f"it fails under JAX's jit, vmap or grad: {says}")


def _spend(subject):
    subject.deadline = 0.0
    return subject.evaluate(*subject.draw_units(2))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kind": "class"}, "kind must be one of 'classes', .* Did you mean 'classes'"),
        ({"checks": ["finit"]}, "checks must be one of 'finite', .* Did you mean 'finite'"),
        ({"checks": "finite"}, "checks must be a list of names"),
        ({"dtypes": ["float8"]}, "dtypes must be one of .*got 'float8'"),
        ({"budget_seconds": 0}, "budget_seconds must be in"),
    ],
)
def test_bad_arguments_are_named(options, says):
    with pytest.raises(ValueError, match=says):
        examine(jaxloss.mse_loss, **options)


def test_what_is_no_loss_and_what_is_no_spec():
    with pytest.raises(TypeError, match="loss must be a function of predictions and targets; got float"):
        examine(0.5)
    with pytest.raises(ValueError, match="low must be below high"):
        InputSpec(lambda rng, num: (), low=1.0, high=0.0)
    with pytest.raises(ValueError, match="draw must return a tuple of arrays of 3 examples"):
        examine(jaxloss.mse_loss, InputSpec(lambda rng, num: rng.standard_normal(num)))
    with pytest.raises(ValueError, match=r"kind must draw .*; its draw raised ZeroDivisionError"):
        examine(jaxloss.mse_loss, InputSpec(lambda rng, num: 1 / 0))
    with pytest.raises(ValueError, match=r"wrt must be in \[0, 1\)"):
        examine(jaxloss.mse_loss, InputSpec(lambda rng, num: (rng.standard_normal(num),), wrt=1))
    with pytest.raises(ValueError, match=r"of one shape and of float64; got int64\[3\]"):
        examine(jaxloss.mse_loss, InputSpec(lambda rng, num: (np.arange(num),)))


@pytest.fixture(scope="module")
def report():
    def root(x, y):
        """Not differentiable at 0."""
        return jnp.mean(jnp.sqrt((x - y) ** 2))

    return quick(root, checks=["kinks"], name="a|b")


def test_the_report_is_text_markdown_json_and_a_picture(report, tmp_path):
    assert str(report).startswith("a|b on real: 1 error, 1 note")
    assert str(report).splitlines()[1].startswith("error    kinks: at the kink")
    assert max(map(len, str(report).splitlines())) <= 110
    table = [line for line in report.markdown().splitlines() if line.startswith("| ")]
    assert {line.replace("\\|", "").count("|") for line in table} == {6, 4}
    content = json.loads(report.json())
    assert content["findings"][0]["number"] == "nan"
    assert content["measured"]["kinks"]["on the margin"] == [0.0]
    report.picture(tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert report.curves()["float64"].gradient[0] == pytest.approx(-1)


def run(*arguments):
    return run_cli(__main__.main, __main__.Config, argv=arguments)


def test_the_command_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("print('hello')\ndef square(x, y):\n    return ((x - y) ** 2).mean()\n")
    options = ("--kind", "real", "--dtypes", "float32", "--checks", "gradient_size")
    assert run("mine:square", *options, "--json") == 0
    assert json.loads(capsys.readouterr().out)["loss"] == "square"
    assert run("jaxloss:multi_margin_loss", *options) == 1
    assert "it raised TypeError" in capsys.readouterr().out
    for arguments, says in [
        (("mine",), "loss must be module:name, such as jaxloss:cross_entropy; got 'mine'"),
        (("mine:cube",), "loss must name something in mine; it has no 'cube'"),
        (("absent:cube",), "loss cannot be imported from absent: ModuleNotFoundError"),
        (("mine:square", "--kind", "reel"), "--kind must be one of"),
        (("mine:square", "--json", "--markdown"), "--json and --markdown exclude each other"),
        (("mine:square", "--plot", "absent/loss.png"), "--plot must be in a folder that exists"),
    ]:
        assert run(*arguments) == 2
        assert says in capsys.readouterr().err


def test_importing_the_doctor_draws_nothing():
    program = "import sys, jaxloss.doctor; print({'matplotlib', 'torch', 'tyro'} & sys.modules.keys())"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("set()\n", "")


def test_findings_are_plain():
    finding = Finding("kinks", "note", "a kink", 1.0, "(0.)", "smooth it")
    with pytest.raises(AttributeError):
        finding.number = 2.0


def test_a_partial_and_an_object_have_names():
    partial = jax.tree_util.Partial(jaxloss.huber_loss, delta=2.0)
    assert quick(partial, checks=["gradient_size"]).loss == "huber_loss"


def test_the_number_of_classes_is_chosen():
    def of_six(logits, labels):
        return -jnp.mean(jnp.sum(jax.nn.one_hot(labels, 6) * jax.nn.log_softmax(logits), 1))

    report = quick(of_six, "6 classes", ["meaning"])
    assert not report.errors
    assert report.measured["meaning"]["best prediction"] == "the probabilities (strictly proper)"
    assert not quick(of_six, "6 classes", ["trains"]).findings


def test_a_spec_of_ones_own_is_not_taken_for_a_kind_by_its_name():
    spec = InputSpec(lambda rng, num: tuple(rng.standard_normal((2, num, 2))), name="classes")
    report = quick(jaxloss.mse_loss, spec, ["meaning"])
    assert report.measured["meaning"]["best prediction"].startswith("not looked for")
