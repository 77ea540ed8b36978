"""From checked arguments to `_chunked`: reductions, padding, and one pass for each head.

Shapes: N tokens, K heads, D width, V vocabulary.
"""

import jax
import jax.numpy as jnp

from jaxloss._reduction import select
from jaxloss.fused._chunked import Chunks, Operands, TokenLoss, chunked_losses, chunked_sum
from jaxloss.fused._head_arguments import HeadArguments, mean_denominator


def chunked_loss(
    loss: TokenLoss,
    chunks: Chunks,
    arguments: HeadArguments,
    reduction: str,
    more_shared: Operands | None = None,
    more_rows: Operands | None = None,
) -> tuple[jax.Array, Operands]:
    """The reduced loss, and each token's statistics; `more_rows` [N, ...] are the same for all heads."""
    scale = arguments.sample_weight
    if reduction == "mean":
        denominator = mean_denominator(arguments, chunks.axis_name)
        # Inside the sum, so that no gradient needs a second pass to be divided. Without tokens it is 0 / 0.
        scale = select(arguments.kept, scale / denominator)
    shared: Operands = {
        "weight": arguments.weight,
        "bias": arguments.bias,
        "class_weight": arguments.class_weight,
        "logit_scale": arguments.logit_scale,
    }
    shared = {name: array for name, array in shared.items() if array is not None} | (more_shared or {})
    rows: Operands = {"input": arguments.input, "kept": arguments.kept, "scale": scale} | (more_rows or {})
    if arguments.target is not None:
        rows["labels" if arguments.has_labels else "probabilities"] = arguments.target
    num_tokens = arguments.input.shape[0]
    rows = {name: _pad(array, -num_tokens % chunks.num_chunks) for name, array in rows.items()}

    per_head = {"weight", "bias", "kept", "scale", "labels", "probabilities"}
    evaluate = chunked_losses if reduction == "none" else chunked_sum
    if arguments.weight.shape[1] == 1:
        shared, rows = ({k: a[:, 0] if k in per_head else a for k, a in d.items()} for d in (shared, rows))
        result, statistics = evaluate(loss, chunks, shared, rows)
        statistics = {name: array[:, None] for name, array in statistics.items()}
        result = result[:, None] if reduction == "none" else result
    else:
        axes = tuple({name: 1 if name in per_head else None for name in d} for d in (shared, rows))
        out_axes = (1 if reduction == "none" else 0, 1)
        all_heads = jax.vmap(lambda *operands: evaluate(loss, chunks, *operands), axes, out_axes)
        result, statistics = all_heads(shared, rows)
        result = result if reduction == "none" else jnp.sum(result)
    statistics = {
        name: jnp.where(arguments.kept, array[:num_tokens], jnp.zeros((), array.dtype)).reshape(
            arguments.shape
        )
        for name, array in statistics.items()
    }
    if reduction == "none":
        return (result[:num_tokens] * arguments.sample_weight).reshape(arguments.shape), statistics
    if reduction == "mean":
        result = result + jnp.where(denominator == 0.0, jnp.nan, 0.0).astype(result.dtype)
    return result, statistics


def _pad(array: jax.Array, padding: int) -> jax.Array:
    return jnp.pad(array, [(0, padding)] + [(0, 0)] * (array.ndim - 1)) if padding else array
