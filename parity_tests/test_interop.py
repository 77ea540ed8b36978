"""A JAX loss trains a torch model, a torch module trains in JAX, and gradients cross exactly."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.test_util import check_grads
from torch.nn import functional as F

from jaxloss import interop, losses
from jaxloss.interop import as_jax, as_torch
from jaxloss.testing import error_in_eps
from parity_tests.compare import assert_same


def leaf(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()


LABELS = torch.tensor([0, 2, -100, 1])


def test_examples_run():
    assert doctest.testmod(interop).failed == 0


def test_scalar_loss_passes_gradcheck_and_its_gradient_passes_again():
    loss = as_torch(losses.cross_entropy)
    logits = leaf(4, 3)
    assert torch.autograd.gradcheck(lambda x: loss(x, LABELS), (logits,))
    assert torch.autograd.gradgradcheck(lambda x: loss(x, LABELS), (logits,))


def test_function_of_arrays_with_several_outputs_passes_gradcheck():
    function = as_torch(lambda x, y: (x * y, {"sum": jnp.sum(jnp.sin(x)), "count": jnp.argmax(x)}))

    def outputs(x, y):
        product, rest = function(x, y)
        assert not rest["count"].requires_grad
        return product, rest["sum"]

    assert torch.autograd.gradcheck(outputs, (leaf(3), leaf(3, seed=1)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("x64", [False, True])
def test_value_gradient_and_dtype_are_those_of_torch(dtype, x64):
    logits = leaf(4, 3, dtype=dtype)
    with jax.enable_x64(x64):
        value = as_torch(losses.cross_entropy)(logits, LABELS)
    value.backward()
    expected_logits = logits.detach().clone().requires_grad_()
    expected = F.cross_entropy(expected_logits, LABELS)
    expected.backward()
    assert logits.grad.dtype == dtype
    assert value.dtype == torch.promote_types(dtype, torch.float32)
    name = str(dtype).removeprefix("torch.")
    allowed = 1 if name == "bfloat16" else 64
    assert error_in_eps(value, expected, name) <= allowed
    assert error_in_eps(logits.grad, expected_logits.grad) <= allowed


def test_settings_and_keywords_reach_the_jax_function():
    loss = as_torch(losses.cross_entropy)
    logits = leaf(4, 3)
    by_keyword = loss(logits, target=LABELS, reduction="none", label_smoothing=0.1)
    assert (
        error_in_eps(by_keyword, F.cross_entropy(logits, LABELS, reduction="none", label_smoothing=0.1)) <= 16
    )
    assert loss(logits, LABELS, None, -100, "sum").shape == ()


def test_labels_beyond_32_bits_stay_out_of_range():
    with jax.enable_x64(False):
        value = as_torch(losses.cross_entropy)(leaf(1, 3, dtype=torch.float32), torch.tensor([2**32]))
    assert value.isnan()


def test_float_arrays_cross_without_a_copy():
    tensor = torch.randn(64, 64)
    array = interop._to_jax(tensor)
    assert array.unsafe_buffer_pointer() == tensor.data_ptr()
    assert interop._from_jax(array * 1, set()).data_ptr() != tensor.data_ptr()


def test_returned_input_is_not_an_alias():
    x = torch.ones(3)
    y = as_torch(lambda x: x)(x)
    y += 1
    assert_same(x, np.ones(3))


def test_function_is_compiled_once_for_each_shape():
    traces = []

    def loss(x):
        traces.append(x.shape)
        return jnp.sum(x**2)

    call = as_torch(loss)
    for size in (3, 3, 4, 3):
        call(torch.ones(size))
    assert traces == [(3,), (4,)]


def test_call_without_tensors_and_unhashable_settings_are_refused():
    with pytest.raises(TypeError, match="takes tensors; got none"):
        as_torch(jnp.sum)(1.0)
    with pytest.raises(TypeError, match="hashable"):
        as_torch(lambda x, options: x)(torch.ones(1), {1: bytearray()})


def test_torch_trainer_learns_with_a_jax_loss_as_with_its_own():
    runs = []
    for loss in (F.mse_loss, as_torch(losses.mse_loss)):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 1)
        x = torch.randn(16, 3)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        for _ in range(20):
            optimizer.zero_grad()
            loss(model(x), x.sum(1, keepdim=True)).backward()
            optimizer.step()
        runs.append(model.weight.detach())
    assert error_in_eps(runs[1], runs[0]) <= 200


def test_torch_function_in_jax_has_its_gradients():
    x = jnp.asarray(leaf(4, 3).detach().numpy())
    labels = jnp.array([0, 2, 1, 1])
    loss = as_jax(F.cross_entropy)
    check_grads(lambda x: loss(x, labels), (x,), order=1, modes=["rev"])
    actual, gradient = jax.jit(jax.value_and_grad(loss))(x, labels)
    expected, expected_gradient = jax.value_and_grad(losses.cross_entropy)(x, labels)
    assert error_in_eps(actual, expected) <= 16
    assert error_in_eps(gradient, expected_gradient) <= 64
    several = jax.vmap(loss)(jnp.stack([x, 2 * x]), jnp.stack([labels, labels]))
    assert error_in_eps(several, [loss(x, labels), loss(2 * x, labels)], "float64") <= 16


def test_torch_module_in_jax_is_differentiable_in_its_parameters():
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
    params = {name: jnp.asarray(p.detach().numpy()) for name, p in module.named_parameters()}
    x = jnp.asarray(leaf(5, 3).detach().numpy())
    run = as_jax(module, parameters=True)
    check_grads(lambda p, x: run(p, x), (params, x), order=1, modes=["rev"])
    assert_same(run(params, x), as_jax(module)(x))
    with pytest.raises(TypeError, match=r"parameters=True needs an nn\.Module"):
        as_jax(torch.tanh, parameters=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_torch_function_in_jax_keeps_the_dtype(dtype):
    x = jnp.ones((300, 300), dtype)
    value, gradient = jax.value_and_grad(lambda x: as_jax(torch.tanh)(x).sum())(x)
    assert (value.dtype, gradient.dtype) == (dtype, dtype)


def test_torch_function_in_jax_has_its_gradients_in_inference_mode_too():
    with torch.inference_mode():
        assert jax.grad(as_jax(torch.square))(3.0) == 6.0
        assert torch.is_inference_mode_enabled()


def test_torch_module_that_drops_at_random_and_other_outputs_are_refused():
    # The backward pass would draw another mask.
    dropping = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5))
    with pytest.raises(ValueError, match=r"training mode and drops at random in 1: call \.eval\(\)"):
        as_jax(dropping)(jnp.ones((1, 2), "float32"))
    assert as_jax(dropping.eval())(jnp.ones((1, 2), "float32")).shape == (1, 2)
    with pytest.raises(TypeError, match="must return tensors; got float"):
        as_jax(lambda x: x.item())(jnp.ones(()))
