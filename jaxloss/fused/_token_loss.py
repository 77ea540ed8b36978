"""A token's loss from a linear head's product: all that differs between the losses of a head.

Shapes: N tokens, or the C of a chunk, D width, V vocabulary (a device's slice of it, where devices share it).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from jaxloss._reduction import compute_dtype, select
from jaxloss.losses._elements import zero_times
from jaxloss.numerics.divergence import DIVERGENCES
from jaxloss.numerics.logsumexp import logsumexp
from jaxloss.numerics.softmax import (
    Classes,
    label_cross_entropy,
    log_softmax,
    soft_cross_entropy,
)

Arrays = dict[str, Any]

_HERE = Classes(axis=1)


@dataclass(frozen=True)
class TokenLoss:
    """A function of the product [C, V], the shared operands, and the tokens' own: losses [C], statistics.

    A subclass is a frozen dataclass whose fields, hashable and with defaults, are what a compiled program
    depends on. Numbers are operands, so that another one is no other program; a program depends on which are
    given, as on which arrays. It is called with the chunk of one head:

    - `product_CV`: `input @ linear_weight.T`, in the dtype of the computation. Bias, scale and softcap are
      the loss's own to apply, by `LogitMap`.
    - `shared`: the operands of classes [V, ...] and the scalars; `rows`: those of tokens [C, ...] and the
      mask "valid" [C]; each under its name in `Operands`, but for hidden states and head.

    One token's loss may not depend on another token. The caller masks, weighs and sums the losses. Tokens
    that are not valid have hidden states of zeros and label 0, so that their logits need no mask (on CPU, XLA
    would write a masked copy of them to memory); their other operands are as given, and what the loss makes
    of them must be finite. Statistics are a dict of floating-point arrays [C], without derivatives.

    Attributes:
        classes: where the classes lie; sums over them go through it, or a split vocabulary is summed in part.
        splits_classes: the loss can have its vocabulary split; if not, the head is gathered.
    """

    classes: Classes = _HERE
    splits_classes: ClassVar[bool] = True

    def __call__(self, product_CV: jax.Array, shared: Arrays, rows: Arrays) -> tuple[jax.Array, Arrays]:
        """Each token's loss, and its statistics."""
        raise NotImplementedError

    def mean_weight(self, sample_weight: jax.Array, shared: Arrays, rows: Arrays) -> jax.Array:
        """What each token counts for in the denominator of a mean: of all tokens and heads at once."""
        return sample_weight

    def for_mean(self, shared: Arrays, ratio: jax.Array) -> Arrays:
        """The shared operands, with the factors of terms whose mean is over `sample_weight` times `ratio`.

        That is the sum of `mean_weight`, by which the whole loss is divided, over the sum of `sample_weight`.
        """
        return shared

    def check_one_denominator(self, shared: Arrays) -> None:
        """Raise if a term of the loss has another denominator than `mean_weight`, which then differs."""


def token_losses(loss: TokenLoss, shared: Arrays, rows: Arrays) -> tuple[jax.Array, Arrays]:
    """Each token's loss, 0 for tokens that are not valid, and the statistics, with the logits whole.

    `shared` holds "linear_weight" [V, D]; `rows` holds "input" [N, D], "factor" [N], which is in the dtype of
    the computation, and "valid" [N]. Both hold whatever else the loss takes.
    """
    input_ND = select(rows["valid"][:, None], rows["input"])
    return losses_of_product(loss, product(input_ND, shared["linear_weight"], 1, 1), shared, rows)


def losses_of_product(loss: TokenLoss, product_NV: jax.Array, shared: Arrays, rows: Arrays):
    """`token_losses`, given the product."""
    shared = {k: a for k, a in shared.items() if k != "linear_weight"}
    own = {k: a for k, a in rows.items() if k not in ("input", "factor")}
    losses, statistics = loss(product_NV.astype(rows["factor"].dtype), shared, own)
    return select(rows["valid"], losses), lax.stop_gradient(statistics)


def wider(a: jax.Array, b: jax.Array) -> jnp.dtype:
    """The dtype of a product: both arrays' own, or one that holds both; at least 16 bits.

    A chunk's part of a gradient has this dtype, and would underflow in one of 8 bits.
    """
    if a.dtype != b.dtype:
        return compute_dtype(a, b)
    return a.dtype if a.dtype.itemsize > 1 else jnp.dtype(jnp.bfloat16)


def product(a: jax.Array, b: jax.Array, a_axis: int, b_axis: int) -> jax.Array:
    """The matrix product over one axis of each, summed in at least float32."""
    dtype = wider(a, b)
    dimensions = (((a_axis,), (b_axis,)), ((), ()))
    return lax.dot_general(
        a.astype(dtype), b.astype(dtype), dimensions, preferred_element_type=compute_dtype(a, b)
    )


def logits_of(product_CV: jax.Array, shared: Arrays) -> jax.Array:
    """The logits, from the product of input and weight: `cap * tanh(scale * (product + bias) / cap)`.

    `shared` may hold "linear_bias" [V], "logit_scale" [] and "logit_softcap" [].
    """
    logits = product_CV
    if "linear_bias" in shared:
        logits = logits + shared["linear_bias"].astype(logits.dtype)[None]
    if "logit_scale" in shared:
        logits = logits * shared["logit_scale"].astype(logits.dtype)
    if "logit_softcap" in shared:
        logits = shared["logit_softcap"] * jnp.tanh(logits / shared["logit_softcap"])
    return logits


@dataclass(frozen=True)
class CrossEntropy(TokenLoss):
    """Cross entropy with "labels" [C] or "probabilities" [C, V].

    `shared` may hold "class_weight" [V], "label_smoothing" [] and "z_loss" [].
    """

    with_statistics: bool = False

    def __call__(self, product_CV, shared, rows):
        """A loss for each token, and the statistics that were asked for."""
        logits = logits_of(product_CV, shared)
        if "labels" in rows:
            losses = self._label_losses(logits, shared, rows["labels"], rows["valid"])
        else:
            probabilities = select(rows["valid"][:, None], rows["probabilities"].astype(logits.dtype))
            losses = self._probability_losses(logits, shared, probabilities)
        if "z_loss" in shared:
            losses = losses + shared["z_loss"] * jnp.square(logsumexp(logits, self.classes))
        return losses, self._statistics(logits, rows) if self.with_statistics else {}

    def mean_weight(self, sample_weight, shared, rows):
        """The token's weight, times that of its label's class."""
        if "labels" not in rows or "class_weight" not in shared:
            return sample_weight
        return sample_weight * select(
            rows["valid"], self._class_weight(shared["class_weight"], rows["labels"])
        )

    def for_mean(self, shared, ratio):
        """The z-loss is a mean over the tokens, whatever their classes weigh."""
        return shared | {"z_loss": shared["z_loss"] * ratio} if "z_loss" in shared else shared

    def check_one_denominator(self, shared):
        """The z-loss has its own beside class weights."""
        if "z_loss" in shared:
            raise ValueError("reduction='parts' has one denominator, but z_loss with weight needs two.")

    def _class_weight(self, class_weight, labels):
        vector = Classes(0, self.classes.axis_name)
        return vector.pick(class_weight, labels.reshape(-1)).reshape(labels.shape)

    def _label_losses(self, logits, shared, labels, valid):
        losses = label_cross_entropy(logits, labels, jnp.ones(labels.shape, bool), self.classes)
        # Before any factor, whose gradient a token that is not valid must not reach, infinite or not.
        losses = select(valid, losses)
        if "class_weight" in shared:
            losses = self._class_weight(shared["class_weight"].astype(logits.dtype), labels) * losses
        if "label_smoothing" not in shared:
            return losses
        return _mix(shared["label_smoothing"], losses, self._uniform_losses(logits, shared))

    def _uniform_losses(self, logits, shared):
        """The cross entropy with the uniform distribution, each class with its weight."""
        nll = -log_softmax(logits, self.classes)
        if "class_weight" in shared:
            nll = zero_times(shared["class_weight"].astype(logits.dtype)[None], nll)
        return self.classes.sum(nll)[:, 0] / self.classes.count(logits)

    def _probability_losses(self, logits, shared, probabilities):
        if "label_smoothing" in shared:
            uniform = shared["label_smoothing"] / self.classes.count(logits)
            probabilities = probabilities * (1 - shared["label_smoothing"]) + uniform
        if "class_weight" in shared:
            probabilities = probabilities * shared["class_weight"].astype(logits.dtype)[None]
        return soft_cross_entropy(logits, probabilities, self.classes)

    def _statistics(self, logits, rows):
        """Log-sum-exp, whether no class beats the target's, and the entropy of the prediction."""
        if "labels" in rows:
            own = self.classes.pick(logits, rows["labels"][:, None])
        else:
            is_target = rows["probabilities"] == self.classes.max(rows["probabilities"])
            own = self.classes.max(jnp.where(is_target, logits, -jnp.inf))
        log_probs = log_softmax(logits, self.classes)
        terms = jnp.where(logits == -jnp.inf, 0.0, jnp.exp(log_probs) * log_probs)
        return {
            "logsumexp": logsumexp(logits, self.classes),
            # A number, since a derivative rule gives every result a tangent, which a boolean cannot have.
            "is_correct": (own >= self.classes.max(logits))[:, 0].astype(logits.dtype),
            "entropy": -self.classes.sum(terms)[:, 0],
        }


@dataclass(frozen=True)
class Distillation(TokenLoss):
    """A divergence from the teacher, mixed with the cross entropy with "labels" [C].

    The teacher's operands are those of a head, with "teacher_" before their names. `shared` may hold
    "temperature" [] and "hard_weight" [].
    """

    divergence: str = "forward_kl"
    splits_classes: ClassVar[bool] = False

    def __call__(self, product_CV, shared, rows):
        """A loss for each token, and no statistics."""
        student = logits_of(product_CV, shared)
        teacher_input = select(rows["valid"][:, None], rows["teacher_input"])
        teacher = product(teacher_input, shared["teacher_linear_weight"], 1, 1).astype(student.dtype)
        of_teacher = {k.removeprefix("teacher_"): a for k, a in shared.items() if k.startswith("teacher_")}
        both = [student, logits_of(teacher, of_teacher)]
        if "temperature" in shared:
            both = [logits / shared["temperature"] for logits in both]
        if "hard_weight" in shared:
            # 0 times the derivative of an infinite divergence would be NaN.
            has_share = shared["hard_weight"] < 1.0
            both = [jnp.where(has_share, logits, lax.stop_gradient(logits)) for logits in both]
        losses = DIVERGENCES[self.divergence](both[0], both[1], 1)
        if "temperature" in shared:
            losses = jnp.square(shared["temperature"]) * losses
        if "hard_weight" in shared:
            everyone = jnp.ones(rows["labels"].shape, bool)
            hard = label_cross_entropy(student, rows["labels"], everyone, self.classes)
            losses = _mix(shared["hard_weight"], losses, hard)
        return losses, {}


def _mix(share: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
    """`(1 - share) * first + share * second`; one without a share takes no part, infinite or not."""
    return zero_times(1 - share, first) + zero_times(share, second)
