"""Blocks computed again on the way back: the same numbers, in less memory."""

import dataclasses

import jax

from jaxloss import linear_next_token_loss
from jaxloss.model5 import Model5
from parity_tests.compare import assert_within
from parity_tests.model5.pairs import TINY, jax_params, tokens
from parity_tests.quick_compilation import OPTIONS


def test_remat_changes_memory_and_no_number_with_dropout_on():
    config = dataclasses.replace(TINY, num_blocks=3)
    ids, targets = tokens(config)
    params = jax_params("float64", config=config)

    def program(remat):
        def loss(params):
            options = {"deterministic": False, "rngs": {"dropout": jax.random.key(1)}, "method": "hidden"}
            hidden = Model5(config, remat=remat).apply({"params": params}, ids, **options)
            return linear_next_token_loss(hidden, params["wte"]["embedding"], targets)

        # With the barriers that a training step keeps, or XLA for CPU would find what it computes twice.
        options = OPTIONS | {"xla_disable_hlo_passes": "cse_barrier_expander"}
        return jax.jit(jax.value_and_grad(loss)).lower(params).compile(compiler_options=options)

    kept, again = program(False), program(True)
    for a, b in zip(*map(jax.tree.leaves, (again(params), kept(params))), strict=True):
        assert_within(a, b, 64, "float64")
    bytes_kept, bytes_again = (p.memory_analysis().temp_size_in_bytes for p in (kept, again))
    assert bytes_again < 0.75 * bytes_kept
