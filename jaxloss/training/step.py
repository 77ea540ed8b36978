"""One update, compiled: forward, loss, gradient, AdamW.

Shapes: B batch, T time, K the last positions of it, D width, V vocabulary.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from jaxloss._barriers import jit_with_barriers
from jaxloss._checks import check_choice, check_integer, describe
from jaxloss._mesh import BATCH_AXES, TENSOR_AXIS, num_devices
from jaxloss._reduction import value_of
from jaxloss.losses.aggregate import accumulated_value_and_grad
from jaxloss.training._forward import forward
from jaxloss.training._layout import ONE_DEVICE, Layout, on_mesh_of
from jaxloss.training.placement import place_batch, restored_on_devices
from jaxloss.training.state import TrainState

COMPUTE_DTYPES = ("bfloat16", "float16", "float32", "float64")

Loss = Callable[..., Any]
TrainStep = Callable[..., tuple[TrainState, Float[Array, ""], Float[Array, ""]]]


def make_train_step(
    loss: Loss,
    *,
    from_hidden: bool = False,
    logits_to_keep: int | None = None,
    compute_dtype: str | None = None,
    accumulate: int = 1,
) -> TrainStep:
    """Make the function that trains a state on one batch.

    Args:
        loss: any function of what the model returns and the targets, `(y_hat, y)`: `jaxloss.next_token_loss`
            of logits, or your own of anything. It returns a scalar, or `(sum, count)` for their quotient.
            With `from_hidden`, of `(hidden_BTD, head_VD, targets_BT, logit_scale=...)`:
            `jaxloss.linear_next_token_loss` is the same loss, without the logits in memory.
        from_hidden: what the loss takes: the model's hidden states and head instead of its logits. The model
            then has methods `hidden` and `head`, as `Model5` does.
        logits_to_keep: how many positions, counted from the last, the loss looks at; None means all. For a
            loss of the final token, 1 gives the same loss and gradients without the work that only the other
            positions need: the head's, and most of the last block's.
        compute_dtype: dtype of the forward and backward pass: "bfloat16", "float16", "float32" or "float64";
            parameters, gradients and the optimizer's averages keep theirs. None means the parameters' own.
        accumulate: parts that the batch is cut into, one in memory at a time. A loss with an option
            `reduction`, as jaxloss's have, is asked for "parts"; its sums, like those of a loss that returns
            `(sum, count)`, are divided once by the whole count, so that loss and gradients are the whole
            batch's, however unequal masks leave the parts. The mean of other losses is taken over the parts.
            Each part has its own dropout.

    Returns:
        `train_step(state, inputs, targets, key) -> (state, loss, grad_norm)`. It moves the batch to the
        parameters' devices, consumes the state that it is given, and draws its dropout from
        `fold_in(key, state.step)`. A loss or a gradient that is not finite leaves the state as it was. (Adam
        squares a gradient: where one is beyond 6e20, its float32 average is infinite from then on, and that
        weight stands still. `optax.clip_by_global_norm` before it takes such a gradient for 0.)
        `train_step.lower`, of the same arguments, is the program alone, as with `jax.jit`.

    Raises:
        ValueError: `compute_dtype` is none of these, `accumulate` does not divide the batch, or a loss that
            has an option `reduction` does not know "parts".
    """
    check_integer("accumulate", accumulate, low=1)
    batch_loss = _make_batch_loss(loss, from_hidden, logits_to_keep, compute_dtype, accumulate)

    def update(
        state: TrainState,
        inputs: Any,
        targets: Any,
        key: jax.Array,
        of_params: Layout = ONE_DEVICE,
        of_state: Layout = ONE_DEVICE,
    ) -> tuple[TrainState, Float[Array, ""], Float[Array, ""]]:
        step_key = jax.random.fold_in(key, state.step)
        of_batch = partial(batch_loss, state.apply_fn, of_params)
        if accumulate == 1:
            value, grads = jax.value_and_grad(
                lambda params: value_of(of_batch(params, inputs, targets, step_key))
            )(state.params)
            grads = of_params.lay(grads)
        else:
            parts = _cut((inputs, targets), accumulate, step_key)
            value, grads = accumulated_value_and_grad(of_batch, state.params, parts, lay_out=of_params.lay)
        grad_norm = _norm(jax.tree.leaves(grads))
        finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)
        # Decided inside the step, because by the time that the host sees the loss, the old weights are gone.
        # By a condition, because selecting leaf by leaf would copy weights and averages first.
        kept = jax.lax.cond(finite, lambda: _updated(state, grads), lambda: state)
        return of_state.lay(kept), value, grad_norm

    compiled_update = jit_with_barriers(update, donate_argnums=0, static_argnums=(4, 5))

    def with_placed(of_update: Any, state: TrainState, inputs: Any, targets: Any, key: jax.Array) -> Any:
        batch_size = len(jax.tree.leaves(inputs)[0])
        if batch_size % accumulate:
            raise ValueError(f"accumulate must divide the batch; got {accumulate} for {batch_size} crops.")
        state = restored_on_devices(state, batch_size=batch_size)
        inputs, targets, key = place_batch((inputs, targets, key), state.params)
        layouts = Layout.like(state.params), Layout.like(state)
        with on_mesh_of(state.params):
            return of_update(state, inputs, targets, key, *layouts)

    def train_step(
        state: TrainState, inputs: Any, targets: Any, key: jax.Array
    ) -> tuple[TrainState, Float[Array, ""], Float[Array, ""]]:
        return with_placed(compiled_update, state, inputs, targets, key)

    train_step.lower = partial(with_placed, compiled_update.lower)  # type: ignore[attr-defined]
    return train_step


def _updated(state: TrainState, grads: Any) -> TrainState:
    if isinstance(grads, Mapping):
        return state.apply_gradients(grads=grads)
    # Flax looks a name up in the gradients, which an array or a dataclass does not allow.
    updates, opt_state = state.tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state)


def _cut(batch: Any, num_parts: int, key: jax.Array) -> Any:
    """The parts of a batch, along a first axis, each with its own key."""

    def cut(leaf: jax.Array) -> jax.Array:
        # Row c * parts + i is of part i: of a batch split over devices, each keeps its share of every part.
        return jnp.moveaxis(leaf.reshape(-1, num_parts, *leaf.shape[1:]), 1, 0)

    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(num_parts))
    return *jax.tree.map(cut, batch), keys


def _norm(leaves: list[jax.Array]) -> Float[Array, ""]:
    """The Euclidean norm of all leaves together, at least float32, also where squares overflow or vanish."""
    dtype = jnp.result_type(jnp.float32, *leaves)
    leaves = [leaf.astype(dtype) for leaf in leaves]
    total = jnp.asarray(sum(jnp.sum(jnp.square(leaf)) for leaf in leaves), dtype)
    info = jnp.finfo(dtype)

    def scaled() -> Float[Array, ""]:
        # A power of two, so that no digit is lost, under which squares of any number fit.
        exponent = int(0.7 * info.maxexp)
        scale = jnp.where(total < 1, 2.0**exponent, 2.0**-exponent).astype(dtype)
        return jnp.sqrt(jnp.asarray(sum(jnp.sum(jnp.square(leaf * scale)) for leaf in leaves), dtype)) / scale

    is_exact = (total > jnp.sqrt(info.tiny)) & (total < jnp.inf)
    return jax.lax.cond(is_exact, lambda: jnp.sqrt(total), scaled)


def _make_batch_loss(
    loss: Loss, from_hidden: bool, logits_to_keep: int | None, compute_dtype: str | None, accumulate: int
) -> Callable[..., Any]:
    """The loss of a batch, or of a part of one, as a function of the parameters."""
    if compute_dtype is not None:
        check_choice("compute_dtype", compute_dtype, COMPUTE_DTYPES)
    reduction = _default_reduction(loss) if accumulate > 1 else None
    if reduction == "mean":
        loss = partial(loss, reduction="parts")

    def cast(leaf: Any) -> Any:
        is_real = compute_dtype is not None and jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(compute_dtype) if is_real else leaf

    def batch_loss(
        apply_fn: Callable[..., Any], layout: Layout, params: Any, inputs: Any, targets: Any, key: jax.Array
    ) -> Any:
        params, inputs = layout.gather(jax.tree.map(cast, params), apply_fn), jax.tree.map(cast, inputs)
        options = {}
        if logits_to_keep is not None:
            options["logits_to_keep"], targets = logits_to_keep, targets[:, -logits_to_keep:]
        if from_hidden:
            hidden_BKD = forward(apply_fn, params, inputs, key=key, method="hidden", **options)
            head_VD, logit_scale = forward(apply_fn, params, method="head")
            of_head = partial(loss, logit_scale=logit_scale)
            if num_devices() > 1:
                # The fused losses split tokens and vocabulary as the arrays' types say that these lie.
                batch, vocabulary = PartitionSpec(BATCH_AXES), PartitionSpec(TENSOR_AXIS)
                of_head = jax.sharding.explicit_axes(
                    of_head, axes=(*BATCH_AXES, TENSOR_AXIS), in_sharding=(batch, vocabulary, batch)
                )
            value = of_head(hidden_BKD, head_VD, targets)
        else:
            value = loss(forward(apply_fn, params, inputs, key=key, **options), targets)
        if reduction == "mean" and not isinstance(value, tuple):
            raise ValueError(
                'the loss was asked for reduction="parts", to be divided once over all, and must return '
                f"(sum, count); got {describe(value)}: return these, or leave `reduction` out of its options"
            )
        # A sum is not to be divided by the number of parts.
        return (value, 1 / accumulate) if reduction == "sum" else value

    return batch_loss


def _default_reduction(loss: Loss) -> Any:
    """What the loss does unless it is told, if it has an option `reduction`."""
    try:
        option = inspect.signature(loss).parameters.get("reduction")
    except (TypeError, ValueError):  # a function that Python knows no signature of
        return None
    return None if option is None else option.default
