"""What torch says is recorded in a file, and JAX compared with it where there is no torch."""

import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxloss.testing import assert_golden, assert_parity, check_golden, integers, normal, record_golden

LAYER = torch.nn.Linear(3, 2)
PARAMS = {"kernel": LAYER.weight.detach().numpy().T, "bias": LAYER.bias.detach().numpy()}
INPUTS = (normal(4, 3), integers(4, high=2), "mean")


def torch_variance(x):
    return x.var(-1)


def jax_variance(x, ddof=1):
    return jnp.var(x, -1, ddof=ddof)


@pytest.fixture
def variance(tmp_path):
    path = tmp_path / "variance.npz"
    record_golden(path, torch_variance, normal(4, 5), dtypes=("float64", "float32", "bfloat16"))
    return path


@pytest.fixture
def layer(tmp_path):
    path = tmp_path / "layer.npz"
    record_golden(path, _Picked(), *INPUTS, params=PARAMS)
    return path


class _Picked(torch.nn.Linear):
    def __init__(self):
        super().__init__(3, 2)

    def forward(self, x, labels, reduction):
        return getattr(super().forward(x).gather(1, labels[:, None]), reduction)()


def jax_picked(params, x, labels, reduction):
    outputs = x @ params["kernel"] + params["bias"]
    return getattr(jnp.take_along_axis(outputs, labels[:, None], 1), reduction)()


def test_verdict_is_that_of_assert_parity(variance, layer):
    for path, ours, theirs, inputs, options in (
        (variance, jax_variance, torch_variance, (normal(4, 5),), {}),
        (layer, jax_picked, _Picked(), INPUTS, {"params": PARAMS}),
    ):
        golden = assert_golden(path, ours, *inputs, **options)
        dtypes = tuple(dict.fromkeys(comparison.dtype for comparison in golden.comparisons))
        live = assert_parity(ours, theirs, *inputs, **options, dtypes=dtypes)
        assert golden.comparisons == live.comparisons
        assert torch.__version__ in golden.name


def test_fault_is_seen_and_named_where_that_takes_no_torch(variance):
    with pytest.raises(AssertionError, match=r"likely cause: .*JAX is 0\.8 times torch"):
        assert_golden(variance, lambda x: jax_variance(x, ddof=0), normal(4, 5))
    report = check_golden(variance, lambda x: jnp.sin(x).sum(-1), normal(4, 5))
    assert not report.passed
    assert report.cause == "not known without torch, in which mistakes are tried: see assert_parity"


def test_disagreement_that_rounding_makes_is_excused_as_with_torch(tmp_path):
    """A sum of large numbers that cancel: no algorithm does better, as the recorded runs nearby tell."""
    x = 1e3 * np.random.default_rng(0).standard_normal(64)
    x[-1] = 1.0 - x[:-1].sum()
    record_golden(tmp_path / "sum", lambda x: x.sum(), x)
    report = assert_golden(tmp_path / "sum", lambda x: jnp.cumsum(x)[-1], x)
    assert report.comparisons[0].note == "ill-conditioned"


def test_it_needs_no_torch(variance):
    program = f"""
import sys
sys.modules["torch"] = None
import jax.numpy as jnp
from jaxloss.testing import check_golden, normal
right = check_golden({str(variance)!r}, lambda x: jnp.var(x, -1, ddof=1), normal(4, 5))
wrong = check_golden({str(variance)!r}, lambda x: jnp.var(x, -1), normal(4, 5))
print(right.passed, wrong.passed, wrong.cause)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("True False wrong reduction denominator: JAX is 0.8 times torch")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((normal(4, 5, mean=1.0),), r"input 0 must hold the numbers of .*variance\.npz, .* record it again"),
        ((normal(4, 6),), r"input 0 must be float64\[4, 5\], as in .*; got float64\[4, 6\]"),
        ((normal(4, 5), 2), r"inputs must be those of .*, input 0; got input 0, input 1"),
        ((), r"inputs must be those of .*; got none"),
    ],
)
def test_changed_input_is_named(variance, inputs, message):
    with pytest.raises(ValueError, match=message):
        check_golden(variance, jax_variance, *inputs)


def test_changed_settings_and_parameters_are_named(layer):
    with pytest.raises(ValueError, match=r"input 2 must be 'mean', as in .*; got 'sum'"):
        check_golden(layer, jax_picked, *INPUTS[:2], "sum", params=PARAMS)
    with pytest.raises(ValueError, match=r"params must hold the numbers of .*; others at \['bias'\]"):
        check_golden(layer, jax_picked, *INPUTS, params={**PARAMS, "bias": np.ones(2)})
    with pytest.raises(ValueError, match=r"only one of the two has \['scale'\]"):
        check_golden(layer, jax_picked, *INPUTS, params={**PARAMS, "scale": np.ones(2)})
    with pytest.raises(ValueError, match=r"params must be as in .*, which was recorded with params"):
        check_golden(layer, jax_picked, *INPUTS)


def test_rounding_of_an_input_on_another_machine_is_no_change(variance):
    x = normal(4, 5)(np.random.default_rng(0)) * (1 + 2**-52)
    assert assert_golden(variance, jax_variance, x).passed


def _rewrite(path, **changes):
    with np.load(path) as file:
        arrays = dict(file)
    header = {**json.loads(str(arrays.pop("header"))), **changes}
    np.savez(path, header=np.array(json.dumps(header)), **arrays)


def test_other_versions_are_noticed(variance):
    _rewrite(variance, torch="1.0.0")
    with pytest.warns(UserWarning, match=r"recorded with torch 1\.0\.0, and .* is here: record it again"):
        assert check_golden(variance, jax_variance, normal(4, 5)).passed
    _rewrite(variance, format=2)
    with pytest.raises(ValueError, match=r"path must be a file of format 1; .* has 2: record it again"):
        check_golden(variance, jax_variance, normal(4, 5))


def test_another_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        check_golden(tmp_path / "missing", jax_variance, normal(4, 5))
    (tmp_path / "text").write_text("no golden file")
    np.savez(tmp_path / "other.npz", x=np.ones(2))
    for name in ("text", "other.npz"):
        with pytest.raises(ValueError, match=rf"path must be a file from record_golden; .*{name} is none"):
            check_golden(tmp_path / name, jax_variance, normal(4, 5))


def test_recording_leaves_no_part_of_a_file_and_refuses_what_cannot_be_compared(tmp_path):
    with pytest.raises(ValueError, match="two results for the same inputs"):
        record_golden(tmp_path / "file", torch.rand_like, normal(3))
    with pytest.raises(FileNotFoundError):
        record_golden(tmp_path / "folder" / "file", torch.square, normal(3))
    with pytest.raises(TypeError, match="torch_fn must be callable; got int"):
        record_golden(tmp_path / "file", 3, normal(3))
    assert not list(tmp_path.iterdir())
