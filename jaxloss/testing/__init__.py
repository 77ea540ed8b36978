"""Check your own JAX code against PyTorch.

Importing this imports no torch; its functions do, when they are called.
"""

from jaxloss.testing.golden import assert_golden, check_golden, record_golden
from jaxloss.testing.inputs import (
    booleans,
    grid,
    integers,
    log_probabilities,
    normal,
    probabilities,
    signs,
    uniform,
)
from jaxloss.testing.layers import (
    Fault,
    LayerRow,
    LayersReport,
    Source,
    WeightMap,
    compare_layers,
    map_weights,
    tap,
)
from jaxloss.testing.masks import draw_masks, inject_masks
from jaxloss.testing.measure import EPS, Difference, difference, error_in_eps
from jaxloss.testing.parity import Pair, assert_parity, check_parity, parity_table
from jaxloss.testing.report import Comparison, ParityReport, Table, table_of
from jaxloss.testing.runs import assert_run_parity, check_run_parity, compare_runs
from jaxloss.testing.steps import assert_step_parity, check_step_parity
from jaxloss.testing.trainers import Run, move_by_one_eps

__all__ = [
    "EPS",
    "Comparison",
    "Difference",
    "Fault",
    "LayerRow",
    "LayersReport",
    "Pair",
    "ParityReport",
    "Run",
    "Source",
    "Table",
    "WeightMap",
    "assert_golden",
    "assert_parity",
    "assert_run_parity",
    "assert_step_parity",
    "booleans",
    "check_golden",
    "check_parity",
    "check_run_parity",
    "check_step_parity",
    "compare_layers",
    "compare_runs",
    "difference",
    "draw_masks",
    "error_in_eps",
    "grid",
    "inject_masks",
    "integers",
    "log_probabilities",
    "map_weights",
    "move_by_one_eps",
    "normal",
    "parity_table",
    "probabilities",
    "record_golden",
    "signs",
    "table_of",
    "tap",
    "uniform",
]
