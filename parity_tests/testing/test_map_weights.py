"""map_weights by names and shapes alone: what is turned, split, joined and stacked, and what stays open."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jaxloss.testing import map_weights, normal, tap


class Attention(torch.nn.Module):
    def __init__(self, *widths):
        super().__init__()
        for name, width in zip(("q_proj", "k_proj", "v_proj"), widths, strict=False):
            setattr(self, name, torch.nn.Linear(4, width))


class Fused(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = torch.nn.Module()
        self.attn.c_attn = torch.nn.Linear(4, 15)


class Blocks(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(4, 5) for _ in range(3))
        self.norm = torch.nn.LayerNorm(7)


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens, self.lm_head = torch.nn.Embedding(9, 4), torch.nn.Linear(4, 9, bias=False)
        self.lm_head.weight = self.embed_tokens.weight


def _zeros(**shapes):
    return {name: {leaf: np.zeros(s) for leaf, s in own.items()} for name, own in shapes.items()}


def _numpy(x):
    return x.detach().numpy()


def test_parts_of_a_fused_projection_are_taken_in_the_order_of_queries_keys_values():
    part = {"kernel": (4, 5), "bias": (5,)}
    module = Fused()
    mapped = map_weights(module, {"attn": _zeros(value=part, key=part, query=part)})
    assert mapped.is_complete
    weight = _numpy(module.attn.c_attn.weight)
    for name, start in {"query": 0, "key": 5, "value": 10}.items():
        np.testing.assert_array_equal(mapped.params["attn"][name]["kernel"], weight[start : start + 5].T)
    assert mapped.sources["attn/key/kernel"].code() == 'w["attn.c_attn.weight"].T[:, 5:10]'
    assert mapped.sources["attn/key/bias"].code() == 'w["attn.c_attn.bias"][5:10]'


def test_several_projections_are_joined_in_the_same_order():
    module = Attention(6, 2, 2)
    mapped = map_weights(module, _zeros(qkv={"kernel": (4, 10), "bias": (10,)}))
    assert mapped.is_complete
    joined = np.concatenate([_numpy(m.weight).T for m in (module.q_proj, module.k_proj, module.v_proj)], 1)
    np.testing.assert_array_equal(mapped.params["qkv"]["kernel"], joined)
    assert (
        mapped.sources["qkv/bias"].code()
        == 'np.concatenate([w["q_proj.bias"], w["k_proj.bias"], w["v_proj.bias"]], 0)'
    )


def test_blocks_are_stacked():
    module = Blocks()
    mapped = map_weights(
        module, _zeros(layers={"kernel": (3, 4, 5), "bias": (3, 5)}, norm={"scale": (7,), "bias": (7,)})
    )
    assert mapped.is_complete, mapped.text()
    stacked = np.stack([_numpy(layer.weight).T for layer in module.layers])
    np.testing.assert_array_equal(mapped.params["layers"]["kernel"], stacked)


def test_a_tied_weight_goes_to_both_its_places():
    module = Tied()
    mapped = map_weights(module, _zeros(embed={"embedding": (9, 4)}, head={"kernel": (4, 9)}))
    assert mapped.is_complete, mapped.text()
    np.testing.assert_array_equal(mapped.params["head"]["kernel"], _numpy(module.embed_tokens.weight).T)
    assert map_weights(module, _zeros(embed={"embedding": (9, 4)})).is_complete


def test_what_names_and_shapes_leave_open_is_listed():
    mapped = map_weights(Attention(5, 5), _zeros(a={"kernel": (4, 5)}, other={"scale": (3,)}))
    assert not mapped.is_complete
    assert not mapped.is_checked
    assert "a/kernel is q_proj.weight by its name alone; also of its shape: k_proj.weight" in mapped.ambiguous
    assert mapped.missing == ("other/scale",)
    assert set(mapped.unused) == {"q_proj.bias", "k_proj.weight", "k_proj.bias"}
    assert "# only in JAX: other/scale" in mapped.text()
    square = map_weights(torch.nn.Linear(4, 4), _zeros(a={"kernel": (4, 4), "bias": (4,)}))
    assert "square" in square.ambiguous[0]


def test_layers_that_are_numbered_change_places_until_each_gets_its_input():
    class Turned(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.c, self.b, self.a = (torch.nn.Linear(4, 4) for _ in range(3))

        def forward(self, x):
            return self.c(torch.tanh(self.b(torch.relu(self.a(x)))))

    def dense(params, name, x):
        return tap(name, x @ params[name]["kernel"] + params[name]["bias"])

    def model(params, x):
        x = jnp.tanh(dense(params, "Dense_1", jnp.maximum(dense(params, "Dense_0", x), 0)))
        return dense(params, "Dense_2", x)

    own = {"kernel": (4, 4), "bias": (4,)}
    mapped = map_weights(
        Turned().eval(), _zeros(Dense_0=own, Dense_1=own, Dense_2=own), normal(3, 4), jax_model=model
    )
    assert mapped.is_checked, mapped.text()
    names = {path.partition("/")[0]: source.names[0][0] for path, source in mapped.sources.items()}
    assert names == {"Dense_0": "a", "Dense_1": "b", "Dense_2": "c"}


def test_haikus_and_nnxs_trees_are_mapped_under_their_own_names():
    module = torch.nn.Sequential(torch.nn.Linear(4, 3)).eval()
    mapped = map_weights(module, _zeros(linear={"w": (4, 3), "b": (3,)}))
    assert mapped.sources["linear/w"].code() == 'w["0.weight"].T'
    square = map_weights(torch.nn.Linear(4, 4), _zeros(linear={"w": (4, 4), "b": (4,)}))
    assert "linear/w is square" in square.ambiguous[0]
    layer = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    assert map_weights(torch.nn.Linear(4, 3), nnx.state(layer)).sources.keys() == {"kernel", "bias"}


def test_running_statistics_are_torchs_buffers():
    module = torch.nn.Sequential(torch.nn.BatchNorm1d(4)).eval()
    tree = {
        "params": _zeros(bn={"scale": (4,), "bias": (4,)}),
        "batch_stats": _zeros(bn={"mean": (4,), "var": (4,)}),
    }
    mapped = map_weights(module, tree)
    assert mapped.is_complete, mapped.text()
    assert mapped.sources["batch_stats/bn/mean"].names == ("0.running_mean",)
    assert mapped.sources["batch_stats/bn/var"].names == ("0.running_var",)
    assert map_weights(module, tree["params"]).is_complete


@pytest.mark.parametrize(
    ("error", "message", "args", "options"),
    [
        (TypeError, "torch_module must be an nn.Module", (lambda x: x, {"a": np.ones(3)}), {}),
        (TypeError, "params must be a tree of dicts", (torch.nn.Linear(3, 2), np.ones(3)), {}),
        (TypeError, "got int at a/kernel", (torch.nn.Linear(3, 2), {"a": {"kernel": 3}}), {}),
        (ValueError, "got no jax_model", (torch.nn.Linear(3, 2), {"kernel": np.ones((3, 2))}, normal(3)), {}),
        (
            ValueError,
            "got no inputs",
            (torch.nn.Linear(3, 2), {"kernel": np.ones((3, 2))}),
            {"jax_model": lambda p, x: x},
        ),
    ],
)
def test_bad_arguments_are_named(error, message, args, options):
    with pytest.raises(error, match=message):
        map_weights(*args, **options)
