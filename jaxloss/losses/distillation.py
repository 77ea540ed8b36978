"""Training a student on a teacher's logits."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxloss import _checks
from jaxloss._checks import Scalar, in_dtype, is_number
from jaxloss._reduction import compute_dtype, select
from jaxloss.losses import _rows
from jaxloss.losses._elements import zero_times
from jaxloss.numerics.divergence import DIVERGENCES
from jaxloss.numerics.softmax import Classes, label_cross_entropy

__all__ = ["distillation_loss"]


def distillation_loss(
    input: Float[Array, "..."],
    teacher_input: Float[Array, "..."],
    target: Int[Array, "..."] | None = None,
    *,
    temperature: Scalar = 2.0,
    hard_weight: Scalar = 0.0,
    divergence: str = "forward_kl",
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

    Reference: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2
    (https://arxiv.org/abs/1503.02531), whose cross entropy with soft targets differs from the forward
    divergence by the teacher's entropy, a constant; Gu et al. 2024 (https://arxiv.org/abs/2306.08543) for the
    reverse one.

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
    _checks.check_choice("divergence", divergence, tuple(DIVERGENCES))
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
        soft = DIVERGENCES[divergence](soft_student, soft_teacher, class_axis)
        loss += zero_times(1 - hard_weight, soft) * temperature**2
    if not is_number(hard_weight, 0.0):
        hard = label_cross_entropy(student, rows.labels, rows.valid, Classes(class_axis))
        loss += zero_times(hard_weight, hard)
    return _rows.reduce_weighted(loss, reduction, where, sample_weight)
