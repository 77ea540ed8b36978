"""Train Model 5 in JAX: optax's AdamW in one compiled step, and the test loss with its error."""

from jaxloss.training.evaluation import Estimate, evaluate, make_eval_step
from jaxloss.training.optimizer import make_optimizer
from jaxloss.training.placement import place_batch, place_params
from jaxloss.training.state import TrainState, init_state
from jaxloss.training.step import make_train_step

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
