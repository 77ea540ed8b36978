"""Torch's side of a comparison in a file, so that tests of a project without torch can be made against it."""

import contextlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxloss.interop import to_numpy
from jaxloss.testing._golden_file import (
    FORMAT,
    RecordedTorch,
    as_recorded,
    check_params,
    digests_of,
    key_of,
    read,
    settings_of,
)
from jaxloss.testing._jax import JaxSide, make_converter
from jaxloss.testing._judge import nearby
from jaxloss.testing._problem import Problem, make_problem
from jaxloss.testing._result import Leaves, NotRecordedError, Result
from jaxloss.testing.inputs import cast, draw_inputs
from jaxloss.testing.parity import check_judged, check_options, dtype_names, report_on
from jaxloss.testing.report import ParityReport


def record_golden(
    path: str | os.PathLike[str],
    torch_fn: Any,
    *inputs: Any,
    wrt: Iterable[int] | None = None,
    dtypes: Iterable[str] = ("float64", "float32"),
    params: Any = None,
    params_to_torch: Callable[[Any], Any] | None = None,
    allow_nonfinite: bool = False,
    device: str | None = None,
    seed: int = 0,
) -> None:
    """Write to a file what torch says in a comparison: outputs, gradients, and how rounding moves them.

    Args:
        path: of the file, which is replaced; numpy's npz format, with a header in JSON.
        torch_fn: see `assert_parity`, as for the other arguments.
        *inputs: arrays, specs and settings.
        wrt: positions of the inputs to differentiate.
        dtypes: to record.
        params: the JAX function's parameters, which the torch module is given.
        params_to_torch: from that tree to torch's names and layouts.
        allow_nonfinite: whether NaN and infinities may appear.
        device: of torch.
        seed: of random inputs and cotangents.

    Raises:
        OSError: the file cannot be written.
        TypeError: as `assert_parity`.
        ValueError: as `assert_parity`.
    """
    import torch

    names = dtype_names(dtypes)
    check_options(_no_jax, torch_fn, params, None, None)
    problem = make_problem(
        _no_jax,
        torch_fn,
        inputs,
        wrt=wrt,
        params=params,
        params_to_torch=params_to_torch,
        jit=False,
        device=device,
        matmul_precision="highest",
        allow_nan=allow_nonfinite,
        seed=seed,
    )
    module = {} if params is None else {n: list(p.shape) for n, p in torch_fn.named_parameters()}
    runs: dict[str, Result] = {}
    for dtype in names:
        given = cast((problem.inputs, problem.params), dtype)
        moved = [(near, "float64") for near in nearby(given, dtype)]
        for (numbers, values), of in [(given, dtype), (given, "float64"), *moved]:
            runs[key_of(numbers, values, of)] = problem.torch(numbers, values, of)
    taken = Leaves.of(problem.inputs)
    header = {
        "format": FORMAT,
        "function": str(getattr(torch_fn, "__name__", type(torch_fn).__name__)),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "dtypes": names,
        "wrt": problem.torch_side.wrt,
        "seed": seed,
        "allow_nonfinite": allow_nonfinite,
        "settings": settings_of(taken),
        "params": digests_of(problem.params),
        "module": module,
        "arrays": {
            "input": [*taken.arrays()],
            "cotangent": [*problem.cotangents],
            **{f"{key} value": [*run.values] for key, run in runs.items()},
            **{f"{key} gradient": [*run.gradients] for key, run in runs.items()},
        },
    }
    arrays = {"input": taken.arrays(), "cotangent": problem.cotangents}
    for key, run in runs.items():
        arrays |= {f"{key} value": run.values, f"{key} gradient": run.gradients}
    # By number: names of arrays may have in them what a file's name may not.
    members = {f"{kind} {i}": x for kind, some in arrays.items() for i, x in enumerate(some.values())}
    path, unfinished = Path(path), Path(f"{path}.tmp")
    with contextlib.ExitStack() as stack:
        stack.callback(unfinished.unlink, missing_ok=True)
        with unfinished.open("wb") as file:
            np.savez_compressed(file, **{"header": np.array(json.dumps(header)), **members})  # type: ignore[arg-type]
        unfinished.replace(path)


def assert_golden(
    path: str | os.PathLike[str], jax_fn: Callable[..., Any], *inputs: Any, **options: Any
) -> ParityReport:
    """Fail unless a JAX function agrees with what torch said when the file was recorded; needs no torch.

    It is judged as by `assert_parity`, which also names causes that only torch can tell.

    Args:
        path: of a file from `record_golden`.
        jax_fn: see `assert_parity`.
        *inputs: the same arrays, specs and settings as were recorded.
        **options: `params`, `params_to_torch`, `value_eps`, `gradient_eps`, `jit`, `matmul_precision` and
            `name` of `assert_parity`. The rest is in the file.

    Returns:
        The report.

    Raises:
        AssertionError: they differ.
        OSError: there is no such file.
        TypeError: as `assert_parity`.
        ValueError: the file is no such file, or an input or a parameter is not the one recorded; it is named.

    Warns:
        UserWarning: another version of torch is installed than was recorded.
    """
    report = check_golden(path, jax_fn, *inputs, **options)
    if not report.passed:
        raise AssertionError(report.text())
    return report


def check_golden(
    path: str | os.PathLike[str],
    jax_fn: Callable[..., Any],
    *inputs: Any,
    params: Any = None,
    params_to_torch: Callable[[Any], Any] | None = None,
    value_eps: float | None = None,
    gradient_eps: float | None = None,
    jit: bool = True,
    matmul_precision: str = "highest",
    name: str | None = None,
) -> ParityReport:
    """Compare with a recorded file without raising when they differ; the arguments are `assert_golden`'s."""
    check_judged(jax_fn, value_eps, gradient_eps)
    header, arrays = read(path)
    drawn = cast(draw_inputs(inputs, header["seed"]), "float64")
    recorded = as_recorded(path, header, drawn, arrays["input"])
    converter = None
    params = jax.tree.map(lambda leaf: np.array(to_numpy(leaf)), params)
    check_params(path, header, params)
    if params is not None:
        converter = make_converter(params, header["module"], params_to_torch)
    runs = {
        key: Result(arrays[f"{key} value"], arrays[f"{key} gradient"])
        for key in (kind.removesuffix(" value") for kind in arrays if kind.endswith(" value"))
    }
    theirs = RecordedTorch(runs, header)
    dtypes = header["dtypes"]
    outputs = theirs.run(cast(recorded, dtypes[0]), cast(params, dtypes[0]), dtypes[0]).values
    ours = JaxSide(
        jax_fn,
        recorded,
        header["wrt"],
        outputs,
        converter=converter,
        jit=jit,
        matmul_precision=matmul_precision,
    )
    problem = Problem(ours, theirs, recorded, params, arrays["cotangent"])
    own = name or getattr(jax_fn, "__name__", type(jax_fn).__name__)
    title = f"{own} against {header['function']} of torch {header['torch']}, recorded"
    try:
        report = report_on(problem, dtypes, title, value_eps, gradient_eps, header["allow_nonfinite"])
    except NotRecordedError as error:
        raise ValueError(
            f"path must be recorded with numbers that this numpy draws too; {path} is of numpy "
            f"{header['numpy']}, this is {np.__version__}: record it again"
        ) from error
    if report.passed or report.cause:
        return report
    return replace(report, cause="not known without torch, in which mistakes are tried: see assert_parity")


def _no_jax(*args: Any) -> Any:
    """In place of the JAX function, which is not run when torch is recorded."""
    raise AssertionError
