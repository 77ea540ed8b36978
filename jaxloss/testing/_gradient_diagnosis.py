"""Name the likely cause where values agree and gradients do not.

Nothing is run again: the two gradients, the cotangents and the inputs say enough.
"""

from typing import Any

import numpy as np

from jaxloss.testing._run import Arrays, Leaves
from jaxloss.testing.factors import close, common_factor, explain_factor, number
from jaxloss.testing.measure import EPS


def gradient_cause(
    name: str, ours: np.ndarray, theirs: np.ndarray, cotangents: Arrays, inputs: tuple[Any, ...], dtype: str
) -> str | None:
    """The likely cause, in words; None when no known trap fits.

    Args:
        name: "gradient of input 0" or the like.
        ours: JAX's gradient.
        theirs: torch's.
        cotangents: that it was pulled back from.
        inputs: of both functions.
        dtype: that both were computed in.
    """
    what = f"the values agree, but the {name}"
    if not np.any(ours):
        return f"{what} is 0 in JAX: a stop_gradient, a rounding or an integer cast on the way"
    if not np.any(theirs):
        return f"{what} is 0 in torch: a detach(), .item() or no_grad() on the way"
    incoming = list(cotangents.values())
    fits = len(incoming) == 1 and incoming[0].shape in ((), ours.shape)
    if fits and close(ours * incoming[0], theirs, dtype):
        return f"{what} ignores the incoming cotangent: a custom gradient must multiply by it"
    factor = common_factor({name: ours}, {name: theirs}, dtype)
    if factor is not None:
        words = explain_factor(factor, inputs, dtype) or f"JAX is {number(factor)} times torch"
        return f"{what} is off by a factor: {words}"
    return _at_kinks(name, ours, theirs, inputs, dtype, what)


def _at_kinks(
    name: str, ours: np.ndarray, theirs: np.ndarray, inputs: tuple[Any, ...], dtype: str, what: str
) -> str | None:
    arrays = Leaves.of(inputs).arrays()
    array = arrays.get(name.removeprefix("gradient of "))
    largest = float(np.max(np.abs(theirs[np.isfinite(theirs)]), initial=0.0))
    apart = ~(np.abs(ours - theirs) <= 64 * EPS[dtype] * largest)
    if array is None or apart.all() or array.shape != apart.shape:
        return None
    at_kink = array == 0
    for other in arrays.values():
        if other is not array and other.shape == array.shape:
            at_kink |= array == other
    if array.ndim:
        at_kink |= (array == array.max(-1, keepdims=True)) | (array == array.min(-1, keepdims=True))
    where = f"{what} differs at {int(apart.sum())} of {apart.size} entries"
    if at_kink[apart].all():
        return f"{where}, all at zeros or ties: another subgradient is chosen at the kink"
    return f"{where} and agrees elsewhere: a branch or a mask treats these apart"
