"""Model 5: token and position embeddings, pre-norm transformer blocks, and a head tied to the tokens.

Shapes: B batch, T time, K the last positions of it, D width, V vocabulary.
"""

import torch
from torch import Generator, Tensor, nn

from torch_ref.model5.blocks import INIT_STD, Block, layer_norm
from torch_ref.model5.config import Model5Config
from torch_ref.model5.dropout import Dropout


class Model5(nn.Module):
    """GPT-2 small written out: from token ids to the logits of the next token.

    Args:
        config: sizes and options.
        end_of_text: the token that a document ends with. If it is given, no position sees another document
            than its own; positions are counted on. None means that a position sees all before it.

    >>> config = Model5Config(vocab_size=11, context_length=4, embed_dim=8, num_heads=2, num_blocks=1)
    >>> model = init_params(config, torch.Generator().manual_seed(0)).eval()
    >>> model(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 11])
    """

    def __init__(self, config: Model5Config, end_of_text: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.end_of_text = end_of_text
        self.wte = nn.Embedding(config.vocab_size, config.embed_dim)
        self.wpe = nn.Embedding(config.context_length, config.embed_dim)
        self.drop = Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config) for _ in range(config.num_blocks))
        self.ln_f = layer_norm(config)
        self.head = nn.Linear(config.embed_dim, config.vocab_size, bias=False)
        # The Parameter itself: nn.Parameter(wte.weight) would be a second one on the same storage, each with
        # half of the gradient, and an optimizer would step that storage twice.
        self.head.weight = self.wte.weight
        _initialise(self, None)

    def forward(self, ids_BT: Tensor, logits_to_keep: int | None = None) -> Tensor:
        """Logits of the token after each position, multiplied by `config.logit_factor`.

        Args:
            ids_BT: token ids in [0, vocab_size), at most `context_length` of them in a row.
            logits_to_keep: K, to have the logits of the last K positions only; None means all T. The last
                block computes no other position either, beyond its keys and values: the numbers are those
                that the whole computation has there.

        Raises:
            TypeError: `ids_BT` is not of an integer dtype.
            ValueError: `ids_BT` is not [B, T] with T in [1, context_length], or `logits_to_keep` is not in
                [1, T].
        """
        return self.logits(self.hidden(ids_BT, logits_to_keep))

    def hidden(self, ids_BT: Tensor, logits_to_keep: int | None = None) -> Tensor:
        """Hidden states after the last norm: what `logits` takes, and losses that take the head as well."""
        _check_ids(ids_BT, self.config, logits_to_keep)
        time_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
        x_BTD = self.drop(self.wte(ids_BT) + self.wpe(time_T))
        document_BT = None
        if self.end_of_text is not None:
            is_end_BT = ids_BT == self.end_of_text
            # What ends a document is part of it.
            document_BT = is_end_BT.cumsum(dim=1) - is_end_BT.long()
        for block in self.h[:-1]:
            x_BTD = block(x_BTD, None, document_BT)
        return self.ln_f(self.h[-1](x_BTD, logits_to_keep, document_BT))

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
            nn.init.normal_(module.weight, 0.0, INIT_STD, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _check_ids(ids_BT: Tensor, config: Model5Config, logits_to_keep: int | None) -> None:
    if ids_BT.is_floating_point() or ids_BT.is_complex() or ids_BT.dtype == torch.bool:
        raise TypeError(f"ids must have an integer dtype; got {ids_BT.dtype}")
    if ids_BT.ndim != 2 or not 1 <= ids_BT.shape[1] <= config.context_length:
        raise ValueError(
            f"ids must be [B, T] with T between 1 and context_length={config.context_length}; "
            f"got shape {tuple(ids_BT.shape)}"
        )
    if logits_to_keep is not None and not 1 <= logits_to_keep <= ids_BT.shape[1]:
        raise ValueError(f"logits_to_keep must be in [1, {ids_BT.shape[1]}]; got {logits_to_keep}")
