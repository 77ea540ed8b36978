"""Blocks called in a loop over their stacked parameters: a program of one block's length."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from jaxloss._mesh import gathered
from jaxloss.model5.blocks import Block


def scan_blocks(
    blocks: Sequence[Block],
    x_BTD: Float[Array, "B T D"],
    deterministic: bool,
    document_BT: Int[Array, "B T"] | None,
    *,
    remat: bool,
) -> Float[Array, "B T D"]:
    """What the blocks, called in turn, make of the hidden states, with the dropout that their names give."""
    config = blocks[0].config
    collections = [{"params": block.variables["params"]} for block in blocks]
    if not deterministic and config.dropout:
        for block, given in zip(blocks, collections, strict=True):
            given["dropout_keys"] = block.dropout_keys()

    def call(x_BTD: jax.Array, given: dict[str, Any]) -> tuple[jax.Array, None]:
        params = checkpoint_name(gathered(given["params"]), "gathered")
        block: Any = Block(config, parent=None)
        return block.apply(given | {"params": params}, x_BTD, deterministic, None, document_BT), None

    # Parameters are gathered again on the way back: kept, those of all blocks would be whole on every device.
    policy = None if remat else jax.checkpoint_policies.save_anything_except_these_names("gathered")
    call = jax.checkpoint(call, prevent_cse=False, policy=policy)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *collections)
    return jax.lax.scan(call, x_BTD, stacked)[0]
