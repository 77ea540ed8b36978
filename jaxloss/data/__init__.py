"""Text in, crops of tokens out: corpora, tokenizers, token files and batch sampling."""

from jaxloss.data.corpora import default_cache_dir, load_corpus
from jaxloss.data.sampling import check_tokens, eval_crops, sample_batch
from jaxloss.data.tokenizers import Tokenizer, load_tokenizer, make_tokenizer
from jaxloss.data.tokens import TokenData, describe, prepare_tokens

__all__ = [
    "TokenData",
    "Tokenizer",
    "check_tokens",
    "default_cache_dir",
    "describe",
    "eval_crops",
    "load_corpus",
    "load_tokenizer",
    "make_tokenizer",
    "prepare_tokens",
    "sample_batch",
]
