"""Settings that experiments on language models share: which text, and what to write at the end."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from jaxloss._checks import check_integer, check_number
from jaxloss.data import TokenData, prepare_tokens
from jaxloss.model5.config import MODEL5, Model5Config


@dataclass(frozen=True)
class DataConfig:
    """Which text, and how it becomes tokens."""

    corpus: Annotated[str, tyro.conf.arg(aliases=["--corpus"])] = "python-docs"
    """python-docs, fineweb, or a .txt, .jsonl or .parquet file, a folder or a glob."""
    num_documents: int | None = None
    """Use only the first documents; None means all, and 1,000 of fineweb."""
    tokenizer: Annotated[Literal["bpe", "gpt2", "bytes"], tyro.conf.arg(aliases=["--tokenizer"])] = "bpe"
    """bpe is trained on the corpus; gpt2 is GPT-2's own."""
    vocab_size: int = 4096
    """Size of the bpe vocabulary."""

    def prepare(self, context_length: int) -> TokenData:
        """Load, tokenize and split the text; both parts hold a crop of `context_length` and its targets."""
        return prepare_tokens(
            self.corpus,
            tokenizer=self.tokenizer,
            vocab_size=self.vocab_size,
            num_documents=self.num_documents,
            context_length=context_length,
        )


@dataclass(frozen=True)
class SampleConfig:
    """The texts that a trained model writes."""

    prompt: str = "I went on holiday to Liliput and"
    """How each begins."""
    temperature: float = 1.1
    """Above 1 is bolder than the model, below 1 more cautious."""
    num_tokens: int = 100
    """Tokens added to the prompt."""
    num_texts: int = 16
    """Texts of each model; the first is shown, all are measured."""

    def __post_init__(self) -> None:
        if not self.prompt:
            raise ValueError("sample.prompt must not be empty")
        check_number("sample.temperature", self.temperature, low=0, open_low=True, open_high=True)
        check_integer("sample.num_tokens", self.num_tokens, low=1)
        check_integer("sample.num_texts", self.num_texts, low=1)


def fit_vocabulary(config: Model5Config, vocab_size: int) -> Model5Config:
    """The model with the tokenizer's vocabulary, unless another size than the default was asked for.

    Args:
        config: the model as it was asked for.
        vocab_size: number of the tokenizer's ids.

    Raises:
        ValueError: the size that was asked for does not hold all ids.

    >>> fit_vocabulary(Model5Config(), 4096).vocab_size
    4096
    """
    if config.vocab_size == MODEL5.vocab_size:
        return dataclasses.replace(config, vocab_size=vocab_size)
    if config.vocab_size < vocab_size:
        raise ValueError(
            f"model.vocab_size is {config.vocab_size:,}, but the tokenizer's ids go up to "
            f"{vocab_size - 1:,}: give at least {vocab_size:,}, or leave it out"
        )
    return config
