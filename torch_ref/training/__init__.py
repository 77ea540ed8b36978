"""Train Model 5 in PyTorch: AdamW in one step, and the test loss with its error."""

from torch_ref.training.evaluation import Estimate, evaluate, make_eval_step
from torch_ref.training.optimizer import make_optimizer
from torch_ref.training.placement import place_batch, place_params
from torch_ref.training.state import TrainState, init_state
from torch_ref.training.step import make_train_step

__all__ = [
    "Estimate",
    "TrainState",
    "evaluate",
    "init_state",
    "make_eval_step",
    "make_optimizer",
    "make_train_step",
    "place_batch",
    "place_params",
]
