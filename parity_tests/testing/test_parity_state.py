"""The harness leaves the caller's settings, tensors and memory as they were, and none of them misleads it."""

import gc

import jax
import jax.numpy as jnp
import pytest
import torch

from jaxloss.testing import assert_parity, check_parity, normal


def _torch_state():
    return {
        "dtype": torch.get_default_dtype(),
        "precision": torch.get_float32_matmul_precision(),
        "convolutions": torch.backends.cudnn.allow_tf32,
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "random": torch.random.get_rng_state().tolist(),
    }


def test_settings_of_both_frameworks_are_restored():
    jax.config.update("jax_enable_x64", False)
    try:
        before = jax.config.values.copy()
        torch.manual_seed(3)
        state = _torch_state()
        assert_parity(jnp.square, torch.square, normal(3))
        with pytest.raises(ZeroDivisionError):
            assert_parity(lambda x: 1 // 0, torch.square, normal(3))
        assert jax.config.values == before
        assert jnp.ones(1).dtype == jnp.float32
        assert _torch_state() == state
    finally:
        jax.config.update("jax_enable_x64", True)


@pytest.mark.parametrize(
    "unusual",
    [
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: jax.transfer_guard("disallow"),
        lambda: jax.numpy_dtype_promotion("strict"),
        jax.disable_jit,
    ],
    ids=["no_grad", "inference_mode", "autocast", "transfer_guard", "strict", "disable_jit"],
)
def test_settings_of_the_caller_change_no_verdict(unusual):
    with unusual():
        state = _torch_state()
        assert_parity(lambda x: x @ x.T, lambda x: x @ x.T, normal(3, 3))
        assert _torch_state() == state


def test_default_dtype_of_torch_changes_no_verdict():
    torch.set_default_dtype(torch.float64)
    try:
        assert_parity(lambda x: x / 3, lambda x: x / torch.tensor(3.0), normal(3))
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_tensors_of_every_kind_are_taken_and_left_alone():
    x = torch.randn(3, 3, requires_grad=True)
    x.grad = kept = torch.ones(3, 3)
    inputs = [x, x, x * 2, x.detach().T[::2], x.detach()[0, 0]]
    sum_of = [lambda *xs, sum=sum: sum([x.sum() ** 2 for x in xs]) for _ in range(2)]
    assert_parity(*sum_of, *inputs)
    assert x.grad is kept
    assert torch.equal(kept, torch.ones(3, 3))
    assert x.requires_grad


def test_module_inputs_and_memory_are_left_as_they_were():
    module = torch.nn.BatchNorm1d(3).train()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    x = torch.randn(5, 3)
    kept = x.clone()

    def normalise(x):
        centred = x - x.mean(0)
        return centred / jnp.sqrt((centred**2).mean(0) + 1e-5)

    def check():
        check_parity(normalise, module, x, dtypes="float64")
        gc.collect()
        return len(jax.live_arrays()), sum(type(o) is torch.Tensor for o in gc.get_objects())

    first = check()
    assert check() == first
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert all(p.grad is None and p.dtype == torch.float32 for p in module.parameters())
    assert torch.equal(x, kept)
    assert not x.requires_grad
