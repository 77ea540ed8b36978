"""The head and the loss in one, against PyTorch: every option, both targets, every reduction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import torch_ref.fused.reference as torch_ref_reference
from jaxloss.fused.reference import linear_cross_entropy_reference
from parity_tests.compare import assert_within
from parity_tests.fused.problems import OPTIONS, jax_problem, torch_problem
from parity_tests.tolerances import VALUE_EPS_OF_MAX


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("target", ["labels", "probabilities"])
def test_values_and_gradients_equal_torchs(options, target):
    for reduction in ("mean", "sum", "none"):
        arrays, target_array, kwargs = jax_problem(OPTIONS[options], target)

        def loss(arrays, reduction=reduction, target_array=target_array, kwargs=kwargs):
            return linear_cross_entropy_reference(
                arrays["input"],
                arrays["linear_weight"],
                target_array,
                linear_bias=arrays["linear_bias"],
                reduction=reduction,
                **kwargs,
            )

        value, pull_back = jax.vjp(loss, arrays)
        cotangent = np.random.default_rng(1).standard_normal(value.shape)
        (gradients,) = pull_back(jnp.asarray(cotangent))

        tensors, target_tensor, torch_kwargs = torch_problem(OPTIONS[options], target)
        expected = torch_ref_reference.linear_cross_entropy_reference(
            tensors["input"],
            tensors["linear_weight"],
            target_tensor,
            linear_bias=tensors["linear_bias"],
            reduction=reduction,
            **torch_kwargs,
        )
        expected.backward(torch.asarray(cotangent))
        assert_within(value, expected, VALUE_EPS_OF_MAX, what=reduction)
        for name, gradient in gradients.items():
            assert_within(gradient, tensors[name].grad, VALUE_EPS_OF_MAX, what=f"{reduction} {name}")


def test_statistics_equal_torchs():
    arrays, target, kwargs = jax_problem(OPTIONS["masks and weights"], "labels")
    _, statistics = linear_cross_entropy_reference(
        arrays["input"], arrays["linear_weight"], target, return_statistics=True, **kwargs
    )
    tensors, torch_target, torch_kwargs = torch_problem(OPTIONS["masks and weights"], "labels")
    _, expected = torch_ref_reference.linear_cross_entropy_reference(
        tensors["input"], tensors["linear_weight"], torch_target, return_statistics=True, **torch_kwargs
    )
    for name in statistics._fields:
        assert_within(
            getattr(statistics, name), getattr(expected, name), VALUE_EPS_OF_MAX, "float64", what=name
        )
