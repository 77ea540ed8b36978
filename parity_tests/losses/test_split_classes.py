"""Softmax arithmetic over classes that are split over devices: what it is over whole ones."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxloss.numerics.logsumexp import logsumexp
from jaxloss.numerics.softmax import Classes, label_cross_entropy, log_softmax, soft_cross_entropy, softmax
from parity_tests.compare import assert_same, assert_within
from parity_tests.quick_compilation import jit
from parity_tests.tolerances import GRADIENT_EPS_OF_MAX, VALUE_EPS_OF_MAX

rng = np.random.default_rng(0)
LOGITS, PROBABILITIES = rng.standard_normal((4, 6)), rng.dirichlet(np.ones(6), 4)
# A class that is impossible, on the other device than the peak; peaks on both; a row that is sure.
LOGITS[0, [1, 4]], PROBABILITIES[0, 1] = (-np.inf, 2.0), 0.0
LOGITS[1, [2, 3]] = 3.0
LOGITS[2, 5] = 40.0
LABELS = np.array([0, 3, 5, 2])
VALID = np.ones(4, bool)


def _losses(classes, logits, probabilities, labels):
    return [
        label_cross_entropy(logits, labels, jnp.asarray(VALID), classes),
        soft_cross_entropy(logits, probabilities, classes),
        logsumexp(logits, classes),
        jnp.squeeze(classes.sum(jnp.square(softmax(logits, classes))), 1),
        jnp.squeeze(classes.sum(probabilities * jnp.exp(log_softmax(logits, classes))), 1),
    ]


def _everything(classes, logits, probabilities, direction):
    """Every loss; and in a direction that differs by class, what it and its gradient change by."""

    def gradients(z):
        return jax.jacrev(lambda z: [jnp.sum(loss) for loss in _losses(classes, z, probabilities, LABELS)])(z)

    return _losses(classes, logits, probabilities, LABELS), *jax.jvp(gradients, (logits,), (direction,))


def _split(function, out_specs):
    mesh = jax.make_mesh((2,), ("model",), axis_types=(AxisType.Auto,))
    specs = P(None, "model")
    return jax.shard_map(
        partial(function, Classes(1, "model")), mesh=mesh, in_specs=specs, out_specs=out_specs
    )


def test_values_and_derivatives_are_those_of_whole_classes():
    arrays = [jnp.asarray(a) for a in (LOGITS, PROBABILITIES, rng.standard_normal((4, 6)))]
    over = P(None, "model")
    actual = jit(_split(_everything, (P(), over, over)))(*arrays)
    expected = jit(partial(_everything, Classes(1)))(*arrays)
    for found, wanted in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert jnp.isfinite(wanted).all()
        assert_within(found, wanted, VALUE_EPS_OF_MAX if wanted.ndim == 1 else GRADIENT_EPS_OF_MAX)


def test_a_label_that_is_no_class_is_nan_on_every_device():
    def own(classes, logits):
        return classes.pick(logits, jnp.array([[0], [5], [-1], [6]]))[:, 0]

    for found in (own(Classes(1), jnp.asarray(LOGITS)), _split(own, P())(jnp.asarray(LOGITS))):
        assert_same(found, [LOGITS[0, 0], LOGITS[1, 5], np.nan, np.nan])
