"""Two hundred steps of AdamW in both frameworks, for the report: the same batches and dropout masks."""

from jaxloss import training
from jaxloss.testing import Table
from parity_tests.runs_parity import paired
from torch_ref import training as torch_training

HEADER = ("run", "loss curve", "allowed", "weights", "allowed", "JAX moved by one eps", "agree")


def training_runs(num_steps: int = paired.NUM_STEPS) -> Table:
    """The largest relative differences of the loss curve and of the weights, for each dtype.

    Beside them what moving the initial weights by one eps makes of the same JAX run: curve, then weights.
    """
    rows = []
    for dtype, (loss_allowed, weights_allowed) in paired.ALLOWED.items():
        optimizer = training.make_optimizer()
        run, moved = (paired.train_jax(optimizer, dtype, num_steps, moved=moved) for moved in (False, True))
        expected = paired.train_torch(torch_training.make_optimizer(), dtype, num_steps)
        loss, weights = run.worst_loss_error(expected), run.worst_weight_error(expected)
        own = f"{moved.worst_loss_error(run):.1e}, {moved.worst_weight_error(run):.1e}"
        agree = "yes" if loss <= loss_allowed and weights <= weights_allowed else "NO"
        title = f"AdamW, {num_steps} steps, {dtype}"
        errors = (f"{loss:.1e}", f"{loss_allowed:.0e}", f"{weights:.1e}", f"{weights_allowed:.0e}")
        rows.append((title, *errors, own, agree))
    return Table(HEADER, tuple(rows))
