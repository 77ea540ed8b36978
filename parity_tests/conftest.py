"""Session set-up: float64 on, CPU only as eight devices, one torch thread, no console noise."""

import contextlib
import gc
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import pytest
import torch

from parity_tests import quick_compilation

# float64 separates every known trap from rounding; arrays state their dtype, so float32 tests stay float32.
jax.config.update("jax_enable_x64", True)
# For the tests of sharding; the others use the first, and are no slower for the rest.
jax.config.update("jax_num_cpu_devices", 8)
# Workers of pytest-xdist share the cores; torch's own pool on top of that only costs time.
torch.set_num_threads(1)
# Tracing makes many small objects that live on: looking through them for cycles took a tenth of the time.
gc.set_threshold(200_000, 20, 100)
# What compiles much, computes little, and compares in float64 or coarsely.
QUICK = {"doctor", "learnt", "training", "experiments", "runs", "test_generate.py"}
QUICK |= {f"test_{name}.py" for name in ("public", "debugging_modes", "distillation", "penalties", "api")}
QUICK |= {
    f"test_{name}.py" for name in ("layers", "map_weights", "wrong_ports", "steps", "run_parity", "golden")
}
QUICK |= {f"test_{name}.py" for name in ("classification", "ctc", "softmax_divergence", "top_k_distillation")}
EXACT = {"test_l1_vs_l2.py"}  # both frameworks to the bit, as programs are for users


@pytest.fixture(autouse=True, scope="session")
def _one_device_trains():
    """Training would spread a batch over all devices, and spend its time on passing gradients around."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
        yield


@pytest.fixture(autouse=True, scope="module")
def _quick_where_no_rounding_is_tested(request):
    is_quick = QUICK & {request.path.parent.name, request.path.name} and request.path.name not in EXACT
    with quick_compilation.everywhere() if is_quick else contextlib.nullcontext():
        yield


@pytest.fixture(autouse=True)
def _strict(request):
    """In every test of a loss, nothing is promoted in dtype or rank but what the loss itself promotes."""
    if request.path.parent.name not in ("losses", "fused"):
        yield
        return
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield
