"""XLA flags for the processes of tests that compile much and compute little: what they check is no rounding.

Such a test compares in float64, or asks where arrays lie; each program runs once or twice. The flags change
how a program becomes machine code, and no other test runs with them.
"""

import jax

XLA_FLAGS = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1"
)
if jax.__version_info__ < (0, 11):
    # Most of the difference; later versions have nothing but fusion emitters, and refuse the flag.
    XLA_FLAGS += " --xla_cpu_use_fusion_emitters=false"
