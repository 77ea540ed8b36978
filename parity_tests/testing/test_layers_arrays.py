"""compare_layers where a layer takes or returns more than one array, or lays one out in its own way."""

import flax.linen as nn
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
