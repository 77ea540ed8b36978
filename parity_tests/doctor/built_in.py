"""The library's losses as the doctor is given them, and the errors that are expected of them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxloss
from jaxloss.doctor import InputSpec


def _two_logits(rng: np.random.Generator, num: int) -> tuple[np.ndarray, ...]:
    return rng.standard_normal((num, 4)), rng.standard_normal((num, 4))


def _logps(rng: np.random.Generator, num: int) -> tuple[np.ndarray, ...]:
    return -rng.exponential(1.0, num) - 0.1, -rng.exponential(1.0, num) - 0.1


def _counts(rng: np.random.Generator, num: int) -> tuple[np.ndarray, ...]:
    return rng.standard_normal(num), rng.poisson(2.0, num).astype(np.float64)


def _probabilities(rng: np.random.Generator, num: int) -> tuple[np.ndarray, ...]:
    return rng.uniform(0.05, 0.95, num), rng.integers(0, 2, num).astype(np.float64)


def _vectors(num_vectors: int) -> Callable[[np.random.Generator, int], tuple[np.ndarray, ...]]:
    return lambda rng, num: tuple(rng.standard_normal((num_vectors, num, 3)))


TEACHER = InputSpec(_two_logits, margin="first logit of the student", name="logits of student and teacher")
# Below 0: an answer that is certain has infinite odds, and two of them have no ratio.
LOGPS = InputSpec(
    _logps, wrt=(0, 1), high=-1e-6, margin="log-probability of the chosen answer", name="log-probabilities"
)
COUNTS = InputSpec(_counts, margin="log-rate", name="log-rates and counts")
PROBABILITIES = InputSpec(
    _probabilities, low=0.0, high=1.0, margin="probability of a yes", name="probabilities"
)
PAIR_OF_VECTORS = InputSpec(_vectors(2), wrt=(0, 1), name="two vectors")
TRIPLET = InputSpec(_vectors(3), wrt=(0, 1, 2), name="anchor, positive, negative")


def _nll_of_logits(logits: jax.Array, labels: jax.Array, **options: Any) -> jax.Array:
    return jaxloss.nll_loss(jax.nn.log_softmax(logits), labels, **options)


def _of_signs(loss: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """A loss on targets of 1 and -1, called with 1 and 0."""
    return lambda logits, yes, **options: loss(logits, 2 * yes - 1, **options)


def _ranking(preferred: jax.Array, other: jax.Array, **options: Any) -> jax.Array:
    return jaxloss.margin_ranking_loss(preferred, other, jnp.ones_like(preferred), margin=1.0, **options)


def _similar(a: jax.Array, b: jax.Array, **options: Any) -> jax.Array:
    return jaxloss.cosine_embedding_loss(a, b, jnp.ones(a.shape[:-1], a.dtype), **options)


def _gaussian(x: jax.Array, y: jax.Array, **options: Any) -> jax.Array:
    return jaxloss.gaussian_nll_loss(x, y, jnp.full_like(x, 0.5), **options)


LOSSES: dict[str, tuple[Callable[..., Any], str | InputSpec]] = {
    "cross_entropy": (jaxloss.cross_entropy, "classes"),
    "cross_entropy, smoothed": (partial(jaxloss.cross_entropy, label_smoothing=0.1), "classes"),
    "nll_loss of log_softmax": (_nll_of_logits, "classes"),
    "focal_loss": (jaxloss.focal_loss, "classes"),
    "poly_loss": (jaxloss.poly_loss, "classes"),
    "multi_margin_loss": (jaxloss.multi_margin_loss, "classes"),
    "multi_margin_loss, p=2": (partial(jaxloss.multi_margin_loss, p=2), "classes"),
    "binary_cross_entropy_with_logits": (jaxloss.binary_cross_entropy_with_logits, "yes_no"),
    "sigmoid_focal_loss": (jaxloss.sigmoid_focal_loss, "yes_no"),
    "soft_margin_loss": (_of_signs(jaxloss.soft_margin_loss), "yes_no"),
    "mse_loss": (jaxloss.mse_loss, "real"),
    "l1_loss": (jaxloss.l1_loss, "real"),
    "huber_loss": (jaxloss.huber_loss, "real"),
    "smooth_l1_loss": (jaxloss.smooth_l1_loss, "real"),
    "gaussian_nll_loss": (_gaussian, "real"),
    "correlation_loss": (jaxloss.correlation_loss, "real"),
    "bradley_terry_loss": (jaxloss.bradley_terry_loss, "pairs"),
    "margin_ranking_loss": (_ranking, "pairs"),
    "cpo_loss": (jaxloss.cpo_loss, LOGPS),
    "simpo_loss": (jaxloss.simpo_loss, LOGPS),
    "orpo_loss": (jaxloss.orpo_loss, LOGPS),
    "poisson_nll_loss": (jaxloss.poisson_nll_loss, COUNTS),
    "binary_cross_entropy": (jaxloss.binary_cross_entropy, PROBABILITIES),
    "forward_kl_div": (jaxloss.forward_kl_div, TEACHER),
    "reverse_kl_div": (jaxloss.reverse_kl_div, TEACHER),
    "jensen_shannon_div": (jaxloss.jensen_shannon_div, TEACHER),
    "total_variation_div": (jaxloss.total_variation_div, TEACHER),
    "cosine_embedding_loss": (_similar, PAIR_OF_VECTORS),
    "triplet_margin_loss": (jaxloss.triplet_margin_loss, TRIPLET),
}
"""Name -> the loss and its kind."""

EXPECTED = {
    ("multi_margin_loss", "meaning"): (
        "hinges between pairs of classes tie the two likeliest where neither has more than a half: Tewari "
        "and Bartlett 2007, On the Consistency of Multiclass Classification Methods"
    ),
    ("sigmoid_focal_loss", "meaning"): (
        "its alpha, 0.25 by default, weighs a yes a third of a no, which moves the threshold, as is meant"
    ),
}
"""(name of the loss, check) -> why its error is what the loss is meant to do."""
