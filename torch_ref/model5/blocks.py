"""A pre-norm transformer block of Model 5: causal attention and an MLP, each with its dropout.

Shapes: B batch, T time (queries), S time (keys), D width, H heads, K head width.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torch_ref.model5.config import Model5Config
from torch_ref.model5.dropout import Dropout

INIT_STD = 0.02


class Attention(nn.Module):
    """Causal multi-head self-attention with one fused projection to queries, keys and values.

    Args:
        config: the model's sizes and options.
    """

    def __init__(self, config: Model5Config) -> None:
        super().__init__()
        if config.embed_dim % config.num_heads:
            raise ValueError(
                f"embed_dim must be a multiple of num_heads; got {config.embed_dim} and {config.num_heads}"
            )
        self.config = config
        self.c_attn = nn.Linear(config.embed_dim, 3 * config.embed_dim)
        self.c_proj = nn.Linear(config.embed_dim, config.embed_dim)
        self.attn_dropout = Dropout(config.dropout)
        self.resid_dropout = Dropout(config.dropout)

    def forward(
        self, x_BSD: Tensor, num_queries: int | None = None, document_BS: Tensor | None = None
    ) -> Tensor:
        """Mix each of the last `num_queries` positions, or every one, with itself and those before it.

        With the number of each position's document, only with those of its own.
        """
        length, width = x_BSD.shape[1:]
        if num_queries in (None, length):
            q_BTD, k_BSD, v_BSD = self.c_attn(x_BSD).split(width, dim=-1)
        else:
            q_weight, kv_weight = self.c_attn.weight.split([width, 2 * width])
            q_bias, kv_bias = self.c_attn.bias.split([width, 2 * width])
            q_BTD = F.linear(x_BSD[:, -num_queries:], q_weight, q_bias)
            k_BSD, v_BSD = F.linear(x_BSD, kv_weight, kv_bias).split(width, dim=-1)
        y_BHTK = self._attend(self._heads(q_BTD), self._heads(k_BSD), self._heads(v_BSD), document_BS)
        y_BTD = y_BHTK.transpose(1, 2).reshape(q_BTD.shape)
        return self.resid_dropout(self.c_proj(y_BTD), length)

    def _heads(self, y_BTD: Tensor) -> Tensor:
        return y_BTD.view(*y_BTD.shape[:2], self.config.num_heads, self.config.head_dim).transpose(1, 2)

    def _attend(self, q_BHTK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, document_BS: Tensor | None) -> Tensor:
        num_queries, length = q_BHTK.shape[2], k_BHSK.shape[2]
        visible = torch.ones(length, length, dtype=torch.bool, device=q_BHTK.device).tril()[-num_queries:]
        if document_BS is not None:
            is_same_BTS = document_BS[:, -num_queries:, None] == document_BS[:, None, :]
            visible = (visible & is_same_BTS)[:, None]
        if self.training and self.attn_dropout.mask is not None:
            return self._attend_with_mask(q_BHTK, k_BHSK, v_BHSK, visible)
        # Without the condition, dropout stays on in eval(): the function does not know the module's mode.
        dropout_p = self.attn_dropout.rate if self.training else 0.0
        # Torch's own causal mask lines queries and keys up at their beginning.
        is_causal = num_queries == length and document_BS is None
        mask = {"is_causal": True} if is_causal else {"attn_mask": visible}
        return F.scaled_dot_product_attention(q_BHTK, k_BHSK, v_BHSK, dropout_p=dropout_p, **mask)

    def _attend_with_mask(self, q_BHTK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, visible: Tensor) -> Tensor:
        """Do what scaled_dot_product_attention does, with the dropout mask that was put in."""
        scores_BHTS = q_BHTK @ k_BHSK.transpose(-2, -1) / math.sqrt(self.config.head_dim)
        weights_BHTS = scores_BHTS.masked_fill(~visible, -torch.inf).softmax(dim=-1)
        return self.attn_dropout(weights_BHTS, k_BHSK.shape[2]) @ v_BHSK


class MLP(nn.Module):
    """Two linear layers, four times as wide in between, with GELU.

    Args:
        config: the model's sizes and options.
    """

    def __init__(self, config: Model5Config) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.embed_dim, 4 * config.embed_dim)
        self.gelu = nn.GELU(approximate="tanh" if config.activation == "gelu_tanh" else "none")
        self.c_proj = nn.Linear(4 * config.embed_dim, config.embed_dim)
        self.dropout = Dropout(config.dropout)

    def forward(self, x_BTD: Tensor, whole_length: int | None = None) -> Tensor:
        """Transform each position on its own: the last of `whole_length`, or all of them."""
        return self.dropout(self.c_proj(self.gelu(self.c_fc(x_BTD))), whole_length)


class Block(nn.Module):
    """A pre-norm transformer block: attention, then MLP, each added to its input.

    Args:
        config: the model's sizes and options.
    """

    def __init__(self, config: Model5Config) -> None:
        super().__init__()
        self.ln_1 = layer_norm(config)
        self.attn = Attention(config)
        self.ln_2 = layer_norm(config)
        self.mlp = MLP(config)

    def forward(
        self, x_BSD: Tensor, num_queries: int | None = None, document_BS: Tensor | None = None
    ) -> Tensor:
        """Apply the block; only to the last `num_queries` positions, which still see all, if it is given."""
        length = x_BSD.shape[1]
        x_BTD = x_BSD[:, length - (num_queries or length) :]
        x_BTD = x_BTD + self.attn(self.ln_1(x_BSD), num_queries, document_BS)
        return x_BTD + self.mlp(self.ln_2(x_BTD), length)


def layer_norm(config: Model5Config) -> nn.LayerNorm:
    """The normalisation before each part of a block, and after the last."""
    return nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps)
