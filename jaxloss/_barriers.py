"""Arrays that XLA for CPU is to compute once and keep, where it would work them out again for each use.

On CPU, fusion repeats a cheap sum in every operation that reads it: the residual stream, and its gradient on
the way back, would be added up again from all blocks for each matrix product. With barriers, the final-token
step of a small Model 5 takes 0.87 of its time (docs/train_step.md). XLA for CPU takes barriers out before it
fuses, in the pass `cse_barrier_expander`; a program that is to keep them is compiled without that pass. The
nearest upstream issue is https://github.com/openxla/xla/issues/20440. GPUs and TPUs keep barriers anyway.
"""

from collections.abc import Callable
from typing import Any

import jax


def kept_in_memory(x: jax.Array) -> jax.Array:
    """`x`, computed once; on CPU only in a program of `jit_with_barriers`."""
    return jax.lax.optimization_barrier(x)


def jit_with_barriers(function: Callable[..., Any], **options: Any) -> Any:
    """`jax.jit(function, **options)`, in whose programs for CPU barriers last until operations are fused."""
    usual = jax.jit(function, **options)
    if jax.default_backend() != "cpu":
        return usual
    without_pass = {"xla_disable_hlo_passes": "cse_barrier_expander"}
    barred = jax.jit(function, compiler_options=without_pass, **options)

    def call(*args: Any) -> Any:
        # Within another jit, JAX refuses compiler options.
        is_traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(args))
        return (usual if is_traced else barred)(*args)

    call.lower = barred.lower  # type: ignore[attr-defined]
    return call
