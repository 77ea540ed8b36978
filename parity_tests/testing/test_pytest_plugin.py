"""The fixture makes a parity test of one line, and the options write the table."""

pytest_plugins = ["pytester"]

CONFTEST = 'pytest_plugins = ["jaxloss.testing.pytest_plugin"]'
TESTS = """
import jax.numpy as jnp, torch
from jaxloss.testing import normal

def test_square(parity):
    parity(jnp.square, torch.square, normal(8))

def test_mean(parity):
    parity(jnp.sum, torch.mean, normal(8))
"""


def test_fixture_reports_and_table(pytester):
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_inprocess("--parity-table", "--parity-report=parity.md")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["*wrong reduction denominator: JAX is 8 times torch*", "test_square*float64*yes"]
    )
    assert "| test_mean | float64 |" in (pytester.path / "parity.md").read_text()


LOSSES = """
import jax.numpy as jnp, pytest

@pytest.mark.parametrize("distance", [jnp.square, jnp.floor])
def test_loss(examine_loss, distance):
    examine_loss(lambda x, y: distance(x - y).mean(), "real", checks=["gradient_size"], dtypes=["float32"])
"""


def test_a_loss_with_an_error_fails(pytester):
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(LOSSES)
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["error    gradient_size: the gradient is 0 at every input drawn*"])


def test_report_in_a_missing_folder_is_refused_at_once(pytester):
    pytester.makeconftest(CONFTEST)
    result = pytester.runpytest_inprocess("--parity-report=nowhere/parity.md")
    result.stderr.fnmatch_lines(["*--parity-report must be in a folder that exists; got nowhere/parity.md"])
