"""How Model 5 is trained: jaxloss's own settings, which name no framework."""

from jaxloss.training.config import COMPUTE_DTYPES as COMPUTE_DTYPES
from jaxloss.training.config import TrainConfig as TrainConfig

__all__ = ["COMPUTE_DTYPES", "TrainConfig"]
