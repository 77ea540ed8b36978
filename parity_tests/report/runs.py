"""Training runs in both frameworks, for the report: the same batches and dropout masks."""

from collections.abc import Sequence

from jaxloss import training
from jaxloss.testing import Table
from parity_tests.runs_parity import paired
from torch_ref import training as torch_training

HEADER = ("run", "loss curve", "allowed", "weights", "allowed", "JAX moved by one eps", "agree")


def training_runs(dtypes: Sequence[str] = tuple(paired.ALLOWED), num_steps: int = paired.NUM_STEPS) -> Table:
    """The largest relative differences of the loss curve and of the weights, for each dtype and optimizer.

    Beside them what moving the initial weights by one eps makes of the same JAX run: curve, then weights.

    Args:
        dtypes: of the runs, those without tolerances left out.
        num_steps: of AdamW; the other optimizers run for a fifth of that.
    """
    rows = []
    for dtype in (dtype for dtype in paired.ALLOWED if dtype in dtypes):
        adamw = training.make_optimizer(), torch_training.make_optimizer(), None
        rows.append(_row("AdamW", adamw, dtype, num_steps))
        rows += [_row(name, given, dtype, num_steps // 5) for name, given in paired.OPTIMIZERS.items()]
    return Table(HEADER, tuple(rows))


def _row(name: str, optimizers: paired.Optimizers, dtype: str, num_steps: int) -> tuple[str, ...]:
    in_jax, in_torch, clip = optimizers
    loss_allowed, weights_allowed = paired.ALLOWED[dtype]
    run, moved = (paired.train_jax(in_jax, dtype, num_steps, moved=moved) for moved in (False, True))
    expected = paired.train_torch(in_torch, dtype, num_steps, clip=clip)
    loss, weights = paired.loss_error(run, expected), paired.weight_error(run, expected)
    own = f"{paired.loss_error(moved, run):.1e}, {paired.weight_error(moved, run):.1e}"
    agree = "yes" if loss <= loss_allowed and weights <= weights_allowed else "NO"
    errors = (f"{loss:.1e}", f"{loss_allowed:.0e}", f"{weights:.1e}", f"{weights_allowed:.0e}")
    return (f"{name}, {num_steps} steps, {dtype}", *errors, own, agree)
