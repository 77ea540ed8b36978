"""Train Model 5 in JAX: optax's AdamW in one compiled step, and the test loss with its error."""

from jaxloss.training.evaluation import Estimate as Estimate
from jaxloss.training.evaluation import evaluate as evaluate
from jaxloss.training.evaluation import make_eval_step as make_eval_step
from jaxloss.training.optimizer import make_optimizer as make_optimizer
from jaxloss.training.placement import make_mesh as make_mesh
from jaxloss.training.placement import own_crops as own_crops
from jaxloss.training.placement import place_batch as place_batch
from jaxloss.training.placement import place_params as place_params
from jaxloss.training.placement import whole as whole
from jaxloss.training.state import TrainState as TrainState
from jaxloss.training.state import init_state as init_state
from jaxloss.training.step import make_train_step as make_train_step
