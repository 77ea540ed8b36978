"""Compare two models layer by layer."""

from jaxloss.testing.layers._jax_model import tap
from jaxloss.testing.layers.compare import compare_layers
from jaxloss.testing.layers.report import Fault, LayerRow, LayersReport

__all__ = ["Fault", "LayerRow", "LayersReport", "compare_layers", "tap"]
