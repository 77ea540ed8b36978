"""Text in, crops of tokens out: corpora, tokenizers, token files and batch sampling."""

from jaxloss.data.corpora import default_cache_dir as default_cache_dir
from jaxloss.data.corpora import load_corpus as load_corpus
from jaxloss.data.sampling import check_tokens as check_tokens
from jaxloss.data.sampling import eval_crops as eval_crops
from jaxloss.data.sampling import sample_batch as sample_batch
from jaxloss.data.tokenizers import Tokenizer as Tokenizer
from jaxloss.data.tokenizers import load_tokenizer as load_tokenizer
from jaxloss.data.tokenizers import make_tokenizer as make_tokenizer
from jaxloss.data.tokens import TokenData as TokenData
from jaxloss.data.tokens import describe as describe
from jaxloss.data.tokens import prepare_tokens as prepare_tokens
