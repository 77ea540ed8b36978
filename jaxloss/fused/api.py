"""Cross entropy of a linear head, without its logits in memory."""

from functools import partial
from typing import Any

from jaxtyping import Array, Bool, Float, Int

from jaxloss import _checks
from jaxloss._mesh import varying_axes
from jaxloss._reduction import REDUCTIONS
from jaxloss.fused._chunk_size import make_chunks
from jaxloss.fused._chunked_head import chunked_loss
from jaxloss.fused._explicit_mesh import find_layout, loss_over_layout
from jaxloss.fused._head_arguments import IMPLEMENTATIONS, HeadArguments, check_softcap, head_arguments
from jaxloss.fused._head_loss import HeadCrossEntropy, LogitMap
from jaxloss.fused.reference import TokenStatistics as TokenStatistics
from jaxloss.fused.reference import linear_cross_entropy_reference

__all__ = ["TokenStatistics", "linear_cross_entropy", "linear_log_prob"]


def linear_cross_entropy(
    input: Float[Array, "*N D"],
    linear_weight: Float[Array, "V ... D"],
    target: Int[Array, "..."] | Float[Array, "... V"],
    *,
    linear_bias: Float[Array, "V ..."] | None = None,
    weight: Float[Array, " V"] | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    where: Bool[Array, "..."] | None = None,
    sample_weight: Float[Array, "..."] | None = None,
    z_loss: float = 0.0,
    logit_softcap: float | None = None,
    logit_scale: float | Float[Array, ""] | None = None,
    implementation: str = "auto",
    chunk_size: int | None = None,
    axis_name: str | None = None,
    return_statistics: bool = False,
) -> Float[Array, "..."] | tuple[Float[Array, "..."], TokenStatistics]:
    r"""Cross entropy of a linear head's logits, a chunk of tokens at a time: never whole in memory.

    $$z_n = c \tanh\!\big(s\, (W x_n + b) / c\big), \qquad
    \ell_n = a_n \Big({-\sum_v} w_v\, y_{nv} \log \frac{\exp z_{nv}}{\sum_j \exp z_{nj}}
    + \zeta \log^2 \sum_j \exp z_{nj}\Big)$$

    with $y$ as in `cross_entropy`, label smoothing included; without a softcap $c$, $z_n = s\,(W x_n + b)$.
    Equal to the product followed by `cross_entropy`, confident logits included, under every JAX transform:
    the gradients are made with the loss, at three matrix products, and with "none" at four.

    Sharded tokens stay on their devices. Where the arrays' types say how they lie, on a mesh with explicit
    axes, tokens and classes are taken as they lie, and the weight's gradient is summed over the devices once;
    so it is inside `shard_map`. With automatic axes, XLA does that on GPU, and on CPU sums it for each chunk.

    Args:
        input: hidden states $x$, one for each token.
        linear_weight: the head $W$, one row for each class; with further axes, several heads for each token.
        target: labels in `[0, V)`, or class probabilities.
        linear_bias: the head's bias $b$.
        weight: a factor $w_v \ge 0$ for each class.
        reduction: "mean" (divides by the sum of the tokens' weights, times those of their labels' classes),
            "sum" or "none".
        ignore_index: tokens with this label take no part; None means -100.
        label_smoothing: share of the target spread evenly over the classes, in [0, 1].
        where: tokens that take part; the others count as deleted, and may hold NaN.
        sample_weight: a factor $a_n$ for each token.
        z_loss: the factor $\zeta$ of the squared log-partition, which keeps logits from drifting; 1e-4 is
            usual.
        logit_softcap: the bound $c$ of the logits' absolute value.
        logit_scale: the factor $s$ of the logits; an array may be learnt.
        implementation: "chunked"; "reference", with the logits whole; or "auto", which is chunked where
            that saves memory.
        chunk_size: the most tokens whose logits are in memory at once; by default measured for the backend.
        axis_name: inside `shard_map`, the mesh axis that the vocabulary is split over, in order:
            `linear_weight`, `linear_bias`, `weight` and probabilities are this device's slice, and labels
            count the whole.
        return_statistics: return `TokenStatistics` too, of the shape of the labels.

    Returns:
        The loss in nats, at least float32: a scalar, or one value for each token with "none". Without any
        token, "mean" gives NaN and "sum" 0. A label outside `[0, V)` gives NaN, in value and gradient.

    Raises:
        TypeError: an argument's dtype is wrong.
        ValueError: a shape, option or range is wrong.

    Differs from torch: `input` may have any number of axes, and the class axis of probabilities is the last;
    otherwise as for `cross_entropy`. Torch's chunked path has no second derivative, forward mode, `vmap`,
    label smoothing or probabilities.

    Reference: Wijmans et al. 2024, "Cut Your Losses in Large-Vocabulary Language Models"
    (https://arxiv.org/abs/2411.09009), for the problem; Chowdhery et al. 2022, "PaLM", section 5, for the
    z-loss.

    >>> import jax, jax.numpy as jnp
    >>> hidden, head = jnp.ones((4, 8), jnp.float32), jnp.zeros((50, 8), jnp.float32)
    >>> print(linear_cross_entropy(hidden, head, jnp.arange(4)))  # ln 50
    3.912023
    >>> jax.grad(linear_cross_entropy, 1)(hidden, head, jnp.arange(4)).shape
    (50, 8)
    """
    _checks.check_choice("reduction", reduction, REDUCTIONS)
    _checks.check_choice("implementation", implementation, IMPLEMENTATIONS)
    label_smoothing = _checks.check_number("label_smoothing", label_smoothing, low=0.0, high=1.0)
    z_loss = _checks.check_number("z_loss", z_loss, low=0.0)
    logit_softcap = check_softcap("logit_softcap", logit_softcap)
    _checks.check_flag("return_statistics", return_statistics)
    arrays: dict[str, Any] = {
        "input": input,
        "linear_weight": linear_weight,
        "target": target,
        "linear_bias": linear_bias,
        "weight": weight,
        "where": where,
        "sample_weight": sample_weight,
        "logit_scale": logit_scale,
    }
    check = partial(head_arguments, ignore_index=ignore_index)
    options: dict[str, Any] = {
        "ignore_index": ignore_index,
        "label_smoothing": label_smoothing,
        "z_loss": z_loss,
        "logit_softcap": logit_softcap,
        "return_statistics": return_statistics,
    }
    layout = find_layout(arrays, splits_classes=implementation != "reference" and axis_name is None)
    if layout is not None:
        loss_on_device = partial(
            linear_cross_entropy, **options, implementation=implementation, chunk_size=chunk_size
        )
        return loss_over_layout(
            loss_on_device,
            check,
            layout,
            arrays,
            reduction=reduction,
            axis_name=axis_name,
            with_statistics=return_statistics,
        )
    arguments = check(**arrays)
    chunks = make_chunks(arguments.shape, arguments.weight.shape[0], chunk_size, axis_name)
    _check_axis(axis_name, implementation, arguments)
    if axis_name is None and (
        implementation == "reference" or (implementation == "auto" and chunks.num_chunks == 1)
    ):
        return linear_cross_entropy_reference(**arrays, **options, reduction=reduction)
    per_token = HeadCrossEntropy(
        label_smoothing, z_loss, LogitMap(logit_softcap), return_statistics, axis_name
    )
    loss, statistics = chunked_loss(per_token, chunks, arguments, reduction)
    if not return_statistics:
        return loss
    return loss, TokenStatistics(**statistics | {"is_correct": statistics["is_correct"] == 1.0})


def linear_log_prob(
    input: Float[Array, "*N D"],
    linear_weight: Float[Array, "V ... D"],
    target: Int[Array, "..."],
    *,
    linear_bias: Float[Array, "V ..."] | None = None,
    ignore_index: int | None = None,
    where: Bool[Array, "..."] | None = None,
    logit_softcap: float | None = None,
    logit_scale: float | Float[Array, ""] | None = None,
    implementation: str = "auto",
    chunk_size: int | None = None,
    axis_name: str | None = None,
) -> Float[Array, "..."]:
    r"""Log-probability of each label under a linear head: what preference losses and policy gradients sum.

    $$\log \frac{\exp z_{n t_n}}{\sum_j \exp z_{nj}}$$

    Args:
        input, linear_weight, target, linear_bias, ignore_index, where, logit_softcap, logit_scale,
            implementation, chunk_size, axis_name: as for `linear_cross_entropy`.

    Returns:
        Nats, at most 0, at least float32, of the shape of `target`; 0 for tokens that take no part, so that
        a sum over a sequence is the log-probability of what was kept. A label outside `[0, V)` gives NaN.

    Raises:
        TypeError: an argument's dtype is wrong.
        ValueError: a shape, option or range is wrong.

    Differs from torch: torch has no such function.

    Reference: Rafailov et al. 2023, "Direct Preference Optimization", equation 7, for the use
    (https://arxiv.org/abs/2305.18290).

    >>> import jax.numpy as jnp
    >>> hidden, head = jnp.ones((2, 8), jnp.float32), jnp.zeros((50, 8), jnp.float32)
    >>> print(linear_log_prob(hidden, head, jnp.array([3, 4])))  # -ln 50
    [-3.912023 -3.912023]
    """
    _checks.as_labels("target", target)
    losses: Any = linear_cross_entropy(
        input,
        linear_weight,
        _checks.unwrapped(target),
        linear_bias=linear_bias,
        reduction="none",
        ignore_index=ignore_index,
        where=where,
        logit_softcap=logit_softcap,
        logit_scale=logit_scale,
        implementation=implementation,
        chunk_size=chunk_size,
        axis_name=axis_name,
    )
    return -losses


def _check_axis(axis_name, implementation: str, arguments: HeadArguments) -> None:
    if axis_name is None:
        return
    if implementation == "reference":
        raise ValueError('implementation must be "auto" or "chunked" with axis_name; got "reference".')
    if axis_name not in varying_axes(arguments.weight):
        known = sorted(varying_axes(arguments.weight)) or "no axis"
        raise ValueError(
            f"axis_name must be a mesh axis that linear_weight is split over, inside jax.shard_map with "
            f"check_vma; got {axis_name!r}, and linear_weight differs along {known}."
        )
