"""A pre-norm transformer block of Model 5: causal attention and an MLP, each with its dropout.

Shapes: B batch, T time (queries), S time (keys), D width, H heads, K head width, F hidden.
Arithmetic takes the dtype of the parameters; softmax and LayerNorm statistics are at least float32.
"""

import math
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxloss._barriers import kept_in_memory
from jaxloss._mesh import BATCH_AXES, TENSOR_AXIS, laid, num_devices
from jaxloss.model5.config import Model5Config
from jaxloss.model5.dropout import Dropout

KeyValue: TypeAlias = tuple[Float[Array, "B S H K"], Float[Array, "B S H K"]]

INIT_STD = 0.02


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

    def __call__(
        self,
        x_BSD: Float[Array, "B S D"],
        deterministic: bool = True,
        num_queries: int | None = None,
        document_BS: Int[Array, "B S"] | None = None,
    ) -> Float[Array, "B T D"]:
        """Mix each of the last `num_queries` positions, or every one, with itself and those before it.

        With the number of each position's document, only with those of its own.
        """
        length = x_BSD.shape[1]
        if num_queries in (None, length) or self.is_initializing():
            q_BSHK, k_BSHK, v_BSHK = self._heads(x_BSD)
            q_BTHK = q_BSHK[:, length - (num_queries or length) :]
        else:
            q_BTHK, k_BSHK, v_BSHK = self._last_heads(x_BSD, num_queries)
        time_S = jnp.arange(length)
        first = length - q_BTHK.shape[1]
        visible = time_S[first:, None] >= time_S[None, :]
        if document_BS is not None:
            is_same_BTS = document_BS[:, first:, None] == document_BS[:, None, :]
            visible = (visible & is_same_BTS)[:, None]
        return self._attend(q_BTHK, k_BSHK, v_BSHK, visible, deterministic)

    def extend(
        self, x_BTD: Float[Array, "B T D"], cache: KeyValue, start: Int[Array, ""]
    ) -> tuple[Float[Array, "B T D"], KeyValue]:
        """Attend from positions `start` to `start + T`, with the keys and values before them cached."""
        q_BTHK, k_BTHK, v_BTHK = self._heads(x_BTD)
        k_BSHK = jax.lax.dynamic_update_slice_in_dim(cache[0], k_BTHK, start, axis=1)
        v_BSHK = jax.lax.dynamic_update_slice_in_dim(cache[1], v_BTHK, start, axis=1)
        query_T = start + jnp.arange(x_BTD.shape[1])
        visible_TS = query_T[:, None] >= jnp.arange(k_BSHK.shape[1])[None, :]
        return self._attend(q_BTHK, k_BSHK, v_BSHK, visible_TS, True), (k_BSHK, v_BSHK)

    def _heads(self, x_BTD: Float[Array, "B T D"]) -> list[Float[Array, "B T H K"]]:
        if num_devices(TENSOR_AXIS) > 1:
            return self._split_heads(x_BTD)
        return [self._split(y_BTD) for y_BTD in jnp.split(self.c_attn(x_BTD), 3, axis=-1)]

    def _last_heads(self, x_BSD: Float[Array, "B S D"], num_queries: int) -> list[Float[Array, "B T H K"]]:
        """Queries of the last positions, keys and values of all: the columns of one projection apart."""
        if num_devices(TENSOR_AXIS) > 1:
            q_BTHK, k_BSHK, v_BSHK = self._split_heads(x_BSD)
            return [q_BTHK[:, -num_queries:], k_BSHK, v_BSHK]
        projection = self.c_attn.variables["params"]
        kernel, bias, width = projection["kernel"], projection["bias"], self.config.embed_dim
        q_BTD = x_BSD[:, -num_queries:] @ kernel[:, :width] + bias[:width]
        kv_BSE = x_BSD @ kernel[:, width:] + bias[width:]
        return [self._split(y_BTD) for y_BTD in (q_BTD, *jnp.split(kv_BSE, 2, axis=-1))]

    def _split_heads(self, x_BTD: Float[Array, "B T D"]) -> list[Float[Array, "B T H K"]]:
        """As `_heads`, each device of the mesh's tensor axis with its own heads."""
        if self.config.num_heads % num_devices(TENSOR_AXIS):
            raise ValueError(
                f"num_heads must be a multiple of the mesh's tensor={num_devices(TENSOR_AXIS)}, "
                f"which shares the heads; got {self.config.num_heads}."
            )
        heads, projection = (3, self.config.num_heads, self.config.head_dim), self.c_attn.variables["params"]
        # Queries, keys and values lie side by side in one array: a device needs its columns of each.
        kernel_DCHK = projection["kernel"].reshape(-1, *heads)
        kernel_DCHK = laid(kernel_DCHK, None, None, TENSOR_AXIS, None)
        bias_CHK = laid(projection["bias"].reshape(heads), None, TENSOR_AXIS, None)
        return [
            laid(
                jnp.einsum("BTD,DHK->BTHK", x_BTD, kernel_DCHK[:, i]) + bias_CHK[i],
                BATCH_AXES,
                None,
                TENSOR_AXIS,
                None,
            )
            for i in range(3)
        ]

    def _split(self, y_BTD: Float[Array, "B T D"]) -> Float[Array, "B T H K"]:
        return y_BTD.reshape(*y_BTD.shape[:2], self.config.num_heads, self.config.head_dim)

    def _attend(
        self,
        q_BTHK: Float[Array, "B T H K"],
        k_BSHK: Float[Array, "B S H K"],
        v_BSHK: Float[Array, "B S H K"],
        visible: Bool[Array, "T S"] | Bool[Array, "B 1 T S"],
        deterministic: bool,
    ) -> Float[Array, "B T D"]:
        scores_BHTS = jnp.einsum(
            "BTHK,BSHK->BHTS",
            q_BTHK / math.sqrt(self.config.head_dim),
            k_BSHK,
            preferred_element_type=jnp.promote_types(q_BTHK.dtype, jnp.float32),
        )
        weights_BHTS = jax.nn.softmax(jnp.where(visible, scores_BHTS, -jnp.inf)).astype(v_BSHK.dtype)
        length = k_BSHK.shape[1]
        weights_BHTS = self.attn_dropout(weights_BHTS, deterministic, length)
        y_BTHK = jnp.einsum("BHTS,BSHK->BTHK", weights_BHTS, v_BSHK)
        y_BTD = y_BTHK.reshape(*y_BTHK.shape[:2], self.config.embed_dim)
        return self.resid_dropout(self.c_proj(y_BTD), deterministic, length)


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

    def __call__(
        self, x_BTD: Float[Array, "B T D"], deterministic: bool = True, whole_length: int | None = None
    ) -> Float[Array, "B T D"]:
        """Transform each position on its own: the last of `whole_length`, or all of them."""
        x_BTF = laid(self.c_fc(x_BTD), BATCH_AXES, None, TENSOR_AXIS)
        x_BTF = _gelu(x_BTF, approximate=self.config.activation == "gelu_tanh")
        return self.dropout(self.c_proj(x_BTF), deterministic, whole_length)


class Block(nn.Module):
    """A pre-norm transformer block: attention, then MLP, each added to its input.

    Args:
        config: the model's sizes and options.
    """

    config: Model5Config

    def setup(self) -> None:
        """Make the two layers and their norms."""
        self.ln_1 = layer_norm(self.config)
        self.attn = Attention(self.config)
        self.ln_2 = layer_norm(self.config)
        self.mlp = MLP(self.config)

    def __call__(
        self,
        x_BSD: Float[Array, "B S D"],
        deterministic: bool = True,
        num_queries: int | None = None,
        document_BS: Int[Array, "B S"] | None = None,
    ) -> Float[Array, "B T D"]:
        """Apply the block; only to the last `num_queries` positions, which still see all, if it is given."""
        length = x_BSD.shape[1]
        x_BTD = x_BSD[:, length - (num_queries or length) :]
        x_BTD = self._add(x_BTD, self.attn(self.ln_1(x_BSD), deterministic, num_queries, document_BS))
        return self._add(x_BTD, self.mlp(self.ln_2(x_BTD), deterministic, length))

    def dropout_keys(self) -> dict[str, Any]:
        """The keys of its dropouts, as the `dropout_keys` collection that gives them back to a block."""
        attn, mlp = self.attn, self.mlp
        keys = {"attn": {"attn_dropout": attn.attn_dropout, "resid_dropout": attn.resid_dropout}}
        return jax.tree.map(lambda dropout: {"key": dropout.key()}, keys | {"mlp": {"dropout": mlp.dropout}})

    def _add(self, x_BTD: Float[Array, "B T D"], y_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return kept_in_memory(laid(x_BTD + y_BTD, BATCH_AXES, None, None))

    def extend(
        self, x_BTD: Float[Array, "B T D"], cache: KeyValue, start: Int[Array, ""]
    ) -> tuple[Float[Array, "B T D"], KeyValue]:
        """Apply the block to positions `start` to `start + T`, with the earlier ones cached."""
        y_BTD, cache = self.attn.extend(self.ln_1(x_BTD), cache, start)
        x_BTD = x_BTD + y_BTD
        return x_BTD + self.mlp(self.ln_2(x_BTD)), cache


def layer_norm(config: Model5Config) -> nn.LayerNorm:
    """The normalisation before each part of a block, and after the last."""
    # Flax's default variance, E[x^2] - E[x]^2, cancels when the mean is far from 0.
    return nn.LayerNorm(epsilon=config.layer_norm_eps, use_fast_variance=False)


def _dense(width: int) -> nn.Dense:
    return nn.Dense(width, kernel_init=nn.initializers.normal(INIT_STD))


def _gelu(x: Float[Array, "*S"], approximate: bool) -> Float[Array, "*S"]:
    if approximate:
        return jax.nn.gelu(x, approximate=True)
    # As torch has it. jax.nn.gelu's erfc keeps digits of values near 0, and takes a tenth of a training step.
    return 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))
