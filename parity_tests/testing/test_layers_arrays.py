"""compare_layers where a layer takes or returns more than one array, or lays one out in its own way."""

import flax.linen as nn
import numpy as np
import pytest
import torch

from jaxloss.testing import compare_layers, normal

D = 4


def dense(layer):
    return {"kernel": layer.weight.detach().numpy().T, "bias": layer.bias.detach().numpy()}


class TorchAttention(torch.nn.Module):
    """Two arguments, as torch's own attention has three."""

    def __init__(self):
        super().__init__()
        self.q, self.k = torch.nn.Linear(D, D), torch.nn.Linear(D, D)

    def forward(self, x, memory):
        return self.q(x) * torch.tanh(self.k(memory))


class TorchNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attn, self.last = TorchAttention(), torch.nn.Linear(D, 2)

    def forward(self, x):
        return self.last(self.attn(x, x))


class LinenAttention(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(D, name="q")(x) * nn.tanh(nn.Dense(D, name="k")(x))


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="last")(LinenAttention(name="attn")(x))


def attention_params(net):
    return {"attn": {"q": dense(net.attn.q), "k": dense(net.attn.k)}, "last": dense(net.last)}


def test_one_array_handed_in_twice_is_one_array():
    net = TorchNet().eval()
    report = compare_layers(LinenNet(), net, normal(3, D), params=attention_params(net))
    assert report.passed, report.text()


class TorchTwo(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = torch.nn.Linear(D, D), torch.nn.Linear(D, 3)

    def forward(self, x):
        hidden = self.first(x)
        return {"hidden": hidden, "logits": self.last(hidden)}


class LinenTwo(nn.Module):
    factor: float = 1.0
    width: int = D

    @nn.compact
    def __call__(self, x):
        hidden = nn.Dense(D, name="first")(x)
        logits = nn.Dense(3, name="last")(hidden)
        return {"logits": self.factor * logits, "hidden": hidden[:, : self.width], "extra": hidden + 1}


@pytest.fixture(scope="module")
def two():
    net = TorchTwo().eval()
    return net, {"first": dense(net.first), "last": dense(net.last)}


def test_every_output_of_the_models_is_compared_by_its_key(two):
    net, params = two
    right = compare_layers(LinenTwo(), net, normal(3, D), params=params)
    assert right.passed, right.text()
    assert right.not_compared == ("output ['extra'] of the model in JAX",)
    assert "not compared by themselves: output ['extra'] of the model in JAX" in right.text()
    for wrong, message in (
        (LinenTwo(2.0), "the output ['logits'] differs"),
        (LinenTwo(width=2), "output is [3, 2] in JAX and [3, 4] in torch"),
    ):
        report = compare_layers(wrong, net, normal(3, D), params=params, gradients=False)
        assert not report.passed
        assert message in report.text()


def test_channels_are_told_from_as_many_pixels():
    class TorchConv(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.last = torch.nn.Conv2d(3, D, 3, padding=1), torch.nn.Linear(D, 2)

        def forward(self, x):
            return self.last(self.conv(x).relu().mean((2, 3)))

    class LinenConv(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(D, (3, 3), padding=1, name="conv")(x.transpose(0, 2, 3, 1)))
            return nn.Dense(2, name="last")(x.mean((1, 2)))

    net = TorchConv().eval()
    kernel = net.conv.weight.detach().numpy().transpose(2, 3, 1, 0)
    params = {"conv": {"kernel": kernel, "bias": net.conv.bias.detach().numpy()}, "last": dense(net.last)}
    report = compare_layers(LinenConv(), net, normal(2, 3, D, D), params=params)
    assert report.passed, report.text()
    assert "those of parameters are not compared" in report.text()


def test_no_number_to_compare_is_no_agreement(two):
    net, params = two
    with pytest.raises(ValueError, match="inputs must make LinenTwo return numbers to compare"):
        compare_layers(LinenTwo(), net, np.zeros((0, D)), params=params)
