"""compare_layers on small networks of every kind: which layer, with whose error, and what is refused."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jaxloss.testing import compare_layers, normal, tap

D = 6


class TorchNet(torch.nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.first, self.norm = torch.nn.Linear(D, D), torch.nn.LayerNorm(D)
        self.drop, self.last = torch.nn.Dropout(dropout), torch.nn.Linear(D, 3)

    def forward(self, x):
        return self.last(self.drop(self.norm(x + torch.relu(self.first(x)))))


class LinenNet(nn.Module):
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x, stopped=False):
        hidden = nn.relu(nn.Dense(D, name="first")(x))
        x = x + (jax.lax.stop_gradient(hidden) if stopped else hidden)
        return nn.Dense(3, name="last")(nn.LayerNorm(self.eps, name="norm")(x))


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.first, self.last = nnx.Linear(D, D, rngs=rngs), nnx.Linear(D, 3, rngs=rngs)
        self.norm = nnx.LayerNorm(D, epsilon=1e-5, rngs=rngs)

    def __call__(self, x):
        return self.last(self.norm(x + jax.nn.relu(self.first(x))))


class EquinoxNet(eqx.Module):
    first: eqx.nn.Linear
    norm: eqx.nn.LayerNorm
    last: eqx.nn.Linear

    def __call__(self, x):
        return self.last(self.norm(x + jax.nn.relu(self.first(x))))


def tapped(params, x):
    x = x + jax.nn.relu(tap("first", x @ params["first"]["kernel"] + params["first"]["bias"]))
    centred = x - x.mean(-1, keepdims=True)
    x = tap("norm", centred / jnp.sqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-5))
    return tap("last", x @ params["last"]["kernel"] + params["last"]["bias"])


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return TorchNet().eval()


@pytest.fixture(scope="module")
def params(net):
    def dense(layer):
        return {"kernel": layer.weight.detach().numpy().T, "bias": layer.bias.detach().numpy()}

    norm = {"scale": np.ones(D, np.float32), "bias": np.zeros(D, np.float32)}
    return {"first": dense(net.first), "norm": norm, "last": dense(net.last)}


def _nnx(params):
    model = NnxNet(nnx.Rngs(0))
    for name, arrays in params.items():
        for own, array in arrays.items():
            getattr(getattr(model, name), own)[...] = jnp.asarray(array)
    return model


def _equinox(net):
    def linear(layer):
        new = eqx.nn.Linear(layer.in_features, layer.out_features, key=jax.random.key(0))
        arrays = jnp.asarray(layer.weight.detach().numpy()), jnp.asarray(layer.bias.detach().numpy())
        return eqx.tree_at(lambda m: (m.weight, m.bias), new, arrays)

    return EquinoxNet(linear(net.first), eqx.nn.LayerNorm(D), linear(net.last))


def test_every_kind_of_model_shows_its_layers(net, params):
    models = [(LinenNet(), params), (_nnx(params), None), (tapped, params)]
    reports = [compare_layers(model, net, normal(4, D), params=own) for model, own in models]
    reports.append(compare_layers(_equinox(net), net, normal(D)))
    for report in reports:
        assert report.passed, report.text()
        assert [row.layer for row in report.rows if row.layer] == ["first", "norm", "last"]
        assert all(row.own is not None and row.own < 16 for row in report.rows)
        assert "drop" in report.only_in_torch


def test_first_layer_with_an_error_of_its_own_is_named_and_later_ones_are_not_blamed(net, params):
    report = compare_layers(LinenNet(eps=1e-3), net, normal(4, D), params=params)
    assert not report.passed
    assert [fault.layer for fault in report.faults] == ["norm"]
    assert report.faults[0].cause == "LayerNorm eps: JAX's is 0.001, torch's 1e-05"
    rows = {row.layer: row for row in report.rows}
    assert rows["last"].free > 1e6 > 16 > rows["last"].own
    assert rows["first"].free < 16


def test_weights_that_differ_are_recognised(net, params):
    other = {**params, "last": {**params["last"], "kernel": params["last"]["kernel"] + 1}}
    report = compare_layers(LinenNet(), net, normal(4, D), params=other, gradients=False)
    assert [(f.layer, f.cause) for f in report.faults] == [
        ("last", "other weights: JAX's kernel is not torch's weight")
    ]


def test_transposed_kernel_is_recognised(net, params):
    other = {**params, "first": {**params["first"], "kernel": params["first"]["kernel"].T}}
    report = compare_layers(LinenNet(), net, normal(4, D), params=other, gradients=False)
    assert [fault.layer for fault in report.faults] == ["first"]
    assert "transposed" in report.faults[0].cause


def test_gradient_that_is_stopped_is_found_where_the_values_agree(net, params):
    report = compare_layers(LinenNet(), net, normal(4, D), params=params, jax_kwargs={"stopped": True})
    assert [(fault.layer, fault.torch_layer) for fault in report.faults] == [("", "")]
    assert "its gradient of what first returns differs" in report.faults[0].where
    assert "is 0 in JAX: a stop_gradient" in report.faults[0].cause
    assert report.whole.passed
    assert not report.passed


def test_layers_under_other_names_are_paired_by_their_weights(net, params):
    class Renamed(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = x + nn.relu(nn.Dense(D, name="a")(x))
            return nn.Dense(3, name="c")(nn.LayerNorm(1e-5, name="b")(x))

    renamed = {new: params[old] for new, old in {"a": "first", "b": "norm", "c": "last"}.items()}
    report = compare_layers(Renamed(), net, normal(4, D), params=renamed, gradients=False)
    assert report.passed, report.text()
    assert {row.layer: row.torch_layer for row in report.rows if row.layer} == {
        "a": "first",
        "b": "norm",
        "c": "last",
    }


def test_other_shapes_are_a_fault_and_not_compared(net):
    class Wider(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, name="last")(nn.Dense(2 * D, name="first")(x))

    params = Wider().init(jax.random.key(0), jnp.zeros((4, D)))["params"]
    report = compare_layers(Wider(), net, normal(4, D), params=params, gradients=False)
    assert not report.passed
    assert "output is [4, 12] in JAX and [4, 6] in torch: not compared" in report.text()
    # The next one is given something else, so that its own error is not known.
    assert {row.layer: row.own for row in report.rows}["last"] is None
    assert all("not compared" in fault.where for fault in report.faults)


def test_models_without_a_common_layer_do_not_agree(net):
    report = compare_layers(lambda x: tap("other", x[..., :3]), net, normal(4, D), gradients=False)
    assert not report.passed
    assert "pair them with names=" in report.text()


def test_nan_in_both_is_named_where_it_begins(net, params):
    class Log(TorchNet):
        def forward(self, x):
            return self.last(self.norm(torch.log(self.first(x))))

    def log(params, x):
        x = jnp.log(tap("first", x @ params["first"]["kernel"] + params["first"]["bias"]))
        return tap("norm", x) @ params["last"]["kernel"]

    module = Log().eval()
    module.load_state_dict(net.state_dict())
    with pytest.raises(ValueError, match="what norm returns is nan in JAX and nan in torch"):
        compare_layers(log, module, normal(4, D), params=params, gradients=False)


def test_dropout_that_is_on_in_nnx_is_named_and_its_stream_is_left_alone(net):
    class Dropped(nnx.Module):
        def __init__(self, rngs):
            self.first, self.drop = nnx.Linear(D, D, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return self.drop(self.first(x))

    class TorchDropped(TorchNet):
        def forward(self, x):
            return self.drop(self.first(x))

    model, module = Dropped(nnx.Rngs(0)), TorchDropped(0.5).eval()
    model.first.kernel[...] = jnp.asarray(module.first.weight.detach().numpy().T)
    model.first.bias[...] = jnp.asarray(module.first.bias.detach().numpy())
    report = compare_layers(model, module, normal(30, D))
    assert [(fault.layer, fault.cause) for fault in report.faults] == [
        ("drop", "dropout is on in JAX: 51% of the values are 0, the others 2 times torch's")
    ]
    assert model.drop.rngs.count[...] == 0


def test_layer_without_values_to_see_is_listed(net, params):
    class Remat(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = x + nn.relu(nn.remat(nn.Dense)(D, name="first")(x))
            return nn.Dense(3, name="last")(nn.LayerNorm(1e-5, name="norm")(x))

    report = compare_layers(Remat(), net, normal(4, D), params=params, gradients=False)
    assert report.passed, report.text()
    assert report.only_in_jax == ("first",)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "in training mode and drops at random in drop", {"module": TorchNet(0.5)}),
        (ValueError, "would normalise by this batch", {"module": torch.nn.BatchNorm1d(D)}),
        (ValueError, "one device; got weight on cpu", {"module": "two devices"}),
        (ValueError, "input 0 holds NaN", {"x": np.full((4, D), np.nan)}),
        (ValueError, "'frist' is none of JAX's", {"names": {"frist": "first"}}),
        (TypeError, "torch_module must be an nn.Module; got function", {"module": lambda x: x}),
        (TypeError, "params must be given with a Linen module", {"params": None}),
        (TypeError, "jax_model must be a Flax or Equinox module", {"model": 3}),
        (ValueError, "dtype must be", {"dtype": "bfloat16"}),
        (ValueError, "inputs must hold at least one", {"x": None}),
    ],
)
def test_bad_arguments_are_named(net, params, error, message, call):
    given = {"model": LinenNet(), "module": net, "x": normal(4, D), "params": params} | call
    if given["module"] == "two devices":
        given["module"] = torch.nn.Linear(D, D)
        given["module"].bias = torch.nn.Parameter(torch.zeros(D, device="meta"))
    models = [given.pop(name) for name in ("model", "module", "x")]
    models = models[:2] if models[2] is None else models
    with pytest.raises(error, match=message):
        compare_layers(*models, **given)


def test_models_settings_and_hooks_are_left_as_they_were(net, params):
    model = _nnx(params)
    calls = NnxNet.__call__, nnx.Linear.__call__
    seen = []
    handle = net.first.register_forward_hook(lambda *given: seen.append(given))
    jax.config.update("jax_enable_x64", False)
    try:
        before = jax.config.values.copy()
        with torch.no_grad():
            compare_layers(model, net, normal(4, D), gradients=False)
            assert not torch.is_grad_enabled()
        assert jax.config.values == before
    finally:
        jax.config.update("jax_enable_x64", True)
        handle.remove()
    assert seen
    assert (NnxNet.__call__, nnx.Linear.__call__) == calls
    assert model.first.kernel.dtype == jnp.float32
    assert not net.training
    for module in net.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert all(p.grad is None and p.requires_grad and p.dtype == torch.float32 for p in net.parameters())
