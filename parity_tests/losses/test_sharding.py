"""The losses on two devices, rows split between them, in a process of its own.

Each by `jit` of sharded arrays and by `shard_map`, summed over the devices. The mesh has explicit axes, which
`jax.make_mesh` makes; for some losses also axes along which JAX splits as it likes.
"""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from jaxloss import losses

jax.config.update("jax_enable_x64", True)
N, C = 4, 5
rng = np.random.default_rng(0)
x, y = rng.standard_normal((2, N, C))
labels, weight = np.array([0, 4, -100, 2]), np.array([0.5, 2.0, 1.0, 0.0, 3.0])
probabilities, signs = np.exp(y) / np.exp(y).sum(-1, keepdims=True), np.sign(y)
lists = np.array([[1, 0, -1, 2, 3], [2, -1, 0, 0, 0], [-1, 0, 0, 0, 0], [4, 3, 2, 1, -1]])
frames, lengths = rng.standard_normal((N, 6, C)), np.full(N, 6)
TOTAL = {"reduction": "sum"}
CASES = {
    "cross_entropy": (lambda z, t: losses.cross_entropy(z, t, weight, **TOTAL), x, labels),
    "cross_entropy, smoothed": (
        lambda z, t: losses.cross_entropy(z, t, weight, label_smoothing=0.1, **TOTAL), x, labels
    ),
    "cross_entropy of probabilities": (lambda z, p: losses.cross_entropy(z, p, **TOTAL), x, probabilities),
    "focal_loss": (lambda z, t: losses.focal_loss(z, t, weight=weight, **TOTAL), x, labels),
    "kl_div": (lambda z, p: losses.kl_div(jax.nn.log_softmax(z), p, **TOTAL), x, probabilities),
    "jensen_shannon_div": (lambda z, t: losses.jensen_shannon_div(z, t, **TOTAL), x, y),
    "distillation_loss": (lambda z, t: losses.distillation_loss(z, t, **TOTAL), x, y),
    "unlikelihood_loss": (lambda z, t: losses.unlikelihood_loss(z, t[:, None], **TOTAL), x, labels),
    "token_set_loss": (lambda z, _: losses.token_set_loss(z, weight > 1, mass=0.5, **TOTAL), x, y),
    "z_loss": (lambda z, _: losses.z_loss(z, **TOTAL), x, y),
    "huber_loss": (lambda z, t: losses.huber_loss(z, t, **TOTAL), x, y),
    "soft_margin_loss": (lambda z, t: losses.soft_margin_loss(z, t, **TOTAL), x, signs),
    "multi_margin_loss": (
        lambda z, t: losses.multi_margin_loss(z, abs(t) % C, weight=weight, **TOTAL), x, labels
    ),
    "multilabel_margin_loss": (lambda z, t: losses.multilabel_margin_loss(z, t, **TOTAL), x, lists),
    "correlation_loss": (lambda z, t: losses.correlation_loss(z, t, **TOTAL), x, y),
    "ctc_loss": (
        lambda z, n: losses.ctc_loss(
            jax.nn.log_softmax(z).swapaxes(0, 1), jnp.ones(2 * len(z), int), n, n * 0 + 2, **TOTAL
        ), frames, lengths
    ),
}
# What explicit axes let through, others do too; but gathers and loops are told of the former only.
TOLD = ("cross_entropy", "multilabel_margin_loss", "ctc_loss")
OPTIONS = {"xla_backend_optimization_level": 0}
try:
    # Of jax 0.10, where it halves the time to compile, which is nearly all that this takes.
    quick = OPTIONS | {"xla_cpu_use_fusion_emitters": False}
    jax.jit(lambda: 0, compiler_options=quick)()
    OPTIONS = quick
except jax.errors.JaxRuntimeError:
    pass


MESHES = [jax.make_mesh((2,), ("rows",), axis_types=(kind,)) for kind in (AxisType.Explicit, AxisType.Auto)]


def run(mesh, losses_of_rows, arrays):
    program = jax.jit(
        lambda *rows: [jax.value_and_grad(loss)(*rows) for loss in losses_of_rows], compiler_options=OPTIONS
    )
    if mesh is None:
        return program(*arrays)
    with jax.set_mesh(mesh):
        return program(*jax.device_put(arrays, NamedSharding(mesh, P("rows"))))


for name, (of_rows, *arrays) in CASES.items():
    arrays = [jnp.asarray(array) for array in arrays]
    total = lambda *local: lax.psum(of_rows(*local), "rows")
    by_hand = jax.shard_map(total, mesh=MESHES[0], in_specs=(P("rows"), P("rows")), out_specs=P())
    (alone,) = run(None, [of_rows], arrays)
    split = run(MESHES[0], [of_rows, by_hand], arrays)
    if name in TOLD:
        split += run(MESHES[1], [of_rows], arrays)
    for results in split:
        for a, b in zip(results, alone, strict=True):
            error = float(np.max(np.abs(np.asarray(a) - b)) / (2.0**-52 * np.max(np.abs(b))))
            assert np.shape(a) == np.shape(b), name
            assert error <= 16, f"{name}: {error} eps of max"
    print("ok", name, len(split))
print(len(jax.devices()), "devices")
"""


def test_rows_may_be_sharded():
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stdout + run.stderr[-3000:]
    assert run.stdout.count("ok ") == 16
    assert "2 devices" in run.stdout
