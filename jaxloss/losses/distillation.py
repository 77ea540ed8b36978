"""Training a student on a teacher's logits, or on what was kept of them."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxloss import _checks
from jaxloss._checked import check_labels
from jaxloss._checks import Scalar, in_dtype, is_number
from jaxloss._mesh import are_among, indices_along, take_along
from jaxloss._reduction import compute_dtype, select
from jaxloss.losses import _rows
from jaxloss.losses._elements import read_divergence, zero_times
from jaxloss.losses._log_probs import only_log_probabilities
from jaxloss.numerics.divergence import DIVERGENCES, softmax_skewed_jensen_shannon
from jaxloss.numerics.logsumexp import logsumexp
from jaxloss.numerics.softmax import Classes, label_cross_entropy

__all__ = ["distillation_loss", "top_k_distillation_loss"]

_TAILS = ("bin", "drop", "renormalise")


def distillation_loss(
    input: Float[Array, "..."],
    teacher_input: Float[Array, "..."],
    target: Int[Array, "..."] | None = None,
    *,
    temperature: Scalar = 2.0,
    hard_weight: Scalar = 0.0,
    divergence: str = "forward_kl",
    beta: Scalar = 0.5,
    ignore_index: int = -100,
    reduction: str = "mean",
    where: Bool[Array, "..."] | None = None,
    sample_weight: Float[Array, "..."] | None = None,
    axis: int = -1,
) -> Float[Array, "..."]:
    r"""Pull a student's distribution towards its teacher's, both softened, and towards labels.

    $$\ell_n = (1 - \lambda)\, T^2\, D\!\left(\mathrm{softmax}(y_n / T), \mathrm{softmax}(x_n / T)\right)
    - \lambda \log \mathrm{softmax}(x_n)_{t_n}$$

    Gradients of the softened term shrink as $1 / T^2$; the factor $T^2$ keeps the mix the same at every
    temperature. The teacher is a constant: it gets no gradient, even where it shares parameters with the
    student.

    Args:
        input: the student's logits $x$, classes along `axis`.
        teacher_input: the teacher's logits $y$, of the same shape.
        target: true labels $t$ in `[0, C)`, of the shape of `input` without `axis`. Rows with `ignore_index`
            take no part in either term, so that a padded batch needs no mask.
        temperature: $T > 0$.
        hard_weight: $\lambda$ in [0, 1], the share of the labels' cross entropy; above 0 it needs `target`.
        divergence: $D$: "forward_kl", $\mathrm{KL}(p \| q)$, which covers all that the teacher does;
            "reverse_kl", $\mathrm{KL}(q \| p)$, which keeps to what it does most; "jensen_shannon"; or
            "total_variation".
        beta: $\beta$ of the generalised Jensen-Shannon divergence, as in `jensen_shannon_div`; only with it.

    Reference: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2
    (https://arxiv.org/abs/1503.02531), whose cross entropy with soft targets differs from the forward
    divergence by the teacher's entropy, a constant; Gu et al. 2024 (https://arxiv.org/abs/2306.08543) for the
    reverse one; Agarwal et al. 2024 (https://arxiv.org/abs/2306.13649), equation 1, for `beta`.

    >>> import jax.numpy as jnp
    >>> student, teacher = jnp.zeros((1, 2), jnp.float32), jnp.array([[2.0, 0.0]], jnp.float32)
    >>> print(distillation_loss(student, teacher, temperature=1.0))
    0.32781333
    """
    student, teacher = _checks.as_floats("input", input), _checks.as_floats("teacher_input", teacher_input)
    _checks.check_shape("teacher_input", teacher, student.shape, "that of input")
    teacher = lax.stop_gradient(teacher)
    temperature = _checks.as_scalar("temperature", temperature, low=0.0, open_low=True)
    hard_weight = _checks.as_scalar("hard_weight", hard_weight, low=0.0, high=1.0)
    beta = read_divergence(divergence, beta)
    class_axis, where, sample_weight = _rows.check_rows(student, reduction, where, sample_weight, axis)
    _rows.check_classes(student, class_axis)
    if target is None and not is_number(hard_weight, 0.0):
        raise ValueError("target must hold labels when hard_weight is above 0, or an array; got None.")
    dtype = compute_dtype(student, teacher, sample_weight)
    temperature, hard_weight = in_dtype(temperature, dtype), in_dtype(hard_weight, dtype)
    student = student.astype(dtype)
    if target is not None:
        rows = _rows.label_rows(student, target, None, ignore_index, where, sample_weight, axis)
        where, sample_weight = rows.valid, rows.weight

    loss = jnp.zeros((), dtype)
    # A term of weight 0 is left out, since it may be infinite, with a gradient of 0 * NaN.
    if not is_number(hard_weight, 1.0):
        soft_student = select(where, student, axis=class_axis) / temperature
        soft_teacher = select(where, teacher.astype(dtype), axis=class_axis) / temperature
        if is_number(beta, 0.5):
            soft = DIVERGENCES[divergence](soft_student, soft_teacher, class_axis)
        else:
            soft = softmax_skewed_jensen_shannon(
                soft_student, soft_teacher, class_axis, in_dtype(beta, dtype)
            )
        loss += zero_times(1 - hard_weight, soft) * temperature**2
    if not is_number(hard_weight, 0.0):
        hard = label_cross_entropy(student, rows.labels, rows.valid, Classes(class_axis))
        loss += zero_times(hard_weight, hard)
    return _rows.reduce_weighted(loss, reduction, where, sample_weight)


def top_k_distillation_loss(
    input: Float[Array, "*B V"],
    teacher_top_logps: Float[Array, "*B K"],
    teacher_top_ids: Int[Array, "*B K"],
    *,
    tail: str = "bin",
    divergence: str = "forward_kl",
    reduction: str = "mean",
    where: Bool[Array, "*B"] | None = None,
    sample_weight: Float[Array, "*B"] | None = None,
) -> Float[Array, "..."]:
    r"""Pull a student towards the most probable classes of a teacher, which are all that was kept of it.

    $$\ell_n = D\!\left(\tilde p_n, \tilde q_n\right), \qquad q_n = \mathrm{softmax}(x_n)$$

    With $p_1, \dots, p_K$ the teacher's probabilities and $q_1, \dots, q_K$ the student's of the same
    classes, $\tilde p$ and $\tilde q$ are, by `tail`:

    - "bin": these, and all other classes as one more, $1 - \sum_k p_k$ and $1 - \sum_k q_k$.
    - "renormalise": these, each divided by its sum: the others play no part.
    - "drop": these alone, $\sum_k p_k \log (p_k / q_k)$, which may be negative; for "forward_kl" only. Its
      gradient is that of the cross entropy: the student's other classes are to have the rest.

    With K = V they are all the loss of whole distributions. The teacher is a constant.

    Args:
        input: the student's logits $x$, classes along the last axis.
        teacher_top_logps: $\log p_k$ under the whole softmax, in any order; $-\infty$ fills rows up. For
            temperature T, they are taken at T, the logits divided by T, and the loss times T squared.
        teacher_top_ids: the classes in `[0, V)` that they belong to, different ones in each row.
        tail: "bin", "renormalise" or "drop".
        divergence: $D$, as for `distillation_loss`.

    Reference: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network"
    (https://arxiv.org/abs/1503.02531), for the whole; TRL's `loss_add_tail` is "bin", and without it
    "renormalise".

    >>> import jax.numpy as jnp
    >>> student, teacher = jnp.zeros((1, 4), jnp.float32), jnp.log(jnp.array([[0.5, 0.25]], jnp.float32))
    >>> ids = jnp.array([[2, 0]])
    >>> for tail in ("bin", "renormalise", "drop"):
    ...     print(tail, top_k_distillation_loss(student, teacher, ids, tail=tail).round(4))
    bin 0.1733
    renormalise 0.0566
    drop 0.3466
    """
    student, logps = (
        _checks.as_floats("input", input),
        _checks.as_floats("teacher_top_logps", teacher_top_logps),
    )
    ids = _checks.as_labels("teacher_top_ids", teacher_top_ids)
    if student.ndim == 0 or logps.ndim != student.ndim or logps.shape[:-1] != student.shape[:-1]:
        raise ValueError(
            f"teacher_top_logps must have shape {[*student.shape[:-1], 'K']}, K classes for each row of "
            f"input; got {_checks.describe(logps)}."
        )
    num_classes, num_kept = student.shape[-1], logps.shape[-1]
    if not 0 < num_kept <= num_classes:
        raise ValueError(f"teacher_top_logps must hold 1 to {num_classes} classes a row; got {num_kept}.")
    _checks.check_shape("teacher_top_ids", ids, logps.shape, "that of teacher_top_logps")
    _checks.check_choice("tail", tail, _TAILS)
    _checks.check_choice("divergence", divergence, tuple(DIVERGENCES))
    if tail == "drop" and divergence != "forward_kl":
        raise ValueError(f"divergence must be 'forward_kl' with tail='drop'; got {divergence!r}.")
    _, where, sample_weight = _rows.check_rows(student, reduction, where, sample_weight, -1)
    dtype = compute_dtype(student, logps, sample_weight)
    logps, ids = _rows.lie_along(student, -1, lax.stop_gradient(logps).astype(dtype), ids)
    student, logps = (select(where, array, axis=-1) for array in (student.astype(dtype), logps))
    given = logps > -jnp.inf
    counts = given if where is None else given & where[..., None]
    check_labels("teacher_top_ids", teacher_top_ids, counts, num_classes)
    logps = only_log_probabilities("teacher_top_logps", logps)
    in_range = (ids >= 0) & (ids < num_classes)
    # A product, so that the NaN of a class out of range reaches the gradient as well.
    poison = jnp.where(jnp.any(counts & ~in_range, -1, keepdims=True), jnp.nan, 1.0).astype(dtype)
    loss = _of_kept(student * poison, logps, jnp.where(in_range, ids, 0), given, tail, divergence)
    return _rows.reduce_weighted(loss, reduction, where, sample_weight)


# Jitted for JAX's debug_infs too, which looks at every step outside `jit`.
@partial(jax.jit, static_argnums=(4, 5))
def _of_kept(student, logps, ids, given, tail: str, divergence: str) -> jax.Array:
    if tail == "drop":
        own = take_along(student, ids, -1) - logsumexp(student, Classes(-1))[..., None]
        terms = zero_times(jnp.exp(logps), jnp.where(given, logps, 0.0) - jnp.where(given, own, 0.0))
        return jnp.sum(terms, -1)
    # Logits for the classes kept, of which those not given have no share in either distribution.
    kept = jnp.where(given, take_along(student, ids, -1), -jnp.inf)
    if tail == "bin" and logps.shape[-1] < student.shape[-1]:
        others, mass = _others(student, ids, given), _mass_left(logps)
        # Where the student has no other class, a mass that rounding may have left is none.
        is_none = (others == -jnp.inf) & (mass < logps.shape[-1] * jnp.finfo(mass.dtype).eps)
        kept = jnp.concatenate([kept, others], -1)
        logps = jnp.concatenate([logps, jnp.where(is_none, -jnp.inf, jnp.log(mass))], -1)
    return DIVERGENCES[divergence](kept, logps, -1)


def _others(student, ids, given) -> jax.Array:
    """The log-sum-exp of the student's logits that are not among those given."""
    # An id that is not given stands for none, so it is replaced by the first, which is.
    first = take_along(ids, jnp.argmax(given, -1, keepdims=True), -1)
    is_other = ~are_among(student, jnp.where(given, ids, first)) & (student > -jnp.inf)
    has_any = jnp.any(is_other, -1, keepdims=True)
    total = logsumexp(jnp.where(is_other | ~has_any, student, -jnp.inf), Classes(-1))
    return jnp.where(has_any, total[..., None], -jnp.inf)


def _mass_left(logps) -> jax.Array:
    """`1 - sum(exp(logps))`, at least what its rounding leaves open."""
    largest = jnp.max(logps, -1, keepdims=True)
    is_largest = indices_along(logps, -1, jnp.int32) == jnp.argmax(logps, -1, keepdims=True).astype(jnp.int32)
    without = -jnp.expm1(largest)
    mass = without - jnp.sum(jnp.where(is_largest, 0.0, jnp.exp(logps)), -1, keepdims=True)
    info = jnp.finfo(logps.dtype)
    return jnp.maximum(mass, jnp.maximum(info.eps * without, info.tiny))
