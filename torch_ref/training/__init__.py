"""Train Model 5 in PyTorch: AdamW in one step, and the test loss with its error."""

from torch_ref.training.evaluation import Estimate as Estimate
from torch_ref.training.evaluation import evaluate as evaluate
from torch_ref.training.evaluation import make_eval_step as make_eval_step
from torch_ref.training.optimizer import make_optimizer as make_optimizer
from torch_ref.training.placement import place_batch as place_batch
from torch_ref.training.placement import place_params as place_params
from torch_ref.training.state import TrainState as TrainState
from torch_ref.training.state import init_state as init_state
from torch_ref.training.step import make_train_step as make_train_step
