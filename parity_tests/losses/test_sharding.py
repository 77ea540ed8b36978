"""The losses on two devices, rows split between them, in a process of its own.

Each by `shard_map`, summed over the devices, and by `jit` of sharded arrays.
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
from jax.sharding import NamedSharding, PartitionSpec as P

from jaxloss import losses

jax.config.update("jax_enable_x64", True)
N, C = 4, 5
rng = np.random.default_rng(0)
x, y = jnp.asarray(rng.standard_normal((2, N, C)))
labels = jnp.asarray([0, 4, -100, 2])
probabilities, signs = jax.nn.softmax(y), jnp.sign(y)
frames, lengths = jnp.asarray(rng.standard_normal((N, 6, C))), jnp.full(N, 6)
mesh = jax.make_mesh((2,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
CASES = {
    "cross_entropy": (lambda z, t: losses.cross_entropy(z, t, **TOTAL), x, labels),
    "cross_entropy, smoothed": (
        lambda z, t: losses.cross_entropy(z, t, label_smoothing=0.1, **TOTAL), x, labels
    ),
    "cross_entropy of probabilities": (lambda z, p: losses.cross_entropy(z, p, **TOTAL), x, probabilities),
    "focal_loss": (lambda z, t: losses.focal_loss(z, t, **TOTAL), x, labels),
    "kl_div": (lambda z, p: losses.kl_div(jax.nn.log_softmax(z), p, **TOTAL), x, probabilities),
    "jensen_shannon_div": (lambda z, t: losses.jensen_shannon_div(z, t, **TOTAL), x, y),
    "distillation_loss": (lambda z, t: losses.distillation_loss(z, t, **TOTAL), x, y),
    "unlikelihood_loss": (lambda z, t: losses.unlikelihood_loss(z, t[:, None], **TOTAL), x, labels),
    "z_loss": (lambda z, _: losses.z_loss(z, **TOTAL), x, y),
    "huber_loss": (lambda z, t: losses.huber_loss(z, t, **TOTAL), x, y),
    "soft_margin_loss": (lambda z, t: losses.soft_margin_loss(z, t, **TOTAL), x, signs),
    "multi_margin_loss": (lambda z, t: losses.multi_margin_loss(z, abs(t) % C, **TOTAL), x, labels),
    "correlation_loss": (lambda z, t: losses.correlation_loss(z, t, **TOTAL), x, y),
    "ctc_loss": (
        lambda z, n: losses.ctc_loss(
            jax.nn.log_softmax(z).swapaxes(0, 1), jnp.ones((len(z), 2), int), n, n * 0 + 2, **TOTAL
        ), frames, lengths
    ),
}
TOTAL = {"reduction": "sum"}
OPTIONS = {"xla_backend_optimization_level": 0}


def program(of_rows, rows, target):
    total = lambda *local: lax.psum(of_rows(*local), "rows")
    sharded = jax.shard_map(total, mesh=mesh, in_specs=(P("rows"), P("rows")), out_specs=P())
    return [jax.value_and_grad(loss)(rows, target) for loss in (of_rows, sharded)]


for name, (of_rows, rows, target) in CASES.items():
    place = lambda array: jax.device_put(array, NamedSharding(mesh, P("rows")))
    # Of sharded arrays, so that the first of the two is the compiler's own partition.
    run = jax.jit(lambda *arrays: program(of_rows, *arrays), compiler_options=OPTIONS)
    alone = jax.jit(jax.value_and_grad(of_rows), compiler_options=OPTIONS)(rows, target)
    for value, gradient in run(place(rows), place(target)):
        for a, b in ((value, alone[0]), (gradient, alone[1])):
            error = float(jnp.max(jnp.abs(a - b)) / (2.0**-52 * jnp.max(jnp.abs(b))))
            assert np.shape(a) == np.shape(b), name
            assert error <= 16, f"{name}: {error} eps of max"
    print("ok", name)
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
    assert run.stdout.count("ok ") == 14
    assert "2 devices" in run.stdout
