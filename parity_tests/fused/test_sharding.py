"""The chunked head on four devices: a sharded batch, a sharded vocabulary, both; in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec as P

from jaxloss.fused import linear_cross_entropy, linear_log_prob

jax.config.update("jax_enable_x64", True)
rng = np.random.default_rng(0)
hidden, head = rng.standard_normal((4, 8, 6)), rng.standard_normal((12, 6))
hidden, head = jnp.asarray(hidden), jnp.asarray(head)
labels, weight, bias = rng.integers(0, 12, (4, 8)), rng.uniform(0.5, 2.0, 12), rng.standard_normal(12)
labels[0, 3] = -100
labels, weight, bias = jnp.asarray(labels), jnp.asarray(weight), jnp.asarray(bias)
CHUNKED = {"implementation": "chunked", "chunk_size": 8}


def check(name, actual, expected):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        error = np.max(np.abs(np.asarray(a) - np.asarray(b))) / (2.0**-52 * np.max(np.abs(np.asarray(b))))
        assert np.shape(a) == np.shape(b), name
        assert error <= 16, f"{name}: {error} eps of max"
    print("ok", name)


def whole(hidden, head, **options):
    return linear_cross_entropy(hidden, head, labels, implementation="reference", **options)


expected = jax.value_and_grad(whole, (0, 1))(hidden, head)
mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
place = lambda array, *spec: jax.device_put(array, NamedSharding(mesh, P(*spec)))

step = jax.jit(jax.value_and_grad(partial(linear_cross_entropy, **CHUNKED), (0, 1)))
placed = place(hidden, "data"), place(head), place(labels, "data")
check("jit with a sharded batch", step(*placed), expected)
program = step.lower(*placed).compile().as_text()
assert not re.search("all-gather|all-to-all", program), "tokens move between devices"
print("ok no gather")

local = partial(linear_cross_entropy, reduction="sum", **CHUNKED)


@partial(jax.shard_map, mesh=mesh, in_specs=(P("data"), P(), P("data")), out_specs=P())
def data_parallel(hidden, head, labels):
    kept = lax.psum(jnp.sum(labels != -100), "data")
    return lax.psum(local(hidden, head, labels), "data") / kept


step = jax.jit(jax.value_and_grad(data_parallel, (0, 1)))
check("shard_map over the batch", step(hidden, head, labels), expected)

mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
OPTIONS = {
    "plain": {},
    "smoothing and class weights": {"label_smoothing": 0.1, "weight": weight},
    "z-loss, softcap, scale, bias": {
        "z_loss": 0.1, "logit_softcap": 3.0, "logit_scale": np.float64(0.7), "linear_bias": bias
    },
}
for name, options in OPTIONS.items():
    specs = {k: P("model") if k in ("weight", "linear_bias") else P() for k in options if np.ndim(options[k])}
    arrays = {k: options[k] for k in specs}
    static = {k: v for k, v in options.items() if k not in specs}

    @partial(jax.shard_map, mesh=mesh, in_specs=(P(), P("model"), P(), specs), out_specs=P())
    def tensor_parallel(hidden, head, labels, arrays):
        return linear_cross_entropy(hidden, head, labels, axis_name="model", **CHUNKED, **static, **arrays)

    wanted = jax.value_and_grad(lambda h, w, a: whole(h, w, **static, **a), (0, 1, 2))(hidden, head, arrays)
    f = lambda h, w, a: tensor_parallel(h, w, labels, a)
    check(f"vocabulary: {name}", jax.jit(jax.value_and_grad(f, (0, 1, 2)))(hidden, head, arrays), wanted)


@partial(jax.shard_map, mesh=mesh, in_specs=(P("data"), P("model"), P("data")), out_specs=P())
def both(hidden, head, labels):
    kept = lax.psum(jnp.sum(labels != -100), "data")
    return lax.psum(local(hidden, head, labels, axis_name="model"), "data") / kept


check("batch and vocabulary", jax.jit(jax.value_and_grad(both, (0, 1)))(hidden, head, labels), expected)
tangents = jnp.asarray(rng.standard_normal(hidden.shape))
f, g = (lambda h: both(h, head, labels)), (lambda h: whole(h, head))
check("jvp", jax.jit(lambda: jax.jvp(f, (hidden,), (tangents,)))(), jax.jvp(g, (hidden,), (tangents,)))
along = lambda f: jax.jvp(jax.grad(f), (hidden,), (tangents,))
check("second derivative", jax.jit(lambda: along(f))(), along(g))


@partial(jax.shard_map, mesh=mesh, in_specs=(P("data"), P("model"), P("data")), out_specs=P("data"))
def log_probs(hidden, head, labels):
    return linear_log_prob(hidden, head, labels, axis_name="model", **CHUNKED)


wanted = linear_log_prob(hidden, head, labels, implementation="reference")
check("log-probabilities", jax.jit(log_probs)(hidden, head, labels), wanted)
"""


def test_batch_and_vocabulary_may_be_sharded():
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stdout + run.stderr[-3000:]
    assert run.stdout.count("ok ") == 10
