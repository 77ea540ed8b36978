"""The calibration error, by its definition."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxloss.runs.calibration import NUM_BINS, calibration_error


def test_calibration_error_is_the_mean_gap_over_the_bins():
    rng = np.random.default_rng(0)
    confidence, is_right = rng.uniform(0, 1, 500), rng.uniform(0, 1, 500) < 0.6
    bins = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    expected = sum(
        (bins == b).mean() * abs(confidence[bins == b].mean() - is_right[bins == b].mean())
        for b in np.unique(bins)
    )
    assert calibration_error(jnp.asarray(confidence), jnp.asarray(is_right)) == pytest.approx(
        expected, rel=1e-12
    )


def test_a_confidence_of_1_belongs_to_the_last_bin():
    assert calibration_error(jnp.ones(3), jnp.ones(3, bool)) == 0
