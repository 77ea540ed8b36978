"""Model 5: token and position embeddings, pre-norm transformer blocks, and a head tied to the tokens.

Shapes: B batch, T time (queries), S time (keys), D width, H heads, K head width, F hidden, V vocabulary.
"""

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from torch_ref.model5.config import Model5Config
from torch_ref.model5.dropout import Dropout

_INIT_STD = 0.02


class Attention(nn.Module):
    """Causal multi-head self-attention with one fused projection to queries, keys and values.

    Args:
        config: the model's sizes and options.
    """

    def __init__(self, config: Model5Config) -> None:
        super().__init__()
        self.config = config
        self.c_attn = nn.Linear(config.embed_dim, 3 * config.embed_dim)
        self.c_proj = nn.Linear(config.embed_dim, config.embed_dim)
        self.attn_dropout = Dropout(config.dropout)
        self.resid_dropout = Dropout(config.dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Mix each position with itself and the positions before it."""
        split_shape = (*x_BTD.shape[:2], self.config.num_heads, self.config.head_dim)
        q_BHTK, k_BHSK, v_BHSK = (
            y_BTD.view(split_shape).transpose(1, 2)
            for y_BTD in self.c_attn(x_BTD).split(self.config.embed_dim, dim=-1)
        )
        if self.training and self.attn_dropout.mask is not None:
            y_BHTK = self._attend_with_mask(q_BHTK, k_BHSK, v_BHSK)
        else:
            # Without the condition, dropout stays on in eval(): the function does not know the module's mode.
            dropout_p = self.attn_dropout.rate if self.training else 0.0
            y_BHTK = F.scaled_dot_product_attention(
                q_BHTK, k_BHSK, v_BHSK, dropout_p=dropout_p, is_causal=True
            )
        y_BTD = y_BHTK.transpose(1, 2).reshape(x_BTD.shape)
        return self.resid_dropout(self.c_proj(y_BTD))

    def _attend_with_mask(self, q_BHTK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor) -> Tensor:
        """Do what scaled_dot_product_attention does, with the dropout mask that was put in."""
        scores_BHTS = q_BHTK @ k_BHSK.transpose(-2, -1) / math.sqrt(self.config.head_dim)
        visible_TS = torch.ones(scores_BHTS.shape[-2:], dtype=torch.bool, device=q_BHTK.device).tril()
        weights_BHTS = scores_BHTS.masked_fill(~visible_TS, -torch.inf).softmax(dim=-1)
        return self.attn_dropout(weights_BHTS) @ v_BHSK


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

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Transform each position on its own."""
        return self.dropout(self.c_proj(self.gelu(self.c_fc(x_BTD))))


class Block(nn.Module):
    """A pre-norm transformer block: attention, then MLP, each added to its input.

    Args:
        config: the model's sizes and options.
    """

    def __init__(self, config: Model5Config) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Apply the block."""
        x_BTD = x_BTD + self.attn(self.ln_1(x_BTD))
        return x_BTD + self.mlp(self.ln_2(x_BTD))


class Model5(nn.Module):
    """GPT-2 small written out: from token ids to the logits of the next token.

    Args:
        config: sizes and options.

    >>> config = Model5Config(vocab_size=11, context_length=4, embed_dim=8, num_heads=2, num_blocks=1)
    >>> model = init_params(config, torch.Generator().manual_seed(0)).eval()
    >>> model(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 11])
    """

    def __init__(self, config: Model5Config) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.embed_dim)
        self.wpe = nn.Embedding(config.context_length, config.embed_dim)
        self.drop = Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config) for _ in range(config.num_blocks))
        self.ln_f = nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps)
        self.head = nn.Linear(config.embed_dim, config.vocab_size, bias=False)
        # The Parameter itself: nn.Parameter(wte.weight) would be a second one on the same storage, each with
        # half of the gradient, and an optimizer would step that storage twice.
        self.head.weight = self.wte.weight
        _initialise(self, None)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Logits of the token after each position, multiplied by `config.logit_factor`.

        Args:
            ids_BT: token ids in [0, vocab_size), at most `context_length` of them in a row.

        Raises:
            TypeError: `ids_BT` is not of an integer dtype.
            ValueError: `ids_BT` is not [B, T] with T in [1, context_length].
        """
        return self.logits(self.hidden(ids_BT))

    def hidden(self, ids_BT: Tensor) -> Tensor:
        """Hidden states after the last norm: what `logits` takes."""
        _check_ids(ids_BT, self.config)
        time_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
        x_BTD = self.drop(self.wte(ids_BT) + self.wpe(time_T))
        for block in self.h:
            x_BTD = block(x_BTD)
        return self.ln_f(x_BTD)

    def logits(self, x_BTD: Tensor) -> Tensor:
        """Logits from hidden states, by the token embedding, multiplied by `config.logit_factor`."""
        return self.head(x_BTD) * self.config.logit_factor


def init_params(config: Model5Config, generator: Generator) -> Model5:
    """Make a model with initial parameters, float32.

    Linear weights and the token embedding are normal(0, 0.02), biases 0, LayerNorm scales 1; the position
    embedding is Xavier normal: its standard deviation is sqrt(2 / (context_length + embed_dim)).

    Args:
        config: sizes.
        generator: the only source of randomness.

    Returns:
        The module, in training mode.
    """
    # Made without storage, so that nothing is drawn from the global generator.
    with torch.device("meta"):
        model = Model5(config)
    model = model.to_empty(device=generator.device)
    model.head.weight = model.wte.weight
    _initialise(model, generator)
    return model


def num_params(config: Model5Config) -> int:
    """Count the parameters without allocating them; the head is the token embedding and counts once.

    >>> num_params(Model5Config())
    123849984
    """
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Model5(config).parameters())


def _initialise(model: Model5, generator: Generator | None) -> None:
    nn.init.xavier_normal_(model.wpe.weight, generator=generator)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            # The head is the last of them, and its weight is the token embedding.
            nn.init.normal_(module.weight, 0.0, _INIT_STD, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _check_ids(ids_BT: Tensor, config: Model5Config) -> None:
    if ids_BT.is_floating_point() or ids_BT.is_complex() or ids_BT.dtype == torch.bool:
        raise TypeError(f"ids must have an integer dtype, got {ids_BT.dtype}")
    if ids_BT.ndim != 2 or not 1 <= ids_BT.shape[1] <= config.context_length:
        raise ValueError(
            f"ids must be [B, T] with T between 1 and context_length={config.context_length}, "
            f"got shape {tuple(ids_BT.shape)}"
        )
