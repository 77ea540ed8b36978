"""The losses of a linear head's tokens: all at once, or in chunks whose logits are never whole in memory.

`chunked_sum` makes the gradients while a chunk's logits are at hand, and a derivative rule contracts them
with the tangents: `d total = <d_input, t_input> + <d_weight, t_weight> + ...`. Reverse mode transposes that
contraction, so it costs three matrix products and recomputes nothing; forward mode uses it as it stands;
second derivatives differentiate the loop that made the gradients; a tangent known to be zero, as a frozen
weight's is, has no gradient made for it. `chunked_losses` cannot know each token's cotangent in advance: it
recomputes a chunk's logits on the way back.

Shapes: N tokens, S steps of the loop, C = N / S tokens of a chunk, D width, V vocabulary.
"""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero, zero_from_primal

from jaxloss import _checks
from jaxloss._mesh import differ_along, varying_axes
from jaxloss._reduction import compute_dtype
from jaxloss.fused._opaque import opaque_call
from jaxloss.fused._program import traced
from jaxloss.fused._token_loss import (
    Arrays,
    TokenLoss,
    checked_values,
    filled,
    kept,
    logits_of,
    losses_of_product,
    own_operands,
    product,
    stand_in,
    wider,
)


class Chunks(NamedTuple):
    """How the work is cut.

    Token `c * num_chunks + i` belongs to chunk `i`: of a sharded batch, every device keeps its part of
    every chunk. The weight's gradient is added to in blocks of `weight_rows`, so that no second array of
    its size is needed.
    """

    num_chunks: int
    weight_rows: int


class Wanted(NamedTuple):
    """The names of the operands that need a gradient; the others cost nothing."""

    shared: frozenset[str] = frozenset()
    rows: frozenset[str] = frozenset()


def lifted(loss: TokenLoss, chunks: Chunks, shared: Arrays, rows: Arrays) -> tuple[TokenLoss, Arrays]:
    """The loss as a program, and with the shared operands the arrays that it closes over."""
    if loss.closes_over_nothing:
        return loss, shared

    def arguments(shared, rows):
        chunk = {k: a[:, 0] for k, a in _split(rows, chunks).items()}
        shared, chunk = _differing(loss, shared, chunk)
        raw_CV = product(chunk["input"], shared["linear_weight"], 1, 1)
        return logits_of(raw_CV.astype(chunk["factor"].dtype), shared), *own_operands(shared, chunk)

    logits, arrays, options = jax.eval_shape(arguments, shared, rows)
    program, found = traced(partial(checked_values, loss), (shared, rows), logits, *arrays, **options)
    for array in found:
        # Where devices share it, its gradient would be summed over them twice.
        is_shared = varying_axes(logits) - {loss.axis_name} - varying_axes(array)
        if is_shared and isinstance(array, jax.core.Tracer) and jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(
                f"{loss.name} closes over the traced array {_checks.describe(array)}, which devices with "
                f"other tokens share; pass it to the loss instead, by a name of its own."
            )
    return replace(loss, fn=program), shared | {str(i): array for i, array in enumerate(found)}


def _differing(loss: TokenLoss, shared: Arrays, rows: Arrays) -> tuple[Arrays, Arrays]:
    # The gradient of an operand that the devices share would be summed over them, which the caller does.
    axes = varying_axes(rows["input"], shared["linear_weight"], rows["factor"]) - {loss.axis_name}
    closed = {k: a for k, a in shared.items() if k.isdigit()}
    return differ_along(shared, axes) | closed, differ_along(rows, axes)


@partial(jax.jit, static_argnums=(0, 1))
def chunked_sum(loss: TokenLoss, chunks: Chunks, shared: Arrays, rows: Arrays) -> tuple[jax.Array, Any]:
    """`sum(rows["factor"] * losses)` over the valid tokens, and the statistics.

    Operands as in `token_losses`; `num_chunks` divides N.
    """
    return _sum(loss, chunks, shared, rows)


@partial(jax.jit, static_argnums=(0, 1))
def chunked_losses(loss: TokenLoss, chunks: Chunks, shared: Arrays, rows: Arrays) -> tuple[jax.Array, Any]:
    """`token_losses`, a chunk at a time; operands as in `chunked_sum`."""
    weight, dtype = shared["linear_weight"], wider(shared["linear_weight"], rows["input"])
    # The loop's transpose sums these cotangents over the chunks: in the dtype that the weight has here, and
    # on each device by itself if the operand differs between devices here.
    shared = shared | {"linear_weight": weight.astype(compute_dtype(weight))}
    shared, rows = _differing(loss, shared, rows)

    @partial(jax.checkpoint, prevent_cse=False)
    def step(shared, chunk):
        chunk = filled(chunk, substitute)
        raw_CV = product(chunk["input"].astype(dtype), shared["linear_weight"].astype(dtype), 1, 1)
        return losses_of_product(loss, raw_CV, shared, chunk)

    substitute = stand_in(rows)
    rows_SC = {k: jnp.moveaxis(a, 1, 0) for k, a in _split(rows, chunks).items()}
    _, per_token = lax.scan(lambda _, chunk: (None, step(shared, chunk)), None, rows_SC)
    return jax.tree.map(lambda a: _joined(jnp.moveaxis(a, 0, 1)), per_token)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _sum(loss, chunks, shared, rows):
    total, statistics, *_ = _sum_and_gradients(loss, chunks, Wanted(), shared, rows)
    return total, statistics


@partial(_sum.defjvp, symbolic_zeros=True)
def _sum_jvp(loss, chunks, primals, tangents):
    shared_dots, rows_dots = ({k: t for k, t in d.items() if type(t) is not SymbolicZero} for d in tangents)
    wanted = Wanted(frozenset(shared_dots), frozenset(rows_dots))
    total, statistics, shared_grads, rows_grads = opaque_call(
        partial(_sum_and_gradients, loss, chunks, wanted), *primals
    )
    pairs = [(shared_grads[k], shared_dots[k]) for k in shared_dots]
    pairs += [(rows_grads[k], rows_dots[k]) for k in rows_dots]
    total_dot = _contract(pairs, total, loss.axis_name)
    no_tangent = partial(zero_from_primal, symbolic_zeros=True)
    return (total, statistics), (total_dot, jax.tree.map(no_tangent, statistics))


def _contract(pairs, total: jax.Array, axis_name: str | None) -> jax.Array:
    total_dot, partial_dot = jnp.zeros_like(total), None
    for gradient, tangent in pairs:
        term = jnp.sum(gradient * tangent.astype(gradient.dtype)).astype(total.dtype)
        # A gradient that differs along the axis is only this device's part, of its own classes.
        if axis_name in varying_axes(term):
            partial_dot = term if partial_dot is None else partial_dot + term
        else:
            total_dot += term
    return total_dot if partial_dot is None else total_dot + lax.psum(partial_dot, axis_name)


def _sum_and_gradients(loss, chunks: Chunks, wanted: Wanted, shared, rows):
    """The total, the statistics, and the gradients of the wanted operands, shared and of rows."""
    rows_CS = _split(rows, chunks)

    def chunk_at(i):
        return {k: lax.dynamic_index_in_dim(a, i, 1, keepdims=False) for k, a in rows_CS.items()}

    # Differentiating the loop must not keep every chunk's logits.
    @partial(jax.checkpoint, prevent_cse=False)
    def step(carry, i):
        total, sums, per_token = carry
        total, sums, of_chunk = add_chunk(total, sums, chunk_at(i))
        # In place: what one chunk fills is never copied, as stacking the chunks and turning them would.
        put = partial(lax.dynamic_update_index_in_dim, index=i, axis=1)
        return (total, sums, jax.tree.map(put, per_token, of_chunk)), None

    add_chunk = partial(_add_chunk, loss, chunks, wanted, shared, stand_in(rows))
    first = {k: a[:, 0] for k, a in rows_CS.items()}
    total = jnp.zeros((), compute_dtype(rows["factor"]))
    sums = {k: jnp.zeros(shared[k].shape, compute_dtype(shared[k])) for k in wanted.shared}
    if chunks.num_chunks == 1:
        total, sums, per_token = add_chunk(total, sums, first)
    else:
        # Traced for the shapes of what the loop carries, and for the mesh axes that it differs along.
        *sums_of_chunk, of_chunk = jax.eval_shape(add_chunk, total, sums, first)
        sums_of_none = jax.tree.map(lambda a: _zeros(a, a.shape), sums_of_chunk)
        per_token = jax.tree.map(lambda a: _zeros(a, (a.shape[0], chunks.num_chunks, *a.shape[1:])), of_chunk)
        carry = *sums_of_none, per_token
        (total, sums, per_token), _ = lax.scan(step, carry, jnp.arange(chunks.num_chunks))
        per_token = jax.tree.map(_joined, per_token)
    statistics, rows_grads = per_token
    return total, statistics, sums, rows_grads


def _add_chunk(loss, chunks: Chunks, wanted: Wanted, shared, substitute, total, sums, rows):
    """The total and the gradients' sums with one chunk's added; its tokens' statistics and gradients."""
    shared, rows = _differing(loss, shared, filled(rows, substitute))
    weight, input_CD = shared["linear_weight"], rows["input"]
    raw_CV = product(input_CD, weight, 1, 1)

    def chunk_total(raw_CV, some_shared, some_rows):
        all_rows = rows | some_rows
        losses, statistics = losses_of_product(loss, raw_CV, shared | some_shared, all_rows)
        return jnp.sum(all_rows["factor"] * losses), statistics

    if not any(wanted):
        more, statistics = chunk_total(raw_CV, {}, {})
        return total + more, sums, (statistics, {})

    some_shared = {k: shared[k] for k in wanted.shared - {"linear_weight"}}
    some_rows = {k: rows[k] for k in wanted.rows - {"input"}}
    (more, statistics), (d_raw_CV, d_shared, d_rows) = jax.value_and_grad(
        chunk_total, (0, 1, 2), has_aux=True
    )(raw_CV, some_shared, some_rows)
    sums = sums | {k: sums[k] + d.astype(sums[k].dtype) for k, d in d_shared.items()}
    if wider(weight, input_CD) == jnp.bfloat16:
        # The two products run at the speed of bfloat16; float16 would overflow and underflow.
        d_raw_CV = d_raw_CV.astype(jnp.bfloat16)
    if "input" in wanted.rows:
        d_rows["input"] = product(d_raw_CV, weight, 1, 0)
    if "linear_weight" in wanted.shared:
        added = _add_product(sums["linear_weight"], d_raw_CV, input_CD, chunks.weight_rows)
        sums["linear_weight"] = added
    return total + more, sums, (statistics, {k: kept(rows["valid"], d) for k, d in d_rows.items()})


def _add_product(sum_VD: jax.Array, d_raw_CV: jax.Array, input_CD: jax.Array, block: int) -> jax.Array:
    """`sum_VD + d_raw_CV.T @ input_CD`, some rows at a time."""
    num_rows = sum_VD.shape[0]
    if num_rows <= block:
        return sum_VD + product(d_raw_CV, input_CD, 0, 0)

    num_blocks = -(-num_rows // block)
    block = -(-num_rows // num_blocks)

    def add(sum_VD, i):
        # The last block begins early enough to be whole, and leaves out what the one before it has. A shorter
        # one would stand outside the loop, where XLA for CPU makes these columns of the gradient anew, and
        # keeps what they are made of: a second array of the chunk's logits.
        start = jnp.minimum(i * block, num_rows - block)
        columns = lax.dynamic_slice_in_dim(d_raw_CV, start, block, 1)
        is_new = start + jnp.arange(block) >= i * block
        part = product(jnp.where(is_new[None], columns, jnp.zeros((), columns.dtype)), input_CD, 0, 0)
        part = lax.dynamic_slice_in_dim(sum_VD, start, block, 0) + part
        return lax.dynamic_update_slice_in_dim(sum_VD, part, start, 0), None

    sum_VD = differ_along(sum_VD, varying_axes(d_raw_CV, input_CD))
    return lax.scan(add, sum_VD, jnp.arange(num_blocks))[0]


def _split(rows: Arrays, chunks: Chunks) -> Arrays:
    # Not -1, which a width of 0 leaves undetermined.
    shape = rows["valid"].shape[0] // chunks.num_chunks, chunks.num_chunks
    return {k: a.reshape(*shape, *a.shape[1:]) for k, a in rows.items()}


def _joined(chunks: jax.Array) -> jax.Array:
    """`[C, S, ...]` as `[N, ...]`."""
    return chunks.reshape(chunks.shape[0] * chunks.shape[1], *chunks.shape[2:])


def _zeros(like: jax.ShapeDtypeStruct, shape: tuple[int, ...]) -> jax.Array:
    return differ_along(jnp.zeros(shape, like.dtype), varying_axes(like))
