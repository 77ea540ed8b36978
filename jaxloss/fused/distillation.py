"""Distillation between two linear heads, without the logits of either in memory."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxloss import _checks
from jaxloss.fused._arguments import check_head, check_logit_scale, check_softcap, token_labels, unless
from jaxloss.fused._cross_entropy import mix
from jaxloss.fused._evaluate import built_in
from jaxloss.fused._token_loss import logits_of, product
from jaxloss.losses._elements import read_divergence
from jaxloss.numerics.divergence import (
    DIVERGENCES,
    skewed_jensen_shannon,
    softmax_skewed_jensen_shannon,
)
from jaxloss.numerics.softmax import Classes, label_cross_entropy

__all__ = ["linear_distillation_loss", "linear_kl_div"]


def linear_distillation_loss(
    input: Float[Array, "*N D"],
    linear_weight: Float[Array, "V D"],
    teacher_input: Float[Array, "*N E"],
    teacher_linear_weight: Float[Array, "V E"],
    target: Int[Array, "*N"] | None = None,
    *,
    temperature: _checks.Scalar = 2.0,
    hard_weight: _checks.Scalar = 0.0,
    divergence: str = "forward_kl",
    beta: _checks.Scalar = 0.5,
    linear_bias: Float[Array, " V"] | None = None,
    teacher_linear_bias: Float[Array, " V"] | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    where: Bool[Array, "*N"] | None = None,
    sample_weight: Float[Array, "*N"] | None = None,
    logit_softcap: _checks.Scalar | None = None,
    teacher_logit_softcap: _checks.Scalar | None = None,
    logit_scale: _checks.Scalar | None = None,
    teacher_logit_scale: _checks.Scalar | None = None,
    implementation: str = "auto",
    chunk_size: int | None = None,
) -> Float[Array, "..."]:
    r"""Pull a student's distribution towards its teacher's, and towards labels if wanted, from hidden states.

    $$\ell_n = (1 - \lambda)\, T^2\, D\!\left(\mathrm{softmax}(V y_n / T), \mathrm{softmax}(W x_n / T)\right)
    - \lambda \log \mathrm{softmax}(W x_n)_{t_n}$$

    Equal to `distillation_loss` of the two heads' logits, of which only a chunk's are in memory at once. The
    teacher is a constant: neither its hidden states nor its head get a gradient.

    Args:
        input: the student's hidden states $x$.
        linear_weight: the student's head $W$.
        teacher_input: the teacher's hidden states $y$, of its own width.
        teacher_linear_weight: the teacher's head $V$, over the same classes.
        target: true labels $t$; tokens with `ignore_index` take no part in either term.
        temperature: $T > 0$.
        hard_weight: $\lambda$ in [0, 1], the share of the labels' cross entropy; above 0 it needs `target`.
        divergence: $D$: "forward_kl", $\mathrm{KL}(p \| q)$ of teacher from student; "reverse_kl",
            $\mathrm{KL}(q \| p)$; "jensen_shannon"; or "total_variation".
        beta: $\beta$ of the generalised Jensen-Shannon divergence, as in `jensen_shannon_div`; only with it.
        linear_bias: the student's bias.
        teacher_linear_bias: the teacher's bias.
        logit_softcap, teacher_logit_softcap: bounds of the absolute values of the student's and the
            teacher's logits, as in `linear_cross_entropy`.
        logit_scale, teacher_logit_scale: factors of the student's logits and of the teacher's.
        implementation, chunk_size: as for `linear_cross_entropy`.

    Reference: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2
    (https://arxiv.org/abs/1503.02531); Gu et al. 2024 (https://arxiv.org/abs/2306.08543) for the reverse
    divergence; Agarwal et al. 2024 (https://arxiv.org/abs/2306.13649), equation 1, for `beta`.

    >>> import jax.numpy as jnp
    >>> hidden, head = jnp.ones((2, 1), jnp.float32), jnp.zeros((2, 1), jnp.float32)
    >>> teacher_head = jnp.array([[2.0], [0.0]], jnp.float32)
    >>> print(linear_distillation_loss(hidden, head, hidden, teacher_head, temperature=1.0))
    0.32781333
    """
    divergence, mixture = _kind(divergence, beta)
    scalars = {
        "temperature": unless(1, _checks.as_scalar("temperature", temperature, low=0.0, open_low=True)),
        "hard_weight": unless(0, _checks.as_scalar("hard_weight", hard_weight, low=0.0, high=1.0)),
    }
    scalars |= mixture
    if target is None and scalars["hard_weight"] is not None:
        raise ValueError("target must hold labels when hard_weight is above 0, or an array; got None.")
    input, linear_weight, linear_bias = check_head(input, linear_weight, linear_bias)
    if linear_weight.ndim != 2:
        raise ValueError(f"linear_weight must have shape [V, D]; got {_checks.describe(linear_weight)}.")
    num_classes, tokens = linear_weight.shape[0], input.shape[:-1]
    hidden, weight, bias = check_head(teacher_input, teacher_linear_weight, teacher_linear_bias, "teacher_")
    shape = num_classes, weight.shape[-1]
    _checks.check_shape("teacher_linear_weight", weight, shape, "the student's classes")
    _checks.check_shape("teacher_input", hidden, (*tokens, hidden.shape[-1]), "the student's tokens")
    teacher = {
        "teacher_linear_weight": weight,
        "teacher_linear_bias": bias,
        "teacher_logit_softcap": check_softcap("teacher_logit_softcap", teacher_logit_softcap),
        "teacher_logit_scale": check_logit_scale("teacher_logit_scale", teacher_logit_scale),
    }
    where = _checks.as_mask("where", where, tokens, "one value for each token")
    own = [lax.stop_gradient(hidden)]
    if target is not None:
        target, where = token_labels(target, tokens, num_classes, ignore_index, where)
        own.append(target)
    return _LOSSES[divergence](
        input,
        linear_weight,
        *own,
        linear_bias=linear_bias,
        reduction=reduction,
        where=where,
        sample_weight=sample_weight,
        logit_softcap=logit_softcap,
        logit_scale=logit_scale,
        implementation=implementation,
        chunk_size=chunk_size,
        **scalars,
        **lax.stop_gradient(teacher),
    )


def _kind(divergence: str, beta) -> tuple[str, dict[str, Any]]:
    """Which of `_LOSSES` it is, and the shares that it mixes."""
    beta = read_divergence(divergence, beta)
    if isinstance(beta, jax.Array):
        return divergence, {"beta": beta}
    if beta in (0.0, 1.0):
        return ("reverse_kl" if beta else "forward_kl"), {}
    # The rest of a number such as 0.99 is taken before it is rounded.
    return divergence, {} if beta == 0.5 else {"beta": beta, "rest": 1 - beta}


def _token_loss(
    divergence: str,
    logits,
    teacher_input,
    labels=None,
    *,
    temperature=None,
    hard_weight=None,
    beta=None,
    rest=None,
    **teacher,
):
    """The losses [C] of logits [C, V], from the teacher's hidden states [C, E]; labels are [C]."""
    teacher = {k.removeprefix("teacher_"): a for k, a in teacher.items()}
    raw = product(teacher_input, teacher["linear_weight"], 1, 1).astype(logits.dtype)
    both = [logits, logits_of(raw, teacher)]
    if temperature is not None:
        both = [logits / temperature for logits in both]
    if hard_weight is not None:
        # 0 times the derivative of an infinite divergence would be NaN.
        both = [jnp.where(hard_weight < 1.0, logits, lax.stop_gradient(logits)) for logits in both]
    if beta is None:
        losses = DIVERGENCES[divergence](both[0], both[1], 1)
    elif rest is None:
        losses = softmax_skewed_jensen_shannon(both[0], both[1], 1, beta)
    else:
        losses = skewed_jensen_shannon(both[0], both[1], beta, rest, 1)
    if temperature is not None:
        losses = jnp.square(temperature) * losses
    if hard_weight is None:
        return losses
    hard = label_cross_entropy(logits, labels, jnp.ones(labels.shape, bool), Classes(1))
    return mix(hard_weight, losses, hard)


_LOSSES = {name: built_in(partial(_token_loss, name)) for name in DIVERGENCES}


def linear_kl_div(
    input: Float[Array, "*N D"],
    linear_weight: Float[Array, "V D"],
    teacher_input: Float[Array, "*N E"],
    teacher_linear_weight: Float[Array, "V E"],
    *,
    divergence: str = "forward_kl",
    beta: _checks.Scalar = 0.5,
    linear_bias: Float[Array, " V"] | None = None,
    teacher_linear_bias: Float[Array, " V"] | None = None,
    reduction: str = "mean",
    where: Bool[Array, "*N"] | None = None,
    sample_weight: Float[Array, "*N"] | None = None,
    logit_softcap: _checks.Scalar | None = None,
    teacher_logit_softcap: _checks.Scalar | None = None,
    logit_scale: _checks.Scalar | None = None,
    teacher_logit_scale: _checks.Scalar | None = None,
    implementation: str = "auto",
    chunk_size: int | None = None,
) -> Float[Array, "..."]:
    r"""Divergence between the distributions of two linear heads over the same classes, from hidden states.

    $$\ell_n = D\!\left(\mathrm{softmax}(V y_n), \mathrm{softmax}(W x_n)\right)$$

    `linear_distillation_loss` at temperature 1 and without labels; with "reverse_kl", the penalty for moving
    away from a reference policy.

    Args:
        input, linear_weight, linear_bias: hidden states, head and bias that are trained.
        teacher_input, teacher_linear_weight, teacher_linear_bias: those of the reference, which is a
            constant.
        divergence, beta, logit_softcap, teacher_logit_softcap, logit_scale, teacher_logit_scale,
            implementation, chunk_size: as for `linear_distillation_loss`.

    Reference: Kullback and Leibler 1951, "On Information and Sufficiency"
    (https://doi.org/10.1214/aoms/1177729694).

    >>> import jax.numpy as jnp
    >>> hidden, head = jnp.ones((2, 1), jnp.float32), jnp.zeros((2, 1), jnp.float32)
    >>> print(linear_kl_div(hidden, head, hidden, jnp.array([[2.0], [0.0]], jnp.float32)))
    0.32781333
    """
    return linear_distillation_loss(
        input,
        linear_weight,
        teacher_input,
        teacher_linear_weight,
        temperature=1.0,
        divergence=divergence,
        beta=beta,
        linear_bias=linear_bias,
        teacher_linear_bias=teacher_linear_bias,
        reduction=reduction,
        where=where,
        sample_weight=sample_weight,
        logit_softcap=logit_softcap,
        teacher_logit_softcap=teacher_logit_softcap,
        logit_scale=logit_scale,
        teacher_logit_scale=teacher_logit_scale,
        implementation=implementation,
        chunk_size=chunk_size,
    )
