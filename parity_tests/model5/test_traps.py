"""Each known mistake fails the parity check that the right model passes."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

import jaxloss.model5.blocks as jax_blocks
import jaxloss.model5.model as jax_model
import torch_ref.model5 as torch_side
from jaxloss.model5 import Model5, Model5Config
from parity_tests.compare import assert_within, error_in_eps
from parity_tests.model5.pairs import (
    DTYPES,
    TINY,
    draw_masks,
    jax_params,
    tokens,
    torch_model,
    torch_results,
    weights,
    worst_errors,
)
from parity_tests.tolerances import GRADIENT_EPS_OF_MAX, VALUE_EPS_OF_MAX


@partial(jax.jit, static_argnames="config")
def forward(params, config):
    return Model5(config).apply({"params": params}, tokens()[0])


def logits_error(arrays=None, config: Model5Config = TINY):
    """Error of the JAX logits against the right torch model's, in float64."""
    expected = torch_model("float64")(torch.tensor(tokens()[0]))
    return error_in_eps(forward(jax_params("float64", arrays, config), config), expected)


@pytest.mark.parametrize(
    "mistake",
    [{"layer_norm_eps": 1e-6}, {"activation": "gelu_tanh"}, {"logit_scale": 1.0}],
    ids=lambda mistake: next(iter(mistake)),
)
def test_wrong_option_fails_the_parity_check(mistake):
    assert logits_error() <= VALUE_EPS_OF_MAX
    assert logits_error(config=dataclasses.replace(TINY, **mistake)) > VALUE_EPS_OF_MAX


def test_transposed_kernel_fails_the_parity_check():
    # Square, so that no shape gives it away.
    name = "h.1.attn.c_proj.weight"
    arrays = weights()
    assert logits_error(arrays) <= VALUE_EPS_OF_MAX
    assert logits_error(arrays | {name: arrays[name].T}) > VALUE_EPS_OF_MAX


def layer_norm_errors(module: nn.LayerNorm, dtype):
    """Errors of value and input gradient, for inputs of mean 1,000, as multiples of what is allowed.

    Subtracting that mean costs any implementation a factor of mean / std in precision: so the allowance.
    """
    rng = np.random.default_rng(0)
    x_ND = (1000 + rng.standard_normal((64, 32))).astype(dtype)
    scale_D, bias_D = rng.standard_normal((2, 32))
    cotangent_ND = rng.standard_normal((64, 32))
    torch_x = torch.tensor(x_ND.astype(np.float64), requires_grad=True)
    torch_y = F.layer_norm(torch_x, (32,), torch.tensor(scale_D), torch.tensor(bias_D), 1e-5)
    torch_y.backward(torch.tensor(cotangent_ND))
    params = {"scale": scale_D.astype(dtype), "bias": bias_D.astype(dtype)}
    y_ND, pull_back = jax.vjp(lambda x: module.apply({"params": params}, x), x_ND)
    (gradient_ND,) = pull_back(jnp.asarray(cotangent_ND, dtype))
    return (
        error_in_eps(y_ND, torch_y, dtype) / (1000 * VALUE_EPS_OF_MAX),
        error_in_eps(gradient_ND, torch_x.grad, dtype) / (1000 * GRADIENT_EPS_OF_MAX),
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm_holds_at_mean_1000_and_fast_variance_does_not(dtype):
    fast = nn.LayerNorm(epsilon=1e-5, use_fast_variance=True)
    print(layer_norm_errors(jax_blocks.layer_norm(TINY), dtype), layer_norm_errors(fast, dtype))
    assert max(layer_norm_errors(jax_blocks.layer_norm(TINY), dtype)) <= 1
    assert max(layer_norm_errors(fast, dtype)) > 1


def masks_in_common(masks) -> list[str]:
    """Names of the masks that two heads or two sequences have in common."""
    shared = []
    for path, mask in jax.tree_util.tree_flatten_with_path(masks)[0]:
        for axis in range(mask.ndim - 2):
            first, *others = np.moveaxis(np.asarray(mask), axis, 0)
            if any(np.array_equal(first, other) for other in others):
                shared.append(jax.tree_util.keystr(path))
    return shared


def test_attention_masks_differ_by_head_and_sequence_and_broadcast_dropout_is_caught(monkeypatch):
    assert not masks_in_common(draw_masks())

    class BroadcastDropout(jax_blocks.Dropout):
        """Flax's `broadcast_dropout=True`: one mask for all heads and sequences."""

        def _mask(self, shape, skipped):
            return jnp.broadcast_to(super()._mask((1,) * (len(shape) - 2) + shape[-2:], skipped), shape)

    for module in (jax_blocks, jax_model):
        monkeypatch.setattr(module, "Dropout", BroadcastDropout)
    # Two axes of each attention mask, and the batch axis of every other one.
    assert len(masks_in_common(draw_masks())) == 2 * TINY.num_blocks + 2 * TINY.num_blocks + 1


def fake_tie(model: torch_side.Model5) -> torch_side.Model5:
    model.head.weight = torch.nn.Parameter(model.wte.weight)
    return model


def test_fake_tying_splits_the_gradient_and_is_refused():
    truth = torch_results(torch_model("float64"))
    fake = fake_tie(torch_model("float64"))
    results = torch_results(fake)
    both = results.pop("head.weight").T + results["wte.weight"]
    assert_within(both, truth["wte.weight"], GRADIENT_EPS_OF_MAX)
    value_error, gradient_error = worst_errors(results, truth, "float64")
    assert value_error == 0
    assert gradient_error > GRADIENT_EPS_OF_MAX
    with pytest.raises(ValueError, match=r"head\.weight must be the very Parameter wte\.weight"):
        torch_side.to_arrays(fake)


def test_fake_tying_trains_one_storage_twice():
    right, fake = torch_model("float64"), fake_tie(torch_model("float64"))
    assert fake.head.weight.data_ptr() == fake.wte.weight.data_ptr()
    assert len(list(fake.parameters())) == len(list(right.parameters())) + 1
    decayed = {}
    for name, model in (("right", right), ("fake", fake)):
        before = model.wte.weight.detach().clone()
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1).step()
        decayed[name] = (model.wte.weight / before).mean().item()
    assert decayed == {"right": pytest.approx(0.99), "fake": pytest.approx(0.99**2)}
