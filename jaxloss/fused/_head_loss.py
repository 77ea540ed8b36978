"""Cross entropy of each token from a linear head's product: what `_chunked` evaluates, with every option.

Shapes: C tokens, D width, V vocabulary (this device's slice of it, where devices share it).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxloss._reduction import select
from jaxloss.fused import _vocabulary


@dataclass(frozen=True)
class LogitMap:
    """The logits, from the product of input and weight: `cap * tanh(scale * (product + bias) / cap)`."""

    softcap: float | None = None

    def __call__(self, product_CV: jax.Array, shared: dict[str, jax.Array]) -> jax.Array:
        """The logits; `shared` may hold "bias" [V] and "logit_scale" []."""
        logits = product_CV
        if "bias" in shared:
            logits = logits + shared["bias"].astype(logits.dtype)
        if "logit_scale" in shared:
            logits = logits * shared["logit_scale"].astype(logits.dtype)
        if self.softcap is not None:
            logits = self.softcap * jnp.tanh(logits / self.softcap)
        return logits


@dataclass(frozen=True)
class HeadCrossEntropy:
    """Each token's cross entropy with its label, or with class probabilities.

    `rows` holds "labels" [C], or "kept" [C] and "probabilities" [C, V]; `shared` may hold "class_weight" [V].
    Tokens that are not kept have had their input replaced by zeros, so their logits need no mask: on CPU, XLA
    would write a masked copy of them to memory. With `axis_name`, devices along that mesh axis share the
    vocabulary.
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0
    logit_map: LogitMap = LogitMap()
    with_statistics: bool = False
    axis_name: str | None = None

    def __call__(self, product_CV, shared, rows):
        """A loss for each token, and the statistics that were asked for."""
        logits = self.logit_map(product_CV.astype(rows["scale"].dtype), shared)
        class_weight = shared.get("class_weight")
        if "labels" in rows:
            losses = self._label_losses(logits, class_weight, rows["labels"])
        else:
            probabilities = select(rows["kept"][:, None], rows["probabilities"].astype(logits.dtype))
            losses = self._probability_losses(logits, class_weight, probabilities)
        if self.z_loss:
            losses = losses + self.z_loss * jnp.square(_vocabulary.logsumexp(logits, self.axis_name))
        return losses, self._statistics(logits, rows) if self.with_statistics else {}

    def _label_losses(self, logits, class_weight, labels):
        losses = _vocabulary.label_cross_entropy(logits, labels, self.axis_name)
        if class_weight is not None:
            losses = _vocabulary.pick(class_weight.astype(logits.dtype), labels, self.axis_name) * losses
        if self.label_smoothing == 0.0:
            return losses
        spread = self._spread(logits, class_weight)
        # At 1 the label itself has no share; a product would turn an infinite loss into NaN.
        own = (
            (1 - self.label_smoothing) * losses
            if self.label_smoothing < 1.0
            else jnp.where(losses == losses, 0, losses)
        )
        return own + self.label_smoothing * spread

    def _spread(self, logits, class_weight):
        """The cross entropy with the uniform distribution, each class with its weight."""
        surprise = _vocabulary.logsumexp(logits, self.axis_name)[:, None] - logits
        if class_weight is not None:
            weight = class_weight.astype(logits.dtype)
            surprise = jnp.where(weight == 0.0, 0.0, surprise) * weight
        return _vocabulary.total(surprise, self.axis_name) / _vocabulary.num_classes(logits, self.axis_name)

    def _probability_losses(self, logits, class_weight, probabilities):
        if self.label_smoothing > 0.0:
            uniform = self.label_smoothing / _vocabulary.num_classes(logits, self.axis_name)
            probabilities = probabilities * (1 - self.label_smoothing) + uniform
        if class_weight is not None:
            probabilities = probabilities * class_weight.astype(logits.dtype)
        return _vocabulary.soft_cross_entropy(logits, probabilities, self.axis_name)

    def _statistics(self, logits, rows):
        """Log-sum-exp, whether no class beats the target's, and the entropy of the prediction."""
        logsumexp = _vocabulary.logsumexp(logits, self.axis_name)
        if "labels" in rows:
            own = _vocabulary.pick(logits, rows["labels"], self.axis_name)
        else:
            target = rows["probabilities"]
            is_target = target == _vocabulary.largest(target, self.axis_name)[:, None]
            own = _vocabulary.largest(jnp.where(is_target, logits, -jnp.inf), self.axis_name)
        log_probs = _vocabulary.log_softmax(logits, self.axis_name)
        terms = jnp.where(logits == -jnp.inf, 0.0, jnp.exp(log_probs) * log_probs)
        return {
            "logsumexp": logsumexp,
            # A number, since a derivative rule gives every result a tangent, which a boolean cannot have.
            "is_correct": (own >= _vocabulary.largest(logits, self.axis_name)).astype(logits.dtype),
            "entropy": -_vocabulary.total(terms, self.axis_name),
        }
