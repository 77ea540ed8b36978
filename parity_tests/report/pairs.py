"""Everything that the report compares: losses, layers and Model 5 under both objectives, dropout off and on.

Shapes: B batch, T time, D width, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import jax
import numpy as np

import jaxloss.fused
import jaxloss.losses
import jaxloss.model5
import torch_ref.fused
import torch_ref.losses
import torch_ref.model5
from jaxloss.model5 import Model5Config
from jaxloss.testing import Pair, draw_masks, inject_masks, integers, normal
from jaxloss.testing.measure import GRADIENT_EPS_OF_MAX, VALUE_EPS_OF_MAX
from parity_tests.cases import CASES, NOT_LOSSES, Sample

SMALL = Model5Config(vocab_size=61, context_length=16, embed_dim=32, num_heads=4, num_blocks=4)
_BATCH = 3
_MASKS_KEY = 3


def public_losses(package: ModuleType) -> list[str]:
    """The public losses of a package, whatever is public when this is called."""
    return [name for name in package.__all__ if name not in NOT_LOSSES]


def loss_pairs() -> list[Pair]:
    """One pair for each sample of each public loss.

    Raises:
        ValueError: a public loss has no sample.
    """
    return _pairs_of(jaxloss.losses, torch_ref.losses)


def fused_pairs() -> list[Pair]:
    """The same for the losses that take in the head.

    JAX goes through its chunks, of which the last is not full; torch makes the logits whole.
    """
    return _pairs_of(jaxloss.fused, torch_ref.fused, implementation="chunked", chunk_size=8)


def layer_pairs() -> list[Pair]:
    """Each layer of Model 5 with the gradients of its parameters and its input."""
    params = varied_params(SMALL)
    block, x = params["h_0"], normal(_BATCH, SMALL.context_length, SMALL.embed_dim)
    far = normal(_BATCH, SMALL.context_length, SMALL.embed_dim, mean=1000.0)
    jax_block = jaxloss.model5.Block(SMALL)
    torch_block = torch_ref.model5.Block(SMALL)

    def layer_norm(params: Any, x_BTD: jax.Array) -> jax.Array:
        return jax_block.apply({"params": {"ln_1": params}}, x_BTD, method=lambda b, x: b.ln_1(x))

    layers = [
        ("LayerNorm", layer_norm, torch_block.ln_1, block["ln_1"], x),
        ("LayerNorm, mean 1,000", layer_norm, torch_block.ln_1, block["ln_1"], far),
        ("Attention", _apply(jaxloss.model5.Attention(SMALL)), torch_block.attn, block["attn"], x),
        ("MLP", _apply(jaxloss.model5.MLP(SMALL)), torch_block.mlp, block["mlp"], x),
        ("Block", _apply(jax_block), torch_block, block, x),
    ]
    return [
        Pair(name, jax_fn, torch_module.eval(), [inputs], {"params": own})
        for name, jax_fn, torch_module, own, inputs in layers
    ]


def model_pairs(config: Model5Config = SMALL) -> list[Pair]:
    """Model 5 under both objectives, dropout off and on: logits, loss and every parameter's gradient."""
    params = varied_params(config)
    masks = _masks(config, params)
    return [
        _model_pair(f"Model 5, {objective}{dropout}", config, objective, params, given)
        for objective in ("next_token_loss", "final_token_loss")
        for dropout, given in (("", []), (", dropout on", [masks]))
    ]


def coarse_model_pairs() -> list[Pair]:
    """On an accelerator, the model with JAX's own matmul precision, held to what that precision can give.

    TF32 has 10 bits after the point, a single bfloat16 pass 7, where float32 has 23. On a CPU there is none.
    """
    bits = {"cpu": 23, "gpu": 10, "tpu": 7}[jax.default_backend()]
    if bits == 23:
        return []
    loss = 2.0 ** (23 - bits)
    options = {
        "dtypes": "float32",
        "matmul_precision": "default",
        "value_eps": VALUE_EPS_OF_MAX["float32"] * loss,
        "gradient_eps": GRADIENT_EPS_OF_MAX["float32"] * loss,
    }
    return [
        replace(pair, name=f"{pair.name}, matmul in {bits} bits", options={**pair.options, **options})
        for pair in model_pairs()
    ]


def _pairs_of(ours: ModuleType, theirs: ModuleType, **jax_options: Any) -> list[Pair]:
    names = public_losses(ours)
    missing = [name for name in names if name not in CASES]
    if missing:
        raise ValueError(f"add sample inputs to parity_tests/cases.py for {', '.join(missing)}")
    return [_loss_pair(name, sample, ours, theirs, jax_options) for name in names for sample in CASES[name]]


def _loss_pair(name: str, sample: Sample, ours: ModuleType, theirs: ModuleType, jax_options: Any) -> Pair:
    title = f"{name} ({sample.case})" if sample.case else name
    options: dict[str, Any] = {} if sample.wrt is None else {"wrt": sample.wrt}
    if sample.dtypes is not None:
        options["dtypes"] = sample.dtypes
    return Pair(
        title, sample.loss(name, ours, **jax_options), sample.loss(name, theirs), sample.inputs, options
    )


def varied_params(config: Model5Config, scale: float = 0.1) -> Any:
    """Parameters with no special values: biases and LayerNorm scales are random as well."""
    rng = np.random.default_rng(5)
    params = jaxloss.model5.init_params(config, jax.random.key(0))
    return jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64) + scale * rng.standard_normal(leaf.shape), params
    )


def _masks(config: Model5Config, params: Any) -> Any:
    ids = np.zeros((_BATCH, config.context_length), np.int32)
    apply_fn = jaxloss.model5.Model5(config).apply
    return draw_masks(apply_fn, {"params": params}, ids, key=jax.random.key(_MASKS_KEY))


def _apply(layer: Any) -> Callable[..., Any]:
    return lambda params, x_BTD: layer.apply({"params": params}, x_BTD)


def _model_pair(title: str, config: Model5Config, objective: str, params: Any, masks: list[Any]) -> Pair:
    loss = getattr(jaxloss.losses, objective)

    def jax_fn(params: Any, ids_BT: jax.Array, targets_BT: jax.Array, *masks: Any) -> Any:
        variables = {"params": params, **({"dropout_masks": masks[0]} if masks else {})}
        logits_BTV = jaxloss.model5.Model5(config).apply(variables, ids_BT, deterministic=not masks)
        # The logits are compared as values; the gradients are those of the objective alone.
        return {"logits": jax.lax.stop_gradient(logits_BTV), "loss": loss(logits_BTV, targets_BT)}

    module = _WithObjective(config, getattr(torch_ref.losses, objective)).train(bool(masks))
    ids = integers(_BATCH, config.context_length, high=config.vocab_size)
    return Pair(title, jax_fn, module, [ids, ids, *masks], {"params": params})


class _WithObjective(torch_ref.model5.Model5):
    """Model 5 that returns its loss as well, and takes dropout masks."""

    def __init__(self, config: Model5Config, loss: Callable[..., Any]) -> None:
        super().__init__(config)
        self.loss = loss

    def forward(self, ids_BT: Any, targets_BT: Any, *masks: Any) -> Any:
        if not masks:
            logits_BTV = super().forward(ids_BT)
        else:
            with inject_masks(self, masks[0]):
                logits_BTV = super().forward(ids_BT)
        return {"logits": logits_BTV.detach(), "loss": self.loss(logits_BTV, targets_BT)}
