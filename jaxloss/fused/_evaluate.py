"""A head's loss of its operands: checked, placed on the mesh, cut into chunks, reduced.

On a mesh with explicit axes, which `jax.make_mesh` makes, the arrays' types say how they lie. One `shard_map`
around the loss then sums the weight's gradient over the devices once. With automatic axes the compiler places
that sum where it arises, at every chunk; XLA moves it out of the loop on GPU, not on CPU.

Shapes: N tokens, *K axes of heads, V vocabulary.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxloss._reduction import weighted_mean
from jaxloss.fused._arguments import Operands, Options, check_operands, check_options
from jaxloss.fused._chunked import Chunks, chunked_losses, chunked_sum, lifted
from jaxloss.fused._token_loss import Arrays, TokenLoss, kept, token_losses


class Layout(NamedTuple):
    """The mesh in an array's type, and the mesh axes that each of its axes is split over."""

    mesh: Any
    axes: list[tuple[str, ...]]


def built_in(fn: Callable, *, splits_classes: bool = False, is_frugal: bool = False) -> Callable:
    """What `make_linear_loss` makes, of a function that closes over nothing."""
    return partial(linear_loss, TokenLoss(fn, splits_classes, closes_over_nothing=True, is_frugal=is_frugal))


def linear_loss(
    loss: TokenLoss,
    /,
    input,
    linear_weight,
    *arrays,
    linear_bias=None,
    reduction: str = "mean",
    where=None,
    sample_weight=None,
    denominator=None,
    logit_softcap=None,
    logit_scale=None,
    implementation: str = "auto",
    chunk_size: int | None = None,
    axis_name: str | None = None,
    **options,
) -> Any:
    """What `make_linear_loss` makes of `loss.fn`."""
    how = check_options(reduction, implementation, chunk_size)
    if axis_name is not None and not loss.splits_classes:
        raise ValueError(
            f"axis_name must be None unless {loss.name} is made with splits_classes=True; got {axis_name!r}."
        )
    operands = check_operands(
        input,
        linear_weight,
        arrays,
        _names(loss.fn, len(arrays)),
        options,
        linear_bias=linear_bias,
        where=where,
        sample_weight=sample_weight,
        denominator=denominator,
        logit_softcap=logit_softcap,
        logit_scale=logit_scale,
        axis_name=axis_name,
    )
    value, statistics = _evaluate(replace(loss, axis_name=axis_name), operands, how)
    return value if statistics is None else (value, statistics)


def _names(fn: Callable, count: int) -> list[str]:
    """What messages call the arrays that come by position, after input and linear_weight."""
    try:
        parameters = list(inspect.signature(fn).parameters.values())[1:]
    except (TypeError, ValueError):
        parameters = []
    known = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    return [f"argument {i + 3}" + (f", {known[i]}," if i < len(known) else "") for i in range(count)]


def _evaluate(loss: TokenLoss, operands: Operands, options: Options) -> tuple[Any, Any]:
    """The reduced loss, and each token's statistics in the shape of the tokens, wherever the arrays lie."""
    meshes = [mesh for mesh, axes in map(_layout, jax.tree.leaves(operands)) if any(axes)]
    if not meshes:
        return _evaluate_here(loss, operands, options)

    mesh, tokens = meshes[0], _layout(operands.input).axes[:-1]
    token_axes = tuple(name for axes in tokens for name in axes)
    of_weight = _layout(operands.classes["linear_weight"]).axes[0]
    class_axes = [name for name in of_weight if name not in token_axes]
    splits = loss.splits_classes and loss.axis_name is None and len(class_axes) == 1
    if splits:
        loss = replace(loss, axis_name=class_axes[0])
    specs = _specs(operands, tokens, class_axes[0] if splits else None)
    shardings = jax.tree.map(partial(NamedSharding, mesh), specs)
    operands = jax.tree.map(jax.sharding.reshard, operands, shardings)
    if not token_axes and not splits:
        return _evaluate_here(loss, operands, options)
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    of_tokens = specs.tokens["valid"]
    of_result = {"none": of_tokens, "parts": (PartitionSpec(), PartitionSpec())}
    return jax.shard_map(
        lambda operands: _evaluate_here(loss, operands, options, token_axes),
        mesh=mesh,
        in_specs=(specs,),
        out_specs=(of_result.get(options.reduction, PartitionSpec()), of_tokens),
        axis_names={name for name, kind in kinds if kind == AxisType.Explicit},
    )(operands)


def _layout(array: jax.Array) -> Layout:
    sharding = jax.typeof(array).sharding
    axes = [() if a is None else (a,) if isinstance(a, str) else tuple(a) for a in sharding.spec]
    return Layout(sharding.mesh, axes + [()] * (array.ndim - len(axes)))


def _specs(operands: Operands, tokens: list[tuple[str, ...]], of_classes: str | None) -> Any:
    """How each operand is to lie: tokens over their mesh axes, classes over theirs, if any."""
    of_tokens, shape = PartitionSpec(*(axes or None for axes in tokens)), operands.tokens["valid"].shape
    of_each_class = PartitionSpec(*of_tokens, *[None] * (len(shape) - len(of_tokens)), of_classes)
    per_class = (*shape, operands.classes["linear_weight"].shape[0])
    make: Any = Operands
    return make(
        of_tokens,
        {k: of_each_class if a.shape == per_class else of_tokens for k, a in operands.tokens.items()},
        dict.fromkeys(operands.classes, PartitionSpec(of_classes)),
        dict.fromkeys(operands.others, PartitionSpec()),
        None if operands.denominator is None else PartitionSpec(),
    )


def _shared_and_rows(operands: Operands) -> tuple[Arrays, Arrays]:
    """What all tokens share, and what they have each, along one axis of tokens before those of heads."""
    token_shape = operands.input.shape[:-1]
    rows = {
        name: array.reshape(math.prod(token_shape), *array.shape[len(token_shape) :])
        for name, array in ({"input": operands.input} | operands.tokens).items()
    }
    rows["factor"] = kept(rows["valid"], rows.pop("sample_weight"))
    return operands.classes | operands.others, rows


def _evaluate_here(
    loss: TokenLoss, operands: Operands, options: Options, batch_axes: tuple[str, ...] = ()
) -> tuple[Any, Any]:
    """As `_evaluate`, of this device's operands; the tokens are split over the mesh axes `batch_axes`."""
    shared, rows = _shared_and_rows(operands)
    shape, token_shape = operands.tokens["valid"].shape, operands.input.shape[:-1]
    num_tokens, heads = math.prod(token_shape), shape[len(token_shape) :]
    sample_weight = rows["factor"]

    def total_of(values: jax.Array) -> jax.Array:
        total = jnp.sum(values)
        return lax.psum(total, batch_axes) if batch_axes else total

    if options.reduction in ("mean", "parts"):
        given = operands.denominator
        denominator = total_of(sample_weight) if given is None else given
    if options.reduction == "mean":
        # Inside the sum, so that no gradient needs a second pass to be divided.
        rows["factor"] = kept(rows["valid"], weighted_mean(sample_weight, denominator))

    head = shared["linear_weight"].shape[0], rows["input"].shape[-1]
    chunks = _choose_chunks(token_shape, math.prod(heads), head, options, loss.is_frugal)
    run = partial(_one_head, loss, options, chunks)
    for _ in heads:
        axes = (
            {name: 1 if name in ("linear_weight", "linear_bias") else None for name in shared},
            {name: None if name == "input" else 1 for name in rows},
        )
        run = jax.vmap(run, axes, (1 if options.reduction == "none" else 0, 1))
    result, statistics = run(shared, rows)
    num_axes = 1 + len(heads)
    statistics = jax.tree.map(lambda a: a[:num_tokens].reshape(*shape, *a.shape[num_axes:]), statistics)
    if options.reduction == "none":
        return (result[:num_tokens] * sample_weight).reshape(shape), statistics
    total = total_of(result)
    if options.reduction == "parts":
        return (total, denominator.astype(total.dtype)), statistics
    if options.reduction == "mean":
        # Without a token that takes part there is no factor to be NaN.
        total = total + weighted_mean(jnp.zeros_like(total), denominator.astype(total.dtype))
    return total, statistics


def _one_head(loss: TokenLoss, options: Options, chunks: Chunks, shared: Arrays, rows: Arrays):
    """Each token's loss with "none"; else the sum of the losses, each times its factor."""
    whole = options.implementation == "reference" or (
        options.implementation == "auto" and chunks.num_chunks == 1 and loss.axis_name is None
    )
    if whole:
        losses, statistics = token_losses(loss, shared, rows)
        if options.reduction == "none":
            return losses, statistics
        return jnp.sum(rows["factor"] * losses), statistics
    padding = -rows["valid"].shape[0] % chunks.num_chunks
    if padding:
        rows = {k: jnp.pad(a, [(0, padding)] + [(0, 0)] * (a.ndim - 1)) for k, a in rows.items()}
    loss, shared = lifted(loss, chunks, shared, rows)
    run = chunked_losses if options.reduction == "none" else chunked_sum
    return run(loss, chunks, shared, rows)


# CPU: chunks of 256 tokens, more where those are sixteen chunks too, so that the weight's gradient is seldom
# added to; 2^23 logits (32 MB) at most, but for 128 tokens, and for sixteenths of no more tokens than the
# head is wide, whose logits are no larger than its gradient. Accelerators want larger products.
_TOKENS, _MIN_TOKENS, _MIN_CHUNKS, _MAX_LOGITS = {"cpu": 256}, {"cpu": 128}, {"cpu": 16}, {"cpu": 2**23}
# A product that fills a block of the weight's gradient; an accelerator's matrix product adds in place.
_WEIGHT_ROWS = {"cpu": 1024}


def _choose_chunks(
    shape: tuple[int, ...], num_heads: int, head: tuple[int, int], options: Options, is_frugal: bool
) -> Chunks:
    """The chunks for tokens of this shape, of at most `chunk_size` logits' rows if it is given.

    Of a frugal loss, one array of a chunk's logits is alive at once; of others, up to twelve are, for which
    their chunks are half as large.
    A number of chunks that divides what follows the leading axis leaves a batch that is sharded there as it
    lies; one that divides the number of tokens needs no padding.
    """
    (vocabulary, width), num_tokens = head, math.prod(shape)
    backend, chunk_size = jax.default_backend(), options.chunk_size
    if chunk_size is None:
        fewest_tokens = _MIN_TOKENS.get(backend, 1024)
        of_each = num_tokens * num_heads // _MIN_CHUNKS.get(backend, 1)
        as_wide = min(width, of_each) if backend == "cpu" else 0
        largest = max(fewest_tokens, _MAX_LOGITS.get(backend, 2**27) // vocabulary)
        largest = max(largest, as_wide) if is_frugal else largest // 2
        chunk_size = 2 ** math.floor(math.log2(min(largest, max(_TOKENS.get(backend, 1024), of_each))))
    num_chunks = fewest = max(1, math.ceil(num_tokens / max(1, chunk_size // max(1, num_heads))))
    for unit in (num_tokens // shape[0] if len(shape) > 1 and num_tokens else 1, num_tokens):
        divisors = [n for n in range(fewest, min(2 * fewest, unit) + 1) if unit % n == 0]
        if divisors:
            num_chunks = divisors[0]
            break
    return Chunks(num_chunks, _WEIGHT_ROWS.get(backend, vocabulary))
