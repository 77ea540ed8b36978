"""Model 5 in Flax: GPT-2 small written out, with explicit dropout keys and a `deterministic` flag."""

from jaxloss.model5.blocks import MLP, Attention, Block
from jaxloss.model5.config import GPT2, MODEL5, Model5Config
from jaxloss.model5.convert import from_arrays, load_weights, save_weights, to_arrays
from jaxloss.model5.dropout import Dropout
from jaxloss.model5.generate import generate, sample_token
from jaxloss.model5.model import Model5, init_params, num_params

__all__ = [
    "GPT2",
    "MLP",
    "MODEL5",
    "Attention",
    "Block",
    "Dropout",
    "Model5",
    "Model5Config",
    "from_arrays",
    "generate",
    "init_params",
    "load_weights",
    "num_params",
    "sample_token",
    "save_weights",
    "to_arrays",
]
