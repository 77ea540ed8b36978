"""For tests that compile much and compute little: what they check is no rounding.

Such a test compares in float64, or asks where arrays lie; each program runs once or twice. The options change
how a program becomes machine code.
"""

from functools import partial

import jax

OPTIONS = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
if jax.__version_info__ < (0, 11):
    # Most of the difference; later versions have nothing but fusion emitters, and refuse the flag.
    OPTIONS["xla_cpu_use_fusion_emitters"] = False

jit = partial(jax.jit, compiler_options=OPTIONS)

# The same for a process, whose operations outside `jit` they then concern too.
XLA_FLAGS = " ".join(f"--{name}={str(value).lower()}" for name, value in OPTIONS.items())
XLA_FLAGS += " --xla_cpu_parallel_codegen_split_count=1"
