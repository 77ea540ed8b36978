"""Model 5 in plain PyTorch: the reference that `jaxloss.model5` is compared with."""

from torch_ref.model5.blocks import MLP as MLP
from torch_ref.model5.blocks import Attention as Attention
from torch_ref.model5.blocks import Block as Block
from torch_ref.model5.config import GPT2 as GPT2
from torch_ref.model5.config import MODEL5 as MODEL5
from torch_ref.model5.config import Model5Config as Model5Config
from torch_ref.model5.convert import fold_logit_scale as fold_logit_scale
from torch_ref.model5.convert import from_arrays as from_arrays
from torch_ref.model5.convert import load_weights as load_weights
from torch_ref.model5.convert import save_weights as save_weights
from torch_ref.model5.convert import to_arrays as to_arrays
from torch_ref.model5.dropout import Dropout as Dropout
from torch_ref.model5.generate import generate as generate
from torch_ref.model5.generate import sample_token as sample_token
from torch_ref.model5.model import Model5 as Model5
from torch_ref.model5.model import init_params as init_params
from torch_ref.model5.model import num_params as num_params
