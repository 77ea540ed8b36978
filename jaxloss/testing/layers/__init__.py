"""Compare two models layer by layer."""

from jaxloss.testing.layers._jax_model import tap
from jaxloss.testing.layers.compare import compare_layers
from jaxloss.testing.layers.map_weights import map_weights
from jaxloss.testing.layers.report import Fault, LayerRow, LayersReport
from jaxloss.testing.layers.weight_map import Source, WeightMap

__all__ = ["Fault", "LayerRow", "LayersReport", "Source", "WeightMap", "compare_layers", "map_weights", "tap"]
