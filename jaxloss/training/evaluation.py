"""The test loss: held-out crops, dropout off, with its standard error.

Shapes: N crops, B batch, T time, D width, V vocabulary.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from jaxloss._mesh import BATCH_AXES, laid, num_devices
from jaxloss._reduction import value_of
from jaxloss.training._forward import forward
from jaxloss.training._layout import Layout, on_mesh_of
from jaxloss.training.placement import mesh_of, own_crops, place_batch, restored_on_devices
from jaxloss.training.state import TrainState
from jaxloss.training.step import Loss

EvalStep = Callable[..., dict[str, Float[Array, " B"]]]


class Estimate(NamedTuple):
    """A mean and its standard error.

    >>> Estimate.of(np.array([1.0, 2.0, 3.0])).mean
    2.0
    """

    mean: float
    standard_error: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Estimate":
        """From independent values; a single one leaves the error unknown (NaN)."""
        values = np.asarray(values, dtype=np.float64)
        error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
        return cls(float(values.mean()), float(error))


def make_eval_step(losses: Mapping[str, Loss], *, from_hidden: bool = False) -> EvalStep:
    """Make the function that measures several losses of a model on one batch, in one forward pass.

    Args:
        losses: name -> scalar function of `(logits_BTV, targets_BT)`.
        from_hidden: the losses are functions of `(hidden_BTD, head_VD, targets_BT, logit_scale=...)` instead,
            as for `make_train_step`: no more than one crop's logits are in memory.

    Returns:
        `eval_step(state, inputs_BT, targets_BT) -> {name: loss of each crop}`. It moves the batch to the
        parameters' devices.
    """

    @partial(jax.jit, static_argnums=3)
    def measure_batch(
        state: TrainState, inputs_BT: Int[Array, "B T"], targets_BT: Int[Array, "B T"], layout: Layout
    ) -> dict[str, Float[Array, " B"]]:
        params = layout.gather(state.params, state.apply_fn)
        if not from_hidden:
            logits_BTV = forward(state.apply_fn, params, inputs_BT)
            # A batch of one for each crop, so that a loss sees the shapes that it is trained with.
            return {
                name: laid(value_of(jax.vmap(loss)(logits_BTV[:, None], targets_BT[:, None])), None)
                for name, loss in losses.items()
            }
        x_BTD = forward(state.apply_fn, params, inputs_BT, method="hidden")
        head_VD, logit_scale = forward(state.apply_fn, params, method="head")

        def measure(
            x_BTD: jax.Array, head_VD: jax.Array, targets_BT: jax.Array
        ) -> dict[str, Float[Array, " B"]]:
            def of_crop(crop: tuple[jax.Array, jax.Array]) -> dict[str, jax.Array]:
                x_TD, targets_T = crop
                return {
                    name: value_of(loss(x_TD[None], head_VD, targets_T[None], logit_scale=logit_scale))
                    for name, loss in losses.items()
                }

            return jax.lax.map(of_crop, (x_BTD, targets_BT))

        shares = num_devices("data") * num_devices("fsdp")
        if shares > 1 and len(inputs_BT) % shares == 0:
            # Each device takes its own crops in turn, with the head whole.
            of_batch = PartitionSpec(BATCH_AXES)
            lie = of_batch, PartitionSpec(), of_batch
            measure = jax.shard_map(measure, in_specs=lie, out_specs=of_batch)
        return jax.tree.map(lambda values: laid(values, None), measure(x_BTD, head_VD, targets_BT))

    def eval_step(
        state: TrainState, inputs_BT: Int[Array, "B T"], targets_BT: Int[Array, "B T"]
    ) -> dict[str, Float[Array, " B"]]:
        state = restored_on_devices(state, batch_size=len(inputs_BT))
        batch = place_batch((inputs_BT, targets_BT), state.params)
        with on_mesh_of(state.params):
            return measure_batch(state, *batch, Layout.like(state.params))

    return eval_step


def evaluate(
    state: TrainState,
    eval_step: EvalStep,
    inputs_NT: np.ndarray,
    targets_NT: np.ndarray,
    *,
    batch_size: int,
) -> dict[str, Estimate]:
    """Measure the losses over many crops, a batch at a time.

    Args:
        state: its parameters are used, and left as they are.
        eval_step: from `make_eval_step`.
        inputs_NT: token ids of the crops.
        targets_NT: the token that follows each of them.
        batch_size: crops in one forward pass.

    Returns:
        For each loss, its mean over the crops in nats and the standard error of that mean.
    """
    num_crops = len(inputs_NT)
    # The last batch is filled up with its own crops, so that one shape is compiled.
    rows = np.resize(np.arange(num_crops), -(-num_crops // batch_size) * batch_size).reshape(-1, batch_size)
    state = restored_on_devices(state, batch_size=batch_size)
    mesh = mesh_of(state.params)
    measured = [eval_step(state, *own_crops((inputs_NT[row], targets_NT[row]), mesh)) for row in rows]
    return {
        name: Estimate.of(np.concatenate([np.asarray(batch[name]) for batch in measured])[:num_crops])
        for name in measured[0]
    }
