"""Cross entropy of a linear head, and a language model's objectives, without the logits in memory."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxloss import _checks
from jaxloss._mesh import last_along
from jaxloss._reduction import weighted_mean
from jaxloss.fused._arguments import check_head, check_options, token_labels, token_probabilities, unless
from jaxloss.fused._cross_entropy import count_labels, token_cross_entropy, token_cross_entropy_and_statistics
from jaxloss.fused._evaluate import built_in

__all__ = [
    "TokenStatistics",
    "linear_cross_entropy",
    "linear_final_token_loss",
    "linear_log_prob",
    "linear_next_token_loss",
]


_LOSS = built_in(token_cross_entropy, splits_classes=True, is_frugal=True)
_LOSS_AND_STATISTICS = built_in(token_cross_entropy_and_statistics, splits_classes=True, is_frugal=True)


class TokenStatistics(NamedTuple):
    """What a head says about each token; without derivatives, and 0 for tokens that take no part.

    Attributes:
        logsumexp: log of the sum of the exponentials of the logits.
        is_correct: no class has a larger logit than the label (or than the most probable class of the
            target).
        entropy: of the predicted distribution, in nats.
    """

    logsumexp: Array
    is_correct: Array
    entropy: Array


def linear_cross_entropy(
    input: Float[Array, "*N D"],
    linear_weight: Float[Array, "V ... D"],
    target: Int[Array, "..."] | Float[Array, "... V"],
    *,
    linear_bias: Float[Array, "V ..."] | None = None,
    weight: Float[Array, " V"] | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: _checks.Scalar = 0.0,
    where: Bool[Array, "..."] | None = None,
    sample_weight: Float[Array, "..."] | None = None,
    z_loss: _checks.Scalar = 0.0,
    logit_softcap: _checks.Scalar | None = None,
    logit_scale: _checks.Scalar | None = None,
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
        ignore_index: as by convention, but None, torch's default here, means -100.
        label_smoothing: share of the target spread evenly over the classes, in [0, 1].
        sample_weight: a factor $a_n$ for each token.
        z_loss: the factor $\zeta$ of the squared log-partition, which keeps logits from drifting; 1e-4 is
            usual. Its mean is over the tokens, each times its $a_n$, whatever their classes weigh.
        logit_softcap: the bound $c$ of the logits' absolute value.
        logit_scale: the factor $s$ of the logits.
        implementation: "chunked"; "reference", with the logits whole; or "auto", which is chunked where
            that saves memory.
        chunk_size: the most tokens whose logits are in memory at once, by default measured for the backend:
            each chunk adds to the head's gradient, which is as large as the logits of D tokens.
        axis_name: inside `shard_map`, the mesh axis that the vocabulary is split over, in order:
            `linear_weight`, `linear_bias`, `weight` and probabilities are this device's slice, and labels
            count the whole.
        return_statistics: return `TokenStatistics` too, of the shape of the labels.

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
    check_options(reduction, implementation, chunk_size)
    _checks.check_flag("return_statistics", return_statistics)
    scalars = {
        "label_smoothing": unless(
            0, _checks.as_scalar("label_smoothing", label_smoothing, low=0.0, high=1.0)
        ),
        "z_loss": unless(0, _checks.as_scalar("z_loss", z_loss, low=0.0)),
    }
    input, linear_weight, linear_bias = check_head(input, linear_weight, linear_bias, axis_name=axis_name)
    num_classes, shape = linear_weight.shape[0], input.shape[:-1] + linear_weight.shape[1:-1]
    weight = _checks.as_class_weight(weight, num_classes)
    where = _checks.as_mask("where", where, shape, "one value for each token")
    denominator = None
    if _checks.has_dtype(target, jnp.floating):
        target = token_probabilities(target, (*shape, num_classes), ignore_index)
    else:
        target, where = token_labels(target, shape, num_classes, ignore_index, where, axis_name)
        if weight is not None and reduction in ("mean", "parts"):
            sample_weight = _checks.as_sample_weight(sample_weight, shape, "one number for each token")
            denominator, num_tokens = count_labels(target, where, weight, sample_weight, axis_name)
            if scalars["z_loss"] is not None:
                if reduction == "parts":
                    raise ValueError("reduction='parts' has one denominator; z_loss with weight needs two.")
                # Its mean is over the tokens, whatever their classes weigh.
                scalars["z_loss"] *= weighted_mean(denominator, num_tokens)
    loss = _LOSS_AND_STATISTICS if return_statistics else _LOSS
    result = loss(
        input,
        linear_weight,
        target,
        linear_bias=linear_bias,
        reduction=reduction,
        where=where,
        sample_weight=sample_weight,
        denominator=denominator,
        logit_softcap=logit_softcap,
        logit_scale=logit_scale,
        implementation=implementation,
        chunk_size=chunk_size,
        axis_name=axis_name,
        class_weight=weight,
        **scalars,
    )
    return (result[0], TokenStatistics(**result[1])) if return_statistics else result


def linear_log_prob(
    input: Float[Array, "*N D"],
    linear_weight: Float[Array, "V ... D"],
    target: Int[Array, "..."],
    *,
    linear_bias: Float[Array, "V ..."] | None = None,
    ignore_index: int | None = None,
    where: Bool[Array, "..."] | None = None,
    logit_softcap: _checks.Scalar | None = None,
    logit_scale: _checks.Scalar | None = None,
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
        _checks.labels_as_given(target),
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


def linear_next_token_loss(
    input: Float[Array, "*B T D"],
    linear_weight: Float[Array, "V D"],
    target: Int[Array, "*B T"],
    *,
    reduction: str = "mean",
    **options: Any,
):
    r"""Cross entropy of the next token, from every position, given the model's hidden states and head.

    $$-\sum_{t=1}^{T} \log P(x_t \mid x_{<t})$$

    Equal to `next_token_loss` of the logits. With Model 5, `linear_weight` is the token embedding and
    `logit_scale` the model's.

    Args:
        input: hidden states after the last normalisation.
        linear_weight: the head, one row for each token of the vocabulary.
        target: `target[..., t]` is the token that follows position `t`.
        **options: those of `linear_cross_entropy`.

    Reference: Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", equation 1.

    >>> import jax.numpy as jnp
    >>> hidden, head = jnp.ones((2, 3, 8), jnp.float32), jnp.zeros((50, 8), jnp.float32)
    >>> print(linear_next_token_loss(hidden, head, jnp.array([[3, 1, 4], [1, 5, -100]])))  # ln 50
    3.912023
    """
    hidden = _check_positions(input, linear_weight)
    _checks.as_labels("target", target)
    target = _checks.labels_as_given(target)
    return linear_cross_entropy(hidden, linear_weight, target, reduction=reduction, **options)


def linear_final_token_loss(
    input: Float[Array, "*B T D"],
    linear_weight: Float[Array, "V D"],
    target: Int[Array, "*B T"],
    *,
    reduction: str = "mean",
    **options: Any,
):
    r"""Cross entropy of the next token, from the last position only, given hidden states and head.

    $$-\log P(x_T \mid x_{<T})$$

    Equal to `final_token_loss` of the logits, and the head is applied to one position of each sequence.

    Args:
        input: hidden states after the last normalisation; those before the last position are not looked at.
        linear_weight: the head, one row for each token of the vocabulary.
        target: `target[..., t]` is the token that follows position `t`.
        **options: those of `linear_cross_entropy`; `where` and `sample_weight` have the shape of `target`,
            and their last position counts.

    Reference: Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", equation 1,
    for the sum of which this is the last term.

    >>> import jax.numpy as jnp
    >>> hidden, head = jnp.ones((2, 3, 8), jnp.float32), jnp.zeros((50, 8), jnp.float32)
    >>> print(linear_final_token_loss(hidden, head, jnp.array([[3, 1, 4], [1, 5, 9]]), reduction="none"))
    [3.912023 3.912023]
    """
    hidden = _check_positions(input, linear_weight)
    if hidden.shape[-2] == 0:
        raise ValueError(f"input must have at least one position; got {_checks.describe(hidden)}.")
    labels = _checks.as_labels("target", target)
    _checks.check_shape("target", labels, hidden.shape[:-1], "one token for each position of input")
    where, sample_weight = options.pop("where", None), options.pop("sample_weight", None)
    where = _checks.as_mask("where", where, labels.shape, "that of target")
    sample_weight = _checks.as_sample_weight(sample_weight, labels.shape, "that of target")
    return linear_cross_entropy(
        last_along(hidden, -2),
        linear_weight,
        last_along(_checks.labels_as_given(target), -1),
        where=None if where is None else last_along(where, -1),
        sample_weight=None if sample_weight is None else last_along(sample_weight, -1),
        reduction=reduction,
        **options,
    )


def _check_positions(input, linear_weight):
    hidden, head = _checks.as_floats("input", input), _checks.as_floats("linear_weight", linear_weight)
    if head.ndim != 2:
        raise ValueError(f"linear_weight must have shape [V, D]; got {_checks.describe(head)}.")
    if hidden.ndim < 2:
        raise ValueError(f"input must have shape [..., T, D]; got {_checks.describe(hidden)}.")
    return hidden
