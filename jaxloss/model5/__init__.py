"""Model 5 in Flax: GPT-2 small written out, with explicit dropout keys and a `deterministic` flag."""

from jaxloss.model5.blocks import MLP as MLP
from jaxloss.model5.blocks import Attention as Attention
from jaxloss.model5.blocks import Block as Block
from jaxloss.model5.config import GPT2 as GPT2
from jaxloss.model5.config import MODEL5 as MODEL5
from jaxloss.model5.config import Model5Config as Model5Config
from jaxloss.model5.convert import fold_logit_scale as fold_logit_scale
from jaxloss.model5.convert import from_arrays as from_arrays
from jaxloss.model5.convert import load_weights as load_weights
from jaxloss.model5.convert import save_weights as save_weights
from jaxloss.model5.convert import to_arrays as to_arrays
from jaxloss.model5.dropout import Dropout as Dropout
from jaxloss.model5.generate import generate as generate
from jaxloss.model5.generate import sample_token as sample_token
from jaxloss.model5.model import Model5 as Model5
from jaxloss.model5.model import init_params as init_params
from jaxloss.model5.model import num_params as num_params
