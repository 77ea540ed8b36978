"""The sizes and options of Model 5, checked when they are set."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from jaxloss._checks import check_choice, check_integer, check_number

Activation = Literal["gelu", "gelu_tanh"]


@dataclass(frozen=True)
class Model5Config:
    """Sizes and options of Model 5; the defaults are the full size, GPT-2 small with a context of 256.

    Raises:
        TypeError: a field has the wrong type.
        ValueError: a field is out of range, or `embed_dim` is not a multiple of `num_heads`.

    >>> Model5Config(embed_dim=256, num_heads=4).head_dim
    64
    """

    vocab_size: int = 50257
    """Number of tokens in the vocabulary."""
    context_length: int = 256
    """Longest sequence, in tokens: the number of position embeddings."""
    embed_dim: int = 768
    """Width of the residual stream."""
    num_heads: int = 12
    """Attention heads of a block; `embed_dim` is a multiple of it."""
    num_blocks: int = 12
    """Number of transformer blocks."""
    dropout: float = 0.1
    """Share of values dropped in training, in [0, 1), at all four places."""
    activation: Activation = "gelu"
    """gelu is the exact (erf) form; gelu_tanh the approximation of GPT-2's own checkpoints."""
    logit_scale: float | None = None
    """Factor on the logits; None means 1/sqrt(embed_dim)."""
    layer_norm_eps: float = 1e-5
    """Added to the variance in every LayerNorm."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context_length", "embed_dim", "num_heads", "num_blocks"):
            check_integer(name, getattr(self, name), low=1, high=2**31 - 1)
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"embed_dim must be a multiple of num_heads; got embed_dim={self.embed_dim} "
                f"and num_heads={self.num_heads}."
            )
        check_number("dropout", self.dropout, low=0, high=1, open_high=True)
        check_choice("activation", self.activation, get_args(Activation))
        if self.logit_scale is not None:
            check_number("logit_scale", self.logit_scale, low=0, open_low=True, open_high=True)
        check_number("layer_norm_eps", self.layer_norm_eps, low=0, open_low=True, open_high=True)

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.embed_dim // self.num_heads

    @property
    def logit_factor(self) -> float:
        """The factor that the logits are multiplied by: `logit_scale`, or what None stands for."""
        return 1 / math.sqrt(self.embed_dim) if self.logit_scale is None else self.logit_scale


MODEL5 = Model5Config()
"""The full size: 123,849,984 parameters."""

GPT2 = Model5Config(context_length=1024, activation="gelu_tanh", logit_scale=1.0)
"""The options of the published GPT-2 small checkpoint."""
