"""Model 5: token and position embeddings, pre-norm transformer blocks, and a head tied to the tokens.

Shapes: B batch, T time (queries), S time (keys), D width, H heads, K head width, F hidden, V vocabulary.
Arithmetic takes the dtype of the parameters; softmax and LayerNorm statistics are at least float32.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxloss.model5.config import Model5Config
from jaxloss.model5.dropout import Dropout

Params: TypeAlias = dict[str, Any]
_KeyValue: TypeAlias = tuple[Float[Array, "B S H K"], Float[Array, "B S H K"]]

_INIT_STD = 0.02


class Attention(nn.Module):
    """Causal multi-head self-attention with one fused projection to queries, keys and values.

    Args:
        config: the model's sizes and options.
    """

    config: Model5Config

    def setup(self) -> None:
        """Make the projections and the two dropouts."""
        self.c_attn = _dense(3 * self.config.embed_dim)
        self.c_proj = _dense(self.config.embed_dim)
        self.attn_dropout = Dropout(self.config.dropout)
        self.resid_dropout = Dropout(self.config.dropout)

    def __call__(self, x_BTD: Float[Array, "B T D"], deterministic: bool = True) -> Float[Array, "B T D"]:
        """Mix each position with itself and the positions before it."""
        q_BTHK, k_BTHK, v_BTHK = self._heads(x_BTD)
        time_T = jnp.arange(x_BTD.shape[1])
        visible_TS = time_T[:, None] >= time_T[None, :]
        return self._attend(q_BTHK, k_BTHK, v_BTHK, visible_TS, deterministic)

    def extend(
        self, x_BTD: Float[Array, "B T D"], cache: _KeyValue, start: Int[Array, ""]
    ) -> tuple[Float[Array, "B T D"], _KeyValue]:
        """Attend from positions `start` to `start + T`, with the keys and values before them cached."""
        q_BTHK, k_BTHK, v_BTHK = self._heads(x_BTD)
        k_BSHK = jax.lax.dynamic_update_slice_in_dim(cache[0], k_BTHK, start, axis=1)
        v_BSHK = jax.lax.dynamic_update_slice_in_dim(cache[1], v_BTHK, start, axis=1)
        query_T = start + jnp.arange(x_BTD.shape[1])
        visible_TS = query_T[:, None] >= jnp.arange(k_BSHK.shape[1])[None, :]
        return self._attend(q_BTHK, k_BSHK, v_BSHK, visible_TS, True), (k_BSHK, v_BSHK)

    def _heads(self, x_BTD: Float[Array, "B T D"]) -> list[Float[Array, "B T H K"]]:
        split_shape = (*x_BTD.shape[:2], self.config.num_heads, self.config.head_dim)
        return [y_BTD.reshape(split_shape) for y_BTD in jnp.split(self.c_attn(x_BTD), 3, axis=-1)]

    def _attend(
        self,
        q_BTHK: Float[Array, "B T H K"],
        k_BSHK: Float[Array, "B S H K"],
        v_BSHK: Float[Array, "B S H K"],
        visible_TS: Bool[Array, "T S"],
        deterministic: bool,
    ) -> Float[Array, "B T D"]:
        scores_BHTS = jnp.einsum(
            "BTHK,BSHK->BHTS",
            q_BTHK / math.sqrt(self.config.head_dim),
            k_BSHK,
            preferred_element_type=jnp.promote_types(q_BTHK.dtype, jnp.float32),
        )
        weights_BHTS = jax.nn.softmax(jnp.where(visible_TS, scores_BHTS, -jnp.inf)).astype(v_BSHK.dtype)
        weights_BHTS = self.attn_dropout(weights_BHTS, deterministic)
        y_BTHK = jnp.einsum("BHTS,BSHK->BTHK", weights_BHTS, v_BSHK)
        y_BTD = y_BTHK.reshape(*y_BTHK.shape[:2], self.config.embed_dim)
        return self.resid_dropout(self.c_proj(y_BTD), deterministic)


class MLP(nn.Module):
    """Two linear layers, four times as wide in between, with GELU.

    Args:
        config: the model's sizes and options.
    """

    config: Model5Config

    def setup(self) -> None:
        """Make the two layers and the dropout."""
        self.c_fc = _dense(4 * self.config.embed_dim)
        self.c_proj = _dense(self.config.embed_dim)
        self.dropout = Dropout(self.config.dropout)

    def __call__(self, x_BTD: Float[Array, "B T D"], deterministic: bool = True) -> Float[Array, "B T D"]:
        """Transform each position on its own."""
        x_BTF = jax.nn.gelu(self.c_fc(x_BTD), approximate=self.config.activation == "gelu_tanh")
        return self.dropout(self.c_proj(x_BTF), deterministic)


class Block(nn.Module):
    """A pre-norm transformer block: attention, then MLP, each added to its input.

    Args:
        config: the model's sizes and options.
    """

    config: Model5Config

    def setup(self) -> None:
        """Make the two layers and their norms."""
        self.ln_1 = _layer_norm(self.config)
        self.attn = Attention(self.config)
        self.ln_2 = _layer_norm(self.config)
        self.mlp = MLP(self.config)

    def __call__(self, x_BTD: Float[Array, "B T D"], deterministic: bool = True) -> Float[Array, "B T D"]:
        """Apply the block."""
        x_BTD = x_BTD + self.attn(self.ln_1(x_BTD), deterministic)
        return x_BTD + self.mlp(self.ln_2(x_BTD), deterministic)

    def extend(
        self, x_BTD: Float[Array, "B T D"], cache: _KeyValue, start: Int[Array, ""]
    ) -> tuple[Float[Array, "B T D"], _KeyValue]:
        """Apply the block to positions `start` to `start + T`, with the earlier ones cached."""
        y_BTD, cache = self.attn.extend(self.ln_1(x_BTD), cache, start)
        x_BTD = x_BTD + y_BTD
        return x_BTD + self.mlp(self.ln_2(x_BTD)), cache


class Model5(nn.Module):
    """GPT-2 small written out: from token ids to the logits of the next token.

    A token id outside the vocabulary gives NaN logits: it cannot raise under `jit`, and it must not pass.

    Args:
        config: sizes and options.

    >>> config = Model5Config(vocab_size=11, context_length=4, embed_dim=8, num_heads=2, num_blocks=1)
    >>> params = init_params(config, jax.random.key(0))
    >>> ids_BT = jnp.array([[1, 2, 3]])
    >>> Model5(config).apply({"params": params}, ids_BT).shape
    (1, 3, 11)
    >>> rngs = {"dropout": jax.random.key(1)}
    >>> Model5(config).apply({"params": params}, ids_BT, deterministic=False, rngs=rngs).shape
    (1, 3, 11)
    """

    config: Model5Config

    def setup(self) -> None:
        """Make the embeddings, the blocks h_0, h_1, ... and the last norm."""
        width = self.config.embed_dim
        # Flax's own glorot_normal is a truncated normal; torch's xavier_normal_ is a whole one.
        xavier_std = math.sqrt(2 / (self.config.context_length + width))
        self.wte = nn.Embed(self.config.vocab_size, width, embedding_init=_normal(_INIT_STD))
        self.wpe = nn.Embed(self.config.context_length, width, embedding_init=_normal(xavier_std))
        self.drop = Dropout(self.config.dropout)
        self.h = [Block(self.config) for _ in range(self.config.num_blocks)]
        self.ln_f = _layer_norm(self.config)

    def __call__(self, ids_BT: Int[Array, "B T"], deterministic: bool = True) -> Float[Array, "B T V"]:
        """Logits of the token after each position, multiplied by `config.logit_factor`.

        Args:
            ids_BT: token ids in [0, vocab_size), at most `context_length` of them in a row.
            deterministic: True for evaluation. False drops out, and needs `rngs={"dropout": key}`.

        Raises:
            TypeError: `ids_BT` is not of an integer dtype.
            ValueError: `ids_BT` is not [B, T] with T in [1, context_length].
        """
        return self.logits(self.hidden(ids_BT, deterministic))

    def hidden(self, ids_BT: Int[Array, "B T"], deterministic: bool = True) -> Float[Array, "B T D"]:
        """Hidden states after the last norm: what `logits` takes."""
        _check_ids(ids_BT, self.config)
        x_BTD = self.drop(self._embed(ids_BT, jnp.int32(0)), deterministic)
        for block in self.h:
            x_BTD = block(x_BTD, deterministic)
        return self.ln_f(x_BTD)

    def extend(
        self, ids_BT: Int[Array, "B T"], cache: tuple[_KeyValue, ...], start: Int[Array, ""]
    ) -> tuple[Float[Array, "B T D"], tuple[_KeyValue, ...]]:
        """Hidden states of positions `start` to `start + T`, with the earlier ones cached; dropout off.

        Args:
            ids_BT: token ids of the new positions.
            cache: keys and values of every block, for `context_length` positions.
            start: position of the first new token.

        Returns:
            The hidden states, and the cache with the new positions written.
        """
        x_BTD = self._embed(ids_BT, start)
        extended = []
        for block, key_value in zip(self.h, cache, strict=True):
            x_BTD, key_value = block.extend(x_BTD, key_value, start)
            extended.append(key_value)
        return self.ln_f(x_BTD), tuple(extended)

    def logits(self, x_BTD: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Logits from hidden states, by the token embedding, multiplied by `config.logit_factor`."""
        # Scaled before the product: the same numbers, without another pass over V columns.
        return (x_BTD * self.config.logit_factor) @ self.wte.embedding.T

    def _embed(self, ids_BT: Int[Array, "B T"], start: Int[Array, ""]) -> Float[Array, "B T D"]:
        table_VD = jnp.asarray(self.wte.embedding)
        tokens_BTD = table_VD.at[ids_BT].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        return tokens_BTD + jax.lax.dynamic_slice_in_dim(self.wpe.embedding, start, ids_BT.shape[1])


@partial(jax.jit, static_argnames="config")
def init_params(config: Model5Config, key: jax.Array) -> Params:
    """Draw initial parameters, float32.

    Linear kernels and the token embedding are normal(0, 0.02), biases 0, LayerNorm scales 1; the position
    embedding is Xavier normal: its standard deviation is sqrt(2 / (context_length + embed_dim)).

    Args:
        config: sizes.
        key: the only source of randomness.

    Returns:
        Nested dict under GPT-2's names.
    """
    ids_BT = jnp.zeros((1, 1), jnp.int32)
    return Model5(config).init(key, ids_BT)["params"]


def num_params(config: Model5Config) -> int:
    """Count the parameters without allocating them; the head is the token embedding and counts once.

    >>> num_params(Model5Config())
    123849984
    """
    shapes = jax.eval_shape(partial(init_params, config), jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def _normal(std: float) -> Callable[..., jax.Array]:
    return nn.initializers.normal(std)


def _dense(width: int) -> nn.Dense:
    return nn.Dense(width, kernel_init=_normal(_INIT_STD))


def _layer_norm(config: Model5Config) -> nn.LayerNorm:
    # Flax's default variance, E[x^2] - E[x]^2, cancels when the mean is far from 0.
    return nn.LayerNorm(epsilon=config.layer_norm_eps, use_fast_variance=False)


def _check_ids(ids_BT: jax.Array, config: Model5Config) -> None:
    if not jnp.issubdtype(ids_BT.dtype, jnp.integer):
        raise TypeError(f"ids must have an integer dtype, got {ids_BT.dtype}")
    if ids_BT.ndim != 2 or not 1 <= ids_BT.shape[1] <= config.context_length:
        raise ValueError(
            f"ids must be [B, T] with T between 1 and context_length={config.context_length}, "
            f"got shape {ids_BT.shape}"
        )
