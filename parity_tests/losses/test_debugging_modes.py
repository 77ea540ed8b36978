"""JAX's debug_nans and debug_infs find nothing in rows that take no part.

Outside `jit` they look at the result of every operation, whether it is used or not. That they find nothing in
ordinary rows either is tested in `test_public.py`.
"""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss
from parity_tests.cases import CASES, NOT_LOSSES

OUT_OF_RANGE = 10**6
OPTIONS = {
    name: set(inspect.signature(getattr(jaxloss, name)).parameters)
    for name in CASES.keys() - NOT_LOSSES.keys()
    if not name.startswith("make_")
}


def _mask(name, loss, arguments):
    """False for the last row or element."""
    if name in ("final_token_loss", "next_token_loss"):
        mask = np.ones(arguments[1].shape, bool)
        mask[-1] = False
        return mask
    shape = arguments[0].shape
    if "reduction" in OPTIONS[name] and name != "correlation_loss":
        unreduced = ["none" if isinstance(a, str) else a for a in arguments]
        options = {} if "none" in unreduced else {"reduction": "none"}
        shape = jax.eval_shape(lambda: loss(*unreduced, **options)).shape
    elif name.startswith("linear_"):
        shape = shape[:-1]
    mask = np.ones(shape, bool)
    mask.reshape(-1)[-1] = False
    return mask


def _labels(labels, mask, *, is_first_ignored):
    if labels.shape[: mask.ndim] != mask.shape:
        return labels
    labels = np.where(mask.reshape(mask.shape + (1,) * (labels.ndim - mask.ndim)), labels, OUT_OF_RANGE)
    if is_first_ignored:
        labels.reshape(-1)[0] = -100
    return jnp.asarray(labels)


@pytest.mark.parametrize("name", sorted(name for name, options in OPTIONS.items() if "where" in options))
def test_rows_that_take_no_part_make_no_nan_and_no_infinity(name):
    sample = CASES[name][0]
    loss, arguments = sample.loss(name, jaxloss), sample.arguments("float32")
    mask = _mask(name, loss, arguments)
    is_first_ignored = "ignore_index" in OPTIONS[name]
    arguments = [
        _labels(a, mask, is_first_ignored=is_first_ignored)
        if isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jnp.integer)
        else a
        for a in arguments
    ]
    floats = [
        i
        for i, a in enumerate(arguments)
        if isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jnp.floating)
    ]

    def of_floats(*given):
        filled = dict(zip(floats, given, strict=True))
        return jnp.sum(loss(*(filled.get(i, a) for i, a in enumerate(arguments)), where=jnp.asarray(mask)))

    with jax.debug_nans(True), jax.debug_infs(True):
        value, gradients = jax.value_and_grad(of_floats, tuple(range(len(floats))))(
            *(arguments[i] for i in floats)
        )
    assert all(np.all(np.isfinite(a)) for a in (value, *gradients))
