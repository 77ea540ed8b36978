"""What experiments on language models share: objectives, sizes, which text, how to train, what to write."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import numpy as np
import optax
import tyro
from jaxtyping import Integer

from jaxloss._checks import check_choice, check_integer, check_number
from jaxloss.data import TokenData, Tokenizer, eval_crops, prepare_tokens
from jaxloss.fused import linear_final_token_loss, linear_next_token_loss
from jaxloss.model5.config import MODEL5, Model5Config
from jaxloss.training import make_optimizer
from jaxloss.training.optimizer import Decay

OBJECTIVES = {"all": (linear_next_token_loss, None), "final": (linear_final_token_loss, 1)}
"""What a model is trained on: the loss from hidden states, and how many last positions it looks at."""
LABELS = {"all": "all tokens", "final": "final token"}
"""What tables and plots call them."""


@dataclass(frozen=True)
class TextConfig:
    """Which text."""

    corpus: Annotated[str, tyro.conf.arg(aliases=["--corpus"])] = "python-docs"
    """python-docs, fineweb, or a file, a folder or a glob: .jsonl, .json, .csv, .tsv, .parquet, or text under
    any other name."""
    num_documents: int | None = None
    """Use only the first documents; None means all, and 1,000 of fineweb."""
    text_column: str = "text"
    """The column of JSON, CSV and parquet files that holds the text."""
    encoding: str = "utf-8"
    """How files but parquet are encoded, such as latin-1 or utf-16."""
    isolate: bool = False
    """Keep documents apart: attention and targets do not cross the mark between them."""

    def encode(self, tokenizer: str | Tokenizer, context_length: int, vocab_size: int = 4096) -> TokenData:
        """Load, tokenize and split the text; both parts hold a crop of `context_length` and its targets."""
        return prepare_tokens(
            self.corpus,
            tokenizer=tokenizer,
            vocab_size=vocab_size,
            num_documents=self.num_documents,
            text_column=self.text_column,
            context_length=context_length,
            encoding=self.encoding,
        )

    def boundary(self, tokenizer: Tokenizer) -> int | None:
        """The token that ends a document, if documents are kept apart: for `Model5` and the crops."""
        return tokenizer.end_of_text if self.isolate else None


@dataclass(frozen=True)
class DataConfig(TextConfig):
    """Which text, and how it becomes tokens."""

    tokenizer: Annotated[Literal["bpe", "gpt2", "bytes"], tyro.conf.arg(aliases=["--tokenizer"])] = "bpe"
    """bpe is trained on the corpus; gpt2 is GPT-2's own."""
    vocab_size: int = 4096
    """Size of the bpe vocabulary."""

    def prepare(self, context_length: int, *, isolates: bool = False) -> TokenData:
        """The text's tokens, by the tokenizer asked for. `isolates`: the caller uses `boundary`."""
        if self.isolate and not isolates:
            raise ValueError("--data.isolate: this script cannot keep documents apart; train_model5.py can")
        return self.encode(self.tokenizer, context_length, self.vocab_size)


@dataclass(frozen=True)
class PlainTrainConfig:
    """Settings of a training run at one step size; by default, those of the article on final-token training.

    Raises:
        TypeError: a field has the wrong type.
        ValueError: a field is out of range.

    >>> PlainTrainConfig(steps=0)
    Traceback (most recent call last):
        ...
    ValueError: steps must be at least 1; got 0.
    """

    steps: Annotated[int, tyro.conf.arg(aliases=["--steps"])] = 1234
    """Number of updates."""
    batch_size: Annotated[int, tyro.conf.arg(aliases=["--batch-size"])] = 64
    """Crops in a batch."""
    learning_rate: Annotated[float, tyro.conf.arg(aliases=["--learning-rate"])] = 1e-3
    """AdamW's step size, at its largest."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay."""
    seed: Annotated[int, tyro.conf.arg(aliases=["--seed"])] = 0
    """Decides the initial weights, the batches and the dropout."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            check_integer(name, getattr(self, name), low=1)
        # JAX keeps 32 bits of a key's seed, and would take seed 2**32 + 1 for 1.
        check_integer("seed", self.seed, low=0, high=2**32 - 1)
        check_number("learning_rate", self.learning_rate, low=0, open_low=True, open_high=True)
        check_number("weight_decay", self.weight_decay, low=0, open_high=True)


@dataclass(frozen=True)
class TrainConfig(PlainTrainConfig):
    """Settings of a training run, with the recipes that trainers use."""

    accumulate: int = 1
    """Parts of a batch, of batch_size crops each, whose gradients add up to one update."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """What the step size does after the warmup: stays, or falls to 0 at the last step."""
    warmup_ratio: float = 0.0
    """Share of the updates over which the step size rises to its largest."""
    clip_norm: float | None = None
    """Norm that longer gradients are scaled down to; None leaves them."""
    decay: Decay = "all"
    """Parameters that decay: all, or the kernels without biases, LayerNorm and embeddings."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the forward and backward pass; weights and AdamW's averages are float32."""
    remat: bool = False
    """Compute each block again on the way back: less memory, more time."""
    scan: bool = False
    """Call the blocks in a loop: with remat, compiled sooner, and with mesh.fsdp in less memory."""
    eval_every: int = 80
    """Updates between two evaluations."""
    eval_crops: int = 512
    """Held-out crops that the test loss is the mean of."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("accumulate", "eval_every", "eval_crops"):
            check_integer(name, getattr(self, name), low=1)
        check_choice("compute_dtype", self.compute_dtype, ("float32", "bfloat16"))
        check_choice("decay", self.decay, get_args(Decay))
        check_choice("schedule", self.schedule, ("constant", "cosine", "linear"))
        check_number("warmup_ratio", self.warmup_ratio, low=0, high=1, open_high=True)
        if self.clip_norm is not None:
            check_number("clip_norm", self.clip_norm, low=0, open_low=True, open_high=True)

    @property
    def crops_per_step(self) -> int:
        """Crops that an update learns from."""
        return self.batch_size * self.accumulate

    @property
    def model_options(self) -> dict[str, Any]:
        """What `Model5` takes of the settings."""
        return {"remat": self.remat, "scan": self.scan}

    @property
    def step_options(self) -> dict[str, Any]:
        """What `make_train_step` takes of the settings."""
        return {"compute_dtype": self.compute_dtype, "accumulate": self.accumulate}

    def learning_rates(self) -> optax.Schedule:
        """The step size of each update, counted from 0; none of them is 0."""
        peak, warmup = self.learning_rate, int(self.warmup_ratio * self.steps)
        falling = self.steps - warmup
        after = {
            "constant": optax.constant_schedule(peak),
            "cosine": optax.cosine_decay_schedule(peak, falling),
            "linear": optax.linear_schedule(peak, 0.0, falling),
        }
        rising = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
        return optax.join_schedules([rising, after[self.schedule]], [warmup])

    def optimizer(self) -> optax.GradientTransformation:
        """What `init_state` takes; the same one for equal settings."""
        return _optimizer_of(self)

    def _make_optimizer(self) -> optax.GradientTransformation:
        is_constant = self.schedule == "constant" and not self.warmup_ratio
        rate = self.learning_rate if is_constant else self.learning_rates()
        adamw = make_optimizer(rate, self.weight_decay, decay=self.decay)
        if self.clip_norm is None:
            return adamw
        return optax.chain(optax.clip_by_global_norm(self.clip_norm), adamw)


@functools.lru_cache
def _optimizer_of(settings: TrainConfig) -> optax.GradientTransformation:
    return settings._make_optimizer()


@dataclass(frozen=True)
class SampleConfig:
    """The texts that a trained model writes."""

    prompt: str | None = None
    """How each begins; None means as held-out texts do, each as another one."""
    temperature: float = 0.8
    """Above 1 is bolder than the model, below 1 more cautious."""
    num_tokens: int = 48
    """Tokens added to the beginning."""
    num_texts: int = 32
    """Texts of each model: all are measured, and the best of them is shown."""

    def __post_init__(self) -> None:
        if self.prompt == "":
            raise ValueError("sample.prompt must not be empty")
        check_number("sample.temperature", self.temperature, low=0, open_low=True, open_high=True)
        check_integer("sample.num_tokens", self.num_tokens, low=1)
        check_integer("sample.num_texts", self.num_texts, low=1)

    def beginnings(self, tokenizer: Tokenizer, real_NT: Integer[np.ndarray, "N T"]) -> np.ndarray:
        """The tokens that each text begins with: the prompt's, or the first quarter of a real text."""
        if self.prompt is not None:
            return np.tile(tokenizer.encode([self.prompt])[0].astype(np.int32), (self.num_texts, 1))
        length = max(1, real_NT.shape[1] // 4)
        return np.resize(real_NT[:, :length], (self.num_texts, length))


@dataclass(frozen=True)
class CheckpointConfig:
    """When the state of a training goes to the disk, beside the training."""

    every: int = 100
    """Updates between two checkpoints."""
    keep: int = 2
    """How many of the newest stay."""

    def __post_init__(self) -> None:
        check_integer("checkpoint.every", self.every, low=1)
        check_integer("checkpoint.keep", self.keep, low=1)


SIZES: dict[str, dict[str, Any]] = {
    "small": {
        "model": Model5Config(context_length=64, embed_dim=128, num_heads=4, num_blocks=2),
        "train": TrainConfig(steps=1600, batch_size=8, learning_rate=3e-3, eval_crops=128),
        "data": DataConfig(),
    },
    "model5": {
        "model": MODEL5,
        "train": TrainConfig(),
        "data": DataConfig(corpus="fineweb", tokenizer="gpt2"),
        "sample": SampleConfig(prompt="I went on holiday to Liliput and", temperature=1.1, num_tokens=100),
    },
}
"""Presets: small suits two CPU cores, model5 is the articles' recipe at full size."""


def held_out_crops(
    data: TokenData, context_length: int, num_crops: int, end_of_text: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Evenly spaced crops of the test tokens and their targets, as many as there are if they are fewer."""
    num_crops = min(num_crops, len(data.test) - context_length)
    return eval_crops(data.test, num_crops=num_crops, context_length=context_length, end_of_text=end_of_text)


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
