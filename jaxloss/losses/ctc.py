"""Connectionist temporal classification.

Shapes: T time, N sequences, C classes, S labels of a sequence, L = 2 S + 1 states: the labels with blanks
    between.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxloss import _checks
from jaxloss._checked import check_labels
from jaxloss._mesh import whole_along, zeros_like_all
from jaxloss._reduction import REDUCTIONS, compute_dtype, reduce_loss, select
from jaxloss.losses._rows import lie_along
from jaxloss.numerics.logsumexp import logsumexp
from jaxloss.numerics.softmax import Classes

__all__ = ["ctc_loss"]


def ctc_loss(
    log_probs: Float[Array, "T *N C"],
    targets: Int[Array, "..."],
    input_lengths: Int[Array, "*N"] | tuple[int, ...],
    target_lengths: Int[Array, "*N"] | tuple[int, ...],
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
    *,
    where: Bool[Array, "*N"] | None = None,
) -> Float[Array, "..."]:
    r"""Negative log-likelihood of a label sequence, summed over all its alignments to the frames.

    $$\ell_n = -\log \sum_{\pi \in B^{-1}(y_n)} \prod_{t=1}^{T_n} p_{nt}(\pi_t)$$

    where $B$ merges repeated symbols of an alignment $\pi$ and then removes the blanks.

    Args:
        log_probs: log-probabilities $\log p$ of each frame; one sequence may leave out the axis N.
        targets: labels $y$ in `[0, C)` without the blank: `[N, S]`, padded with anything, or all labels of
            all sequences in one row.
        input_lengths: the number of frames of each sequence, at most T.
        target_lengths: the number of labels of each sequence.
        blank: the class of the blank.
        reduction: "mean" divides each loss by its number of labels, at least 1, before it averages.
        zero_infinity: a sequence with fewer frames than its labels need costs 0, not infinity.

    Differs from torch: the gradient is the true derivative with respect to `log_probs`. Torch adds
    `exp(log_probs)`, which makes no difference below a log-softmax. Where the loss is infinite the gradient
    is 0, not NaN. Labels or lengths out of range give NaN, under `jit` and without.

    Reference: Graves et al. 2006, "Connectionist Temporal Classification", equations 3, 6 and 8
    (https://www.cs.toronto.edu/~graves/icml_2006.pdf).

    >>> import jax.numpy as jnp
    >>> frames = jnp.log(jnp.full((3, 1, 2), 0.5, jnp.float32))
    >>> print(ctc_loss(frames, jnp.array([[1]]), (3,), (1,)).round(4))  # 6 of 8 alignments: -ln(6/8)
    0.2877
    """
    log_probs = _checks.as_floats("log_probs", log_probs)
    if log_probs.ndim not in (2, 3):
        raise ValueError(f"log_probs must have shape [T, N, C] or [T, C]; got {_checks.describe(log_probs)}.")
    _checks.check_choice("reduction", reduction, REDUCTIONS)
    _checks.check_flag("zero_infinity", zero_infinity)
    batch = log_probs.shape[1:-1]
    where = _checks.as_mask("where", where, batch, "one value for each sequence")
    # Each step of the loop below reads one frame, and of it the scores of any class.
    x_TNC = whole_along(log_probs if batch else log_probs[:, None], 0, -1)
    num_sequences, num_classes = x_TNC.shape[1:]
    blank = _checks.check_integer("blank", blank)
    if not 0 <= blank < num_classes:
        raise ValueError(f"blank must be in [0, {num_classes}), a class of log_probs; got {blank}.")
    frames_N = _lengths("input_lengths", input_lengths, num_sequences)
    labels_N = _lengths("target_lengths", target_lengths, num_sequences)
    valid_N = None if where is None else where.reshape(num_sequences)
    frames_N, labels_N, valid_N = lie_along(x_TNC, (0, -1), frames_N, labels_N, valid_N)
    y_NS, is_split = _padded(targets, labels_N, valid_N, num_sequences, batched=bool(batch))
    (y_NS,) = lie_along(x_TNC, (0, -1), y_NS)
    x_TNC = select(valid_N, x_TNC.astype(compute_dtype(log_probs)), axis=-1)

    num_frames, longest = x_TNC.shape[0], y_NS.shape[1]
    is_label = jnp.arange(longest, dtype=labels_N.dtype)[None] < labels_N[:, None]
    is_valid = is_label if valid_N is None else is_label & valid_N[:, None]
    check_labels("input_lengths", frames_N, valid_N, num_frames + 1, what="lengths")
    check_labels("target_lengths", labels_N, valid_N, longest + 1, what="lengths")
    check_labels("targets", y_NS, is_valid, num_classes)
    good_N = is_split & (frames_N >= 0) & (frames_N <= num_frames)
    good_N &= (labels_N >= 0) & (labels_N <= longest)
    good_N &= jnp.all(~is_label | ((y_NS >= 0) & (y_NS < num_classes)), 1)
    labels_N = jnp.clip(labels_N, 0, longest)
    y_NS = jnp.where(is_label, jnp.clip(y_NS, 0, num_classes - 1), blank)
    loss_N = -_log_likelihood(x_TNC, y_NS, frames_N, labels_N, blank)
    if zero_infinity:
        loss_N = jnp.where(loss_N == jnp.inf, 0.0, loss_N)
    if reduction in ("mean", "parts"):
        loss_N = loss_N / jnp.maximum(labels_N, 1).astype(loss_N.dtype)
    # A product, so that NaN reaches the gradient as well.
    good_N = good_N if valid_N is None else good_N | ~valid_N
    loss_N = loss_N * jnp.where(good_N, 1.0, jnp.nan).astype(loss_N.dtype)
    return reduce_loss(loss_N.reshape(batch), reduction, where)


@partial(jax.jit, static_argnums=4)
def _log_likelihood(x_TNC, y_NS, frames_N, labels_N, blank: int) -> jax.Array:
    """The forward recursion in logarithms; sequences that have run out of frames keep their state.

    Rounding a logarithm of -150 errs by 150 eps, in every frame anew, and so does its gradient. So each
    logarithm is held as a whole number and a rest near 0, and only the rest is rounded.
    """
    num_sequences, num_labels = y_NS.shape
    pairs_NS2 = jnp.stack([jnp.full_like(y_NS, blank), y_NS], -1)
    states_NL = jnp.pad(
        pairs_NS2.reshape(num_sequences, 2 * num_labels), ((0, 0), (0, 1)), constant_values=blank
    )
    shifted = jnp.pad(states_NL, ((0, 0), (2, 0)), constant_values=blank)[:, :-2]
    # A label may follow another without a blank in between, unless the two are the same.
    may_skip = states_NL != shifted

    def step(alpha, frame):
        time, x_NC = frame
        from_one, from_two = ([_shift(part_NL, count) for part_NL in alpha] for count in (1, 2))
        from_two[1] = jnp.where(may_skip, from_two[1], -jnp.inf)
        whole_NL, rest_NL = _log_sum(alpha, from_one, from_two)
        x_whole_NL, x_rest_NL = _split(jnp.take_along_axis(x_NC, states_NL, 1, mode="promise_in_bounds"))
        more_NL, rest_NL = _split(rest_NL + x_rest_NL)
        emitted = (whole_NL + x_whole_NL + more_NL, rest_NL)
        is_running = (time < frames_N)[:, None]
        return tuple(jnp.where(is_running, new, old) for new, old in zip(emitted, alpha, strict=True)), None

    no_frame_N1 = jnp.sum(x_TNC[:0], (0, 2))[:, None]
    zero_NL = zeros_like_all(x_TNC.dtype, no_frame_N1, frames_N[:, None], states_NL)
    start = (zero_NL, jnp.where(jnp.arange(states_NL.shape[1])[None] == 0, zero_NL, -jnp.inf))
    alpha, _ = lax.scan(step, start, (jnp.arange(x_TNC.shape[0], dtype=frames_N.dtype), x_TNC))
    last_blank, last_label = (
        [jnp.take_along_axis(part_NL, state_N[:, None], 1)[:, 0] for part_NL in alpha]
        for state_N in (2 * labels_N, jnp.maximum(2 * labels_N - 1, 0))
    )
    last_label[1] = jnp.where(labels_N > 0, last_label[1], -jnp.inf)
    whole_N, rest_N = _log_sum(last_blank, last_label)
    return whole_N + rest_N


def _shift(array_NL: jax.Array, count: int) -> jax.Array:
    """Each state's value from `count` states before; -inf where there is none."""
    return jnp.pad(array_NL, ((0, 0), (count, 0)), constant_values=-jnp.inf)[:, :-count]


def _split(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A whole number, which has no gradient, and the rest: exact, with all that is not finite in the rest."""
    whole = lax.stop_gradient(jnp.where(jnp.isfinite(x), jnp.round(x), 0.0))
    return whole, x - whole


def _log_sum(*terms) -> tuple[jax.Array, jax.Array]:
    """`log(sum(exp(terms)))` of logarithms in two parts, with a gradient of 0 where all are -inf."""
    whole, rest = (jnp.stack(part) for part in zip(*terms, strict=True))
    peak = lax.stop_gradient(jnp.max(jnp.where(rest == -jnp.inf, -jnp.inf, whole), 0, keepdims=True))
    nothing = peak == -jnp.inf
    shifted = jnp.where(nothing, 0.0, rest + jnp.where(nothing, 0.0, whole - peak))
    log_sum = jnp.where(nothing[0], -jnp.inf, logsumexp(shifted, Classes(0)))
    return jnp.where(nothing, 0.0, peak)[0], log_sum


def _lengths(name: str, value, num_sequences: int) -> jax.Array:
    array = _checks.as_labels(name, np.asarray(value) if isinstance(value, (tuple, list)) else value)
    if array.size != num_sequences or array.ndim > 1:
        raise ValueError(
            f"{name} must hold one length for each of {num_sequences} sequences; got "
            f"{_checks.describe(array)}."
        )
    return array.reshape(num_sequences)


def _padded(targets, lengths_N: jax.Array, valid_N, num_sequences: int, *, batched: bool):
    """Targets as `[N, S]`, from that or from all sequences' labels in one row, and whether the lengths fit.

    If the lengths do not sum to the row's length, nothing is known about where a sequence begins: an error if
    they are concrete, NaN if traced.
    """
    labels = _checks.as_labels("targets", targets)
    if labels.ndim == 2 and labels.shape[0] == num_sequences:
        return labels, True
    if labels.ndim != 1:
        raise ValueError(
            f"targets must have shape [{num_sequences}, S], or hold all labels in one row; got "
            f"{_checks.describe(labels)}."
        )
    labels = whole_along(labels, 0)
    if not batched:
        return labels[None], True
    if isinstance(lengths_N, jax.core.Tracer):
        longest = labels.size
    else:
        lengths = np.asarray(lengths_N)
        longest = int(lengths.max(initial=0))
        if math.fsum(lengths) != labels.size:
            raise ValueError(
                f"targets must hold the sum of target_lengths, {int(lengths.sum())} labels; got "
                f"{_checks.describe(labels)}."
            )
    possible_N = jnp.clip(lengths_N, 0, labels.size)
    is_split = jnp.all(possible_N == lengths_N) & (jnp.sum(possible_N) == labels.size)
    # Not cumsum, which does not take an array that is split over a mesh.
    starts_N = jnp.sum(jnp.where(np.tri(num_sequences, k=-1, dtype=bool), possible_N[None], 0), 1)
    ends_N = starts_N + lengths_N.astype(starts_N.dtype)
    check_labels("cumsum(target_lengths)", ends_N, valid_N, labels.size + 1, what="lengths")
    index = jnp.clip(
        starts_N[:, None] + jnp.arange(longest, dtype=starts_N.dtype)[None], 0, max(labels.size - 1, 0)
    )
    return labels[index] if labels.size else jnp.zeros((num_sequences, 0), labels.dtype), is_split
