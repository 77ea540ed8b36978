"""With the dropout masks of a JAX key in both frameworks, JAX is as near to the truth as PyTorch is.

For both objectives: logits, loss and the gradient of every parameter.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import torch_ref.model5 as torch_side
from parity_tests.compare import error_in_eps, to_numpy
from parity_tests.model5.pairs import (
    OBJECTIVES,
    TINY,
    assert_results_agree,
    jax_params,
    jax_results,
    set_masks,
    shared_masks,
    torch_results,
    weights,
)

# The relative L2 distance of all gradients together from the truth, and how many times torch's own it may be.
LARGEST_L2 = {"float32": (3e-6, 3.0), "bfloat16": (3e-2, 1.5)}

# And of each array; measured at most 1.7. Half an eps is what rounding a perfect result costs.
TIMES_TORCH_ERROR, LEAST_EPS = 3.0, 0.5


@cache
def rounded_weights(dtype):
    return {name: np.asarray(array.astype(jnp.dtype(dtype)), np.float64) for name, array in weights().items()}


def jax_side_results(dtype, objective):
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), jax_params("float64", rounded_weights(dtype)))
    return jax_results(params, shared_masks(), objective=objective)


def torch_side_results(dtype, objective, computed_in=None):
    """Torch's results; `computed_in` float64 they are the truth for weights of `dtype`."""
    model = torch_side.from_arrays(rounded_weights(dtype), TINY).train()
    set_masks(model, shared_masks())
    return torch_results(model.to(getattr(torch, computed_in or dtype)), objective=objective)


def relative_l2(actual, truth):
    def flat(results):
        return np.concatenate(
            [np.ravel(to_numpy(results[n])) for n in truth if n not in ("loss", "logits")]
        ).astype(np.float64)

    return np.linalg.norm(flat(actual) - flat(truth)) / np.linalg.norm(flat(truth))


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_values_and_gradients_with_shared_masks_match_torch(dtype, objective):
    assert_results_agree(jax_side_results(dtype, objective), torch_side_results(dtype, objective), dtype)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("dtype", LARGEST_L2)
def test_gradients_with_shared_masks_are_as_near_the_truth_as_torchs(dtype, objective):
    truth = torch_side_results(dtype, objective, computed_in="float64")
    ours, theirs = jax_side_results(dtype, objective), torch_side_results(dtype, objective)
    largest, times_torch = LARGEST_L2[dtype]
    distances = relative_l2(ours, truth), relative_l2(theirs, truth)
    print(f"{objective}, {dtype}: JAX {distances[0]:.1e}, torch {distances[1]:.1e} from the truth")
    assert distances[0] <= min(largest, times_torch * distances[1])
    if dtype == "float32":
        for name in truth:
            errors = [error_in_eps(side[name], truth[name], dtype) for side in (ours, theirs)]
            assert errors[0] <= max(TIMES_TORCH_ERROR * errors[1], LEAST_EPS), name
