"""Model 5 in plain PyTorch: the reference that `jaxloss.model5` is compared with."""

from torch_ref.model5.blocks import MLP, Attention, Block
from torch_ref.model5.config import GPT2, MODEL5, Model5Config
from torch_ref.model5.convert import from_arrays, load_weights, save_weights, to_arrays
from torch_ref.model5.dropout import Dropout
from torch_ref.model5.generate import generate, sample_token
from torch_ref.model5.model import Model5, init_params, num_params

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
