"""For tests that compile much and compute little: what they check is no rounding.

Such a test compares in float64, or asks where arrays lie; each program runs a few times. The options change
how a program becomes machine code.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import pytest

OPTIONS = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
if jax.__version_info__ < (0, 11):
    # Most of the difference; later versions have nothing but fusion emitters, and refuse the flag.
    OPTIONS["xla_cpu_use_fusion_emitters"] = False

_jax_jit = jax.jit
jit = partial(_jax_jit, compiler_options=OPTIONS)

# The same for a process, whose operations outside `jit` they then concern too. With these options, unlike
# those that users have, numbers depend on how many parts a program is compiled in.
FLAGS_OF_OPTIONS = " ".join(f"--{name}={str(value).lower()}" for name, value in OPTIONS.items())
XLA_FLAGS = f"{FLAGS_OF_OPTIONS} --xla_cpu_parallel_codegen_split_count=1"


def output_of(module: str, *args: str) -> str:
    """What a module prints when it is run as a program, in a process that compiles everything quickly."""
    environment = os.environ | {
        "XLA_FLAGS": XLA_FLAGS,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    run = subprocess.run(
        [sys.executable, "-m", module, *args], capture_output=True, text=True, env=environment
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-3000:]
    return run.stdout


class _Jitted:
    """What `jax.jit` returns, compiled quickly unless it is called in a program that is being traced."""

    def __init__(self, function: Any, *, compiler_options: Any = None, **options: Any):
        # Within another jit, JAX refuses compiler options.
        self._within = _jax_jit(function, **options)
        self._quick = jit(function, compiler_options=OPTIONS | (compiler_options or {}), **options)

    def __call__(self, *args: Any, **named: Any) -> Any:
        is_traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((args, named)))
        return (self._within if is_traced else self._quick)(*args, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._quick, name)


@contextlib.contextmanager
def everywhere() -> Iterator[None]:
    """What is compiled meanwhile, by whomever, is compiled quickly; programs of `jax.jit` the quickest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "jit", _Jitted)
        jax.config.update("jax_disable_most_optimizations", True)
        try:
            yield
        finally:
            jax.config.update("jax_disable_most_optimizations", False)
