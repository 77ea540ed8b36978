"""A small Llama-like model in Flax with names of its own, and the mistakes that a port of it may contain.

Shapes: B batch, T time, D width, H heads, G key heads, K head width, V vocabulary.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Llama:
    """Sizes, and what a port may get wrong; the defaults are right."""

    vocab_size: int = 23
    width: int = 16
    hidden: int = 24
    num_heads: int = 4
    num_key_heads: int = 2
    num_blocks: int = 1
    eps: float = 1e-6
    rotary_base: float = 10000.0
    first_position: int = 0
    is_interleaved: bool = False
    turns_back: bool = False
    tiles_heads: bool = False
    is_causal: bool = True
    score_scale: float = 0.5
    softmax_axis: int = -1
    activation: str = "silu"
    swaps_gate: bool = False
    adds_attention_input: bool = True
    norms_before_mlp: bool = True
    subtracts_mean: bool = False
    one_plus_scale: bool = False
    embedding_scale: float = 1.0
    stops_gradient: bool = False
    narrow: str | None = None


class Norm(nn.Module):
    config: Llama

    @nn.compact
    def __call__(self, x_BTD):
        config, dtype = self.config, x_BTD.dtype
        scale = self.param("scale", nn.initializers.ones, x_BTD.shape[-1:])
        x_BTD = x_BTD.astype(jnp.float32)
        if config.subtracts_mean:
            x_BTD = x_BTD - x_BTD.mean(-1, keepdims=True)
        x_BTD = x_BTD * jax.lax.rsqrt(jnp.mean(x_BTD**2, -1, keepdims=True) + config.eps)
        return x_BTD.astype(dtype) * (1 + scale if config.one_plus_scale else scale)


class Attention(nn.Module):
    config: Llama

    @nn.compact
    def __call__(self, x_BTD):
        config = self.config
        head_dim = config.width // config.num_heads

        def project(name, num_heads):
            y_BTD = nn.Dense(num_heads * head_dim, use_bias=False, name=name)(x_BTD)
            return y_BTD.reshape(*x_BTD.shape[:2], num_heads, head_dim)

        q_BTHK, k_BTGK = project("wq", config.num_heads), project("wk", config.num_key_heads)
        v_BTGK = project("wv", config.num_key_heads)
        q_BTHK, k_BTGK = rotated(q_BTHK, config), rotated(k_BTGK, config)
        times = config.num_heads // config.num_key_heads
        repeat = (
            (lambda x: jnp.tile(x, (1, 1, times, 1)))
            if config.tiles_heads
            else (lambda x: x.repeat(times, 2))
        )
        k_BTHK, v_BTHK = repeat(k_BTGK), repeat(v_BTGK)
        scores_BHTS = jnp.einsum("BTHK,BSHK->BHTS", q_BTHK, k_BTHK) * config.score_scale
        if config.is_causal:
            visible_TS = jnp.tril(jnp.ones(scores_BHTS.shape[-2:], bool))
            scores_BHTS = jnp.where(visible_TS, scores_BHTS, -1e30)
        weights_BHTS = jax.nn.softmax(
            scores_BHTS.astype(config.narrow or scores_BHTS.dtype), config.softmax_axis
        )
        y_BTHK = jnp.einsum("BHTS,BSHK->BTHK", weights_BHTS.astype(v_BTHK.dtype), v_BTHK)
        y_BTD = y_BTHK.reshape(x_BTD.shape)
        y_BTD = jax.lax.stop_gradient(y_BTD) if config.stops_gradient else y_BTD
        return nn.Dense(config.width, use_bias=False, name="wo")(y_BTD)


def rotated(x_BTHK, config):
    half = x_BTHK.shape[-1] // 2
    frequency_K = (config.rotary_base ** (-jnp.arange(half, dtype=jnp.float32) / half)).astype(jnp.float32)
    time_T = jnp.arange(x_BTHK.shape[1], dtype=jnp.float32) + config.first_position
    angle_TK = time_T[:, None] * frequency_K * (-1 if config.turns_back else 1)
    cos, sin = (
        jnp.cos(angle_TK)[:, None].astype(x_BTHK.dtype),
        jnp.sin(angle_TK)[:, None].astype(x_BTHK.dtype),
    )
    if config.is_interleaved:
        a, b = x_BTHK[..., ::2], x_BTHK[..., 1::2]
        return jnp.stack([a * cos - b * sin, b * cos + a * sin], -1).reshape(x_BTHK.shape)
    a, b = x_BTHK[..., :half], x_BTHK[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


class Mlp(nn.Module):
    config: Llama

    @nn.compact
    def __call__(self, x_BTD):
        config = self.config
        gate = nn.Dense(config.hidden, use_bias=False, name="gate")(x_BTD)
        up = nn.Dense(config.hidden, use_bias=False, name="up")(x_BTD)
        gate, up = (up, gate) if config.swaps_gate else (gate, up)
        activation = getattr(jax.nn, config.activation)
        return nn.Dense(config.width, use_bias=False, name="down")(activation(gate) * up)


class Block(nn.Module):
    config: Llama

    @nn.compact
    def __call__(self, x_BTD):
        config = self.config
        y_BTD = Attention(config, name="attn")(Norm(config, name="attn_norm")(x_BTD))
        x_BTD = x_BTD + y_BTD if config.adds_attention_input else y_BTD
        normed_BTD = Norm(config, name="mlp_norm")(x_BTD)
        return x_BTD + Mlp(config, name="mlp")(normed_BTD if config.norms_before_mlp else x_BTD)


class LlamaLike(nn.Module):
    config: Llama = Llama()

    @nn.compact
    def __call__(self, ids_BT):
        config = self.config
        x_BTD = nn.Embed(config.vocab_size, config.width, name="embed")(ids_BT) * config.embedding_scale
        for i in range(config.num_blocks):
            x_BTD = Block(config, name=f"block_{i}")(x_BTD)
        x_BTD = Norm(config, name="final_norm")(x_BTD)
        return nn.Dense(config.vocab_size, use_bias=False, name="head")(x_BTD)
