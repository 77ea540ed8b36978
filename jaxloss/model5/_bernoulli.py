"""The numbers of `jax.random.bernoulli`, at a fraction of its time on CPU, and only those that are asked for.

On CPU, JAX compiles Threefry as a loop over its rounds, each a pass over arrays of the mask's size: 35 ms
for a mask of 4 million elements, on 2 cores, where one pass with all rounds takes 5; a training step takes
0.89 of its time (docs/train_step.md). https://github.com/jax-ml/jax/pull/37872 unrolls the loop, but is not
in JAX 0.12.0; once the oldest JAX that is supported has it, `jax.random.bernoulli` serves.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxloss._mesh import num_devices

_ROTATIONS = (13, 15, 26, 6), (17, 29, 16, 24)
_PARITY = 0x1BD11BDA
_NUM_PARTS = 4


def bernoulli(key: jax.Array, p: float, shape: tuple[int, ...], skipped: int = 0) -> jax.Array:
    """`jax.random.bernoulli(key, float32(p), shape)`, without the first `skipped` elements of axis -2.

    It is what that gives with JAX's defaults, whatever `jax_enable_x64` and `jax_threefry_partitionable` say
    now, so that a key means the same mask everywhere.
    """
    kept_shape = (*shape[:-2], shape[-2] - skipped, shape[-1]) if skipped else shape
    if str(jax.random.key_impl(key)) != "threefry2x32" or math.prod(shape) >= 2**31:
        mask = jax.random.bernoulli(key, jnp.float32(p), shape)
        return mask[..., skipped:, :] if skipped else mask
    # `uniform` makes a float32 in [0, 1) of the upper 23 bits; so many of its values lie below p.
    threshold = math.ceil(float(np.float32(p)) * 2**23)
    size = math.prod(kept_shape)

    def draw_at(index: jax.Array) -> jax.Array:
        high, low = _threefry(key_data, jnp.zeros_like(index), index)
        return ((high ^ low) >> 9) < threshold

    def draw(start: jax.Array | int, length: int) -> jax.Array:
        index = start + jax.lax.iota(jnp.uint32, length)
        if skipped:
            part = math.prod(kept_shape[-2:])
            index = index + (index // part + 1) * jnp.uint32(skipped * shape[-1])
        return draw_at(index)

    def draw_by_axes() -> jax.Array:
        # Each element's index from its place: of an array split over devices, each draws its own part.
        strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        places = [jax.lax.broadcasted_iota(jnp.uint32, kept_shape, axis) for axis in range(len(shape))]
        index = sum(place * jnp.uint32(stride) for place, stride in zip(places, strides, strict=True))
        return draw_at(index + jnp.uint32(skipped * shape[-1] if skipped else 0))

    def draw_in_parts() -> jax.Array:
        # Fused with what uses the mask, it would be drawn for each use, and change how that rounds: what a
        # loop makes is an array of its own. Written over, where the last part overlaps the one before.
        length = -(-size // _NUM_PARTS)

        def add(i: int, mask: jax.Array) -> jax.Array:
            start = jnp.minimum(i * length, size - length).astype(jnp.uint32)
            return jax.lax.dynamic_update_slice_in_dim(mask, draw(start, length), start, 0)

        return jax.lax.fori_loop(0, _NUM_PARTS, add, jnp.zeros(size, bool))

    key_data = jax.random.key_data(key)
    if num_devices() > 1:
        return draw_by_axes()
    if size < _NUM_PARTS:
        return draw(0, size).reshape(kept_shape)
    mask = jax.lax.platform_dependent(cpu=draw_in_parts, default=lambda: draw(0, size))
    return mask.reshape(kept_shape)


def _threefry(key: jax.Array, a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Threefry-2x32 with 20 rounds: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"."""
    keys = key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(_PARITY)
    a, b = a + keys[0], b + keys[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            a = a + b
            b = (b << rotation) | (b >> (32 - rotation))
            b = a ^ b
        a, b = a + keys[(group + 1) % 3], b + keys[(group + 2) % 3] + jnp.uint32(group + 1)
    return a, b
