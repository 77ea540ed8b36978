"""Model 5: token and position embeddings, pre-norm transformer blocks, and a head tied to the tokens.

Shapes: B batch, T time, K the last positions of it, S time (keys), D width, H heads, V vocabulary.
"""

import math
from functools import partial
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxloss._checks import as_labels, check_integer
from jaxloss._mesh import BATCH_AXES, laid
from jaxloss.model5._scan import scan_blocks
from jaxloss.model5.blocks import INIT_STD, Block, KeyValue, layer_norm
from jaxloss.model5.config import Model5Config
from jaxloss.model5.dropout import Dropout

Params: TypeAlias = dict[str, Any]


class Model5(nn.Module):
    """GPT-2 small written out: from token ids to the logits of the next token.

    A token id outside the vocabulary gives NaN logits: it cannot raise under `jit`, and it must not pass.

    Args:
        config: sizes and options.
        end_of_text: the token that a document ends with. If it is given, no position sees another document
            than its own; positions are counted on. None means that a position sees all before it.
        remat: keep only each block's input for the way back, and compute the rest of it again: the same
            numbers in less memory and more time (docs/train_step.md).
        scan: call all blocks but the last in a loop over their parameters, stacked: the same numbers, up to
            rounding, by a shorter program (docs/train_step.md says where that pays). Where collections are
            recorded or dropout masks given, the blocks are called one by one all the same.

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
    end_of_text: int | None = None
    remat: bool = False
    scan: bool = False

    def setup(self) -> None:
        """Make the embeddings, the blocks h_0, h_1, ... and the last norm."""
        width = self.config.embed_dim
        # Flax's own glorot_normal is a truncated normal; torch's xavier_normal_ is a whole one.
        xavier_std = math.sqrt(2 / (self.config.context_length + width))
        self.wte = nn.Embed(self.config.vocab_size, width, embedding_init=nn.initializers.normal(INIT_STD))
        self.wpe = nn.Embed(
            self.config.context_length, width, embedding_init=nn.initializers.normal(xavier_std)
        )
        self.drop = Dropout(self.config.dropout)
        # Counted with `self`: `deterministic` and `num_queries` decide the program.
        block = nn.remat(Block, static_argnums=(2, 3)) if self.remat else Block
        self.h = [block(self.config) for _ in range(self.config.num_blocks)]
        self.ln_f = layer_norm(self.config)

    def __call__(
        self, ids_BT: Int[Array, "B T"], deterministic: bool = True, logits_to_keep: int | None = None
    ) -> Float[Array, "B K V"]:
        """Logits of the token after each position, multiplied by `config.logit_factor`.

        Args:
            ids_BT: token ids in [0, vocab_size), at most `context_length` of them in a row.
            deterministic: True for evaluation. False drops out, and needs `rngs={"dropout": key}`.
            logits_to_keep: K, to have the logits of the last K positions only; None means all T. The last
                block computes no other position either, beyond its keys and values: the numbers are those
                that the whole computation has there.

        Raises:
            TypeError: `ids_BT` is not of an integer dtype.
            ValueError: `ids_BT` is not [B, T] with T in [1, context_length], or `logits_to_keep` is not in
                [1, T].
        """
        return self.logits(self.hidden(ids_BT, deterministic, logits_to_keep))

    def hidden(
        self, ids_BT: Int[Array, "B T"], deterministic: bool = True, logits_to_keep: int | None = None
    ) -> Float[Array, "B K D"]:
        """Hidden states after the last norm: what `logits` takes, and losses that take the head as well."""
        ids_BT = as_labels("ids", ids_BT)
        _check_shape(ids_BT.shape, self.config, logits_to_keep)
        document_BT = None if self.end_of_text is None else _documents(ids_BT, self.end_of_text)
        x_BTD = self.drop(self._embed(ids_BT, jnp.int32(0)), deterministic)
        if self._scans():
            x_BTD = scan_blocks(self.h[:-1], x_BTD, deterministic, document_BT, remat=self.remat)
        else:
            for block in self.h[:-1]:
                x_BTD = block(x_BTD, deterministic, None, document_BT)
        return self.ln_f(self.h[-1](x_BTD, deterministic, logits_to_keep, document_BT))

    @property
    def split_params(self) -> tuple[str, ...]:
        """Parts of the parameters that the model gathers from `fsdp` itself, in turn, once it needs them."""
        return tuple(f"h_{i}" for i in range(self.config.num_blocks - 1)) if self.scan else ()

    def _scans(self) -> bool:
        is_recorded = bool(self.scope is not None and self.scope.mutable)
        return self.scan and len(self.h) > 1 and not is_recorded and "dropout_masks" not in self.variables

    def head(self) -> tuple[Float[Array, "V D"], float]:
        """The weight and the scale with which `logits` maps hidden states to logits."""
        return self.wte.embedding, self.config.logit_factor

    def extend(
        self, ids_BT: Int[Array, "B T"], cache: tuple[KeyValue, ...], start: Int[Array, ""]
    ) -> tuple[Float[Array, "B T D"], tuple[KeyValue, ...]]:
        """Hidden states of positions `start` to `start + T`, with the earlier ones cached; dropout off.

        Args:
            ids_BT: token ids of the new positions.
            cache: keys and values of every block, for `context_length` positions.
            start: position of the first new token.

        Returns:
            The hidden states, and the cache with the new positions written.
        """
        x_BTD = self._embed(as_labels("ids", ids_BT), start)
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
        x_BTD = tokens_BTD + jax.lax.dynamic_slice_in_dim(self.wpe.embedding, start, ids_BT.shape[1])
        return laid(x_BTD, BATCH_AXES, None, None)


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


def _documents(ids_BT: Int[Array, "B T"], end_of_text: int) -> Int[Array, "B T"]:
    """The number of the document that each token is of; what ends it is part of it."""
    is_end_BT = (ids_BT == end_of_text).astype(jnp.int32)
    return jnp.cumsum(is_end_BT, axis=1) - is_end_BT


def _check_shape(shape: tuple[int, ...], config: Model5Config, logits_to_keep: int | None) -> None:
    if len(shape) != 2 or not 1 <= shape[1] <= config.context_length:
        raise ValueError(
            f"ids must be [B, T] with T between 1 and context_length={config.context_length}; "
            f"got shape {shape}"
        )
    if logits_to_keep is not None:
        check_integer("logits_to_keep", logits_to_keep, low=1, high=shape[1])
